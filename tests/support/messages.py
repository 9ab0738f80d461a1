"""What a message has to name: file, row, key, value. Its wording is free."""

from __future__ import annotations

import re


def naming(*parts: object) -> str:
    """A pattern for ``re.search`` and ``match=``: the text has every part, in any order, as a whole word or path.

    ``naming("rows.jsonl", "row 2", "run.steps")`` finds none of ``my_rows.jsonl``, ``row 20`` and ``run.steps.first``.
    """
    return "(?s)" + "".join(f"(?=.*{_whole(str(part))})" for part in parts)


def _whole(part: str) -> str:
    before = r"(?<![\w.])(?<!\w-)" if re.match(r"\w", part) else ""
    after = r"(?!\w|[.-]\w)" if re.search(r"\w$", part) else ""
    return before + re.escape(part) + after


def lines_naming(text: str, *parts: object) -> list[str]:
    """The lines of a log or of what a command said that name every part."""
    return [line for line in text.splitlines() if re.search(naming(*parts), line)]
