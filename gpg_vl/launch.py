"""torchrun as a command that ends as its processes did: with their exit code, and one line for one that was killed.

``python -m gpg_vl.launch --nproc_per_node 2 -m gpg_vl train RECIPE`` is what ``scripts/train.sh`` runs. The first
process that fails ends the others.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """
    Returns:
        the exit code of the first process that failed, and 128 plus the number of a signal that ended it or this one
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until torchrun takes signals up: no traceback of its imports
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(list(words)))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        print(f"rank {rank} (process {failure.pid}) was ended by {name}, and with it the run", file=sys.stderr)
        return 128 - int(failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
