"""A wrong option is one line of an error, not a usage text and the end of the process."""

from __future__ import annotations

import pytest

from gpg_vl.processes.command_line import OneLineParser
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
