"""How a command ends: 0 done, 2 a user's mistake, 1 a disk or a library fails, 128 plus the number of a signal."""

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
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:  # before or after the part that handles signals itself
        return 128 + signal.SIGINT
    except SystemExit as error:  # argparse's help, or code of the user's
        if not isinstance(error.code, str):
            return int(error.code or 0)
        say(f"{name}: {printable(error.code)}")
        return 2
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        line = _explain(error)
        if debug or line is None:
            raise
        say(f"{name}: {printable(line)}")
        return 2 if isinstance(error, ValueError) else 1
    return 0


def _explain(error: Exception) -> str | None:
    """The line for an error that has a way out, None for one that has to be looked into."""
    if isinstance(error, ValueError | OSError):  # OSError: the disk is full, or gone
        return describe_error_of_files(error)
    if isinstance(error, ImportError):
        way_out = "install it again, or raise the limit of memory (ulimit -v)"
        return f"a library could not be loaded ({first_line(error)}); {way_out}"
    if is_out_of_memory(error):
        keys = "rollout.tokens_per_batch, update.tokens_per_micro_batch or model.max_pixels"
        return f"out of memory ({first_line(error)}); lower {keys}"
    return None
