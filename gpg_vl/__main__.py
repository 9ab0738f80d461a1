"""``python -m gpg_vl`` is the command ``gpg-vl``."""

import sys

from gpg_vl.cli import main

sys.exit(main())
