"""Lines on a screen: cleaned, and never the end of a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from gpg_vl.screen import printable, printable_lines, say, tell
from tests.support.clock import takes_less_than

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u200b\x00\x7f\r"


def test_codes_that_never_end_take_no_time() -> None:
    def clean() -> None:
        for piece in ("\x9d", "\x1b]", "\x9b", "\x1b[", "\x1b[0;", "\x9b1;"):
            assert printable(piece * 60_000).strip(" [];01") == ""

    assert takes_less_than(2, clean)


def test_control_characters_and_marks_of_direction_do_not_reach_a_terminal() -> None:
    assert all(char.isprintable() for char in printable(HOSTILE))
    assert printable("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x9b2Jend") == "red link end", (
        "whole codes go"
    )
    assert printable("\x1b]0;never ended") == " ]0;never ended", "which must not hide what follows"
    assert printable("ein Ausrufezeichen! 12 µm, 图") == "ein Ausrufezeichen! 12 µm, 图"
    assert printable("a\nb\tc") == "a b c"
    assert printable_lines(f"a{HOSTILE}\nb") == printable(f"a{HOSTILE}") + "\nb"


def test_lines_are_cleaned_wherever_they_go(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"to err {HOSTILE}")
    tell(f"to out {HOSTILE}")
    said = capsys.readouterr()
    for text, start in ((said.err, "to err"), (said.out, "to out")):
        assert text.startswith(start) and text.endswith("\n")
        assert all(char.isprintable() for char in text[:-1])


CLOSED = """
import os, sys
from gpg_vl.screen import say, tell
for name in sys.argv[1:]:
    getattr(sys, name).flush()
for _ in range(3):
    say("progress")
    tell("result")
os._exit(7) if os.environ.get("HARD") else sys.exit(7)
"""


@pytest.mark.parametrize("closed", ["stderr", "stdout"])
def test_a_closed_pipe_ends_nothing(closed: str) -> None:
    """Neither at the line nor when Python ends, where it would flush again."""
    read, write = os.pipe()
    os.close(read)
    streams: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, closed: write}
    ran = subprocess.run([sys.executable, "-c", CLOSED], **streams, check=False, timeout=60)
    os.close(write)
    assert ran.returncode == 7
    assert (ran.stdout if closed == "stderr" else ran.stderr).count(b"\n") == 3


def test_streams_that_were_closed_from_the_start_are_nobodys() -> None:
    """``2>&-``: the next file that is opened would be standard error, and get what is meant for it."""
    code = (
        "import os, sys; from gpg_vl.screen import open_closed_streams, say, tell\n"
        "open_closed_streams(); file = open(os.devnull); say('a'); tell('b'); os._exit(file.fileno())"
    )
    for closing in ("2>&-", ">&-", "<&-", "<&- >&- 2>&-"):
        ran = subprocess.run(f'{sys.executable} -c "{code}" {closing}', shell=True, check=False, timeout=60)
        assert ran.returncode >= 3, closing


class Full:
    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        pass


def test_a_full_disk_loses_lines_but_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Full())
    say("progress")
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OSError, match="No space"):
        tell("result")


def test_a_stream_that_has_no_such_letters_gets_their_numbers() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", "from gpg_vl.screen import tell; tell('µ图')"]
    ran = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert ran.stdout == b"\\xb5\\u56fe\n"
