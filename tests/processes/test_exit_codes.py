"""The exit code of a command and its one line."""

from __future__ import annotations

import signal

import pytest

from gpg_vl.processes.exit_codes import run_command
from gpg_vl.processes.interrupts import Interrupted
from tests.support.messages import lines_naming


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("no rows"), 2, "name: no rows\n"),
        (OSError(28, "No space left on device"), 1, "name: [Errno 28] No space left on device\n"),
        (OSError(28, "No space left", "a"), 1, "name: a: No space left; free space, or choose another place\n"),
        (OSError(13, "Permission denied", "a"), 1, "name: a: Permission denied\n"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            1,
            "name: a library could not be loaded (libtorch_cpu.so: failed to map segment from shared object); "
            "install it again, or raise the limit of memory (ulimit -v)\n",
        ),
        (Interrupted(signal.SIGTERM), 143, ""),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(2), 2, ""),
        (ValueError("row \x1b[2J\u202e3"), 2, "name: row  3\n"),
        (SystemExit(None), 0, ""),
        (SystemExit("not today"), 2, "name: not today\n"),
    ],
)
def test_exit_code(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert run_command("name", fail) == code
    assert capsys.readouterr().err == line
    assert run_command("name", lambda: None) == 0


def test_other_errors_and_those_to_look_into_are_raised() -> None:
    def fail() -> None:
        raise ValueError("no rows")

    with pytest.raises(ValueError, match="no rows"):
        run_command("name", fail, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_command("name", lambda: print(1 / 0))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCompile with ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=str,
)
def test_memory_that_runs_out_is_one_line_with_the_keys(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run_command("name", fail) == 1
    said = capsys.readouterr().err
    assert lines_naming(said, "rollout.tokens_per_batch", "model.max_pixels") == said.splitlines()
    with pytest.raises(type(error)):
        run_command("name", fail, debug=True)
