"""torchrun as a command that exits with the code of its processes, and prints one line if a process was killed.

``scripts/train.sh`` runs ``python -m gpg_vl.launch --nproc_per_node 2 -m gpg_vl train RECIPE``. When a process fails,
the others are ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from gpg_vl.processes.interrupts import INSISTING, WARNINGS
from gpg_vl.screen import say


def main(words: Sequence[str]) -> int:
    """
    Returns:
        the exit code of the first process that failed, or 128 plus the signal number if a signal ended it or this one
    """
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", ",".join(_passed_on()))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until torchrun handles signals: no traceback from its imports
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
        say(f"rank {rank} (process {failure.pid}) was ended by {name}; the run has ended")
        return 128 - int(failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _passed_on() -> list[str]:
    """Signals that torchrun sends on to its processes. What the caller ignores, as ``nohup`` does, stays ignored."""
    ends = (*INSISTING, *WARNINGS, signal.SIGQUIT)
    return [each.name for each in ends if signal.getsignal(each) != signal.SIG_IGN]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
