"""clevr_cogen_a_train, or the 200 SuperCLEVR test questions with their images -> rows of the task counting.

    python -m data_tools.clevr --source leonardPKU/clevr_cogen_a_train --out data/clevr/train.parquet
    python -m data_tools.clevr --source superclevr_test200_counting_problems.jsonl --images images.zip \\
        --out data/clevr/test.parquet
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_tools.r1v import R1VSet

CLEVR = R1VSet("clevr", "counting", "leonardPKU/clevr_cogen_a_train", __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    return CLEVR.run(argv)


if __name__ == "__main__":
    sys.exit(main())
