"""A wrong option is one line of an error, not a usage text and the end of the process."""

from __future__ import annotations

import pytest

from gpg_vl.processes.command_line import OneLineParser, ScriptParser
from tests.support.messages import naming


@pytest.mark.parametrize(("words", "named"), [(["--limit", "x"], "--limit"), ([], "--out"), (["--other"], "--out")])
def test_a_mistake_is_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser(prog="python -m data_tools.demo")
    parser.add_argument("--out", required=True)
    parser.add_argument("--limit", type=int)
    with pytest.raises(ValueError, match=naming(named, "--help")) as raised:
        parser.parse_args(words)
    assert len(str(raised.value).splitlines()) == 1
    assert capsys.readouterr() == ("", "")


def test_a_script_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ScriptParser(prog="scripts/demo.py")
    parser.add_argument("--limit", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--limit", "x"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("scripts/demo.py: ") and "--limit" in err
