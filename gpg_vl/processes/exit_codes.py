"""How a command ends: 0 done, 2 a user's mistake, 1 a disk error, 128 plus the number of a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable

from gpg_vl.errors import describe_error_of_files, first_line, is_out_of_memory
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.quiet import quiet_libraries
from gpg_vl.screen import open_closed_streams, printable, say


def run_command(name: str, work: Callable[[], None], debug: bool = False) -> int:
    """The exit code of ``work``; an error that the user can fix prints one line to standard error.

    Args:
        name: start of the line
        debug: raise the error instead of printing the line, and let the libraries say all they say
    """
    open_closed_streams()
    if not debug:
        quiet_libraries()
    try:
        work()
    except (ValueError, OSError) as error:  # OSError: the disk is full, or gone
        if debug:
            raise
        say(f"{name}: {printable(describe_error_of_files(error))}")
        return 2 if isinstance(error, ValueError) else 1
    except (RuntimeError, MemoryError) as error:
        if debug or not is_out_of_memory(error):
            raise
        keys = "rollout.tokens_per_batch, update.tokens_per_micro_batch or model.max_pixels"
        say(f"{name}: out of memory ({printable(first_line(error))}); lower {keys}")
        return 1
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:  # before or after the part that handles signals itself
        return 128 + signal.SIGINT
    except SystemExit as error:  # argparse's help, or code of the user's
        if not isinstance(error.code, str):
            return int(error.code or 0)
        say(f"{name}: {printable(error.code)}")
        return 2
    return 0
