"""The report as one HTML file that loads nothing: style, script, data and pictures are in it.

What models and rows wrote is data in it, never markup: it stands in a JSON block without angle brackets, the script
makes text nodes of it, and the page's security policy runs no script and no style but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import jinja2

from gpg_vl.report.notes import make_notes
from gpg_vl.report.run_data import RunData
from gpg_vl.report.verdicts import make_verdicts

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)
MAX_TEXT = 20_000
"""Characters of one text on the page; of a longer one, its beginning and its end."""


def render_page(runs: Sequence[RunData], title: str) -> str:
    """The page of one run, or of several that are compared."""
    style, script = _asset("page.css"), _asset("page.js")
    images = {name: uri for run in runs for name, uri in run.images.items()}
    shown = [{**asdict(run), "images": None, "verdicts": make_verdicts(run), "notes": make_notes(run)} for run in runs]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_asset("page.html.jinja")).render(
        title=_plain(title),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        data=_to_json({"runs": shown, "images": images}),
    )


def _asset(name: str) -> str:
    return files("gpg_vl.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a Content-Security-Policy names a script or a style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _to_json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(_clean(value), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:image/") else _plain(value)
    if isinstance(value, Mapping):
        return {str(name): _clean(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def _plain(text: str) -> str:
    """Without characters that hide, turn or end text; a text of megabytes is cut."""
    if len(text) > MAX_TEXT:
        left_out = len(text) - MAX_TEXT
        text = f"{text[: MAX_TEXT // 2]} ... [{left_out} characters left out] ... {text[-MAX_TEXT // 2 :]}"
    return _UNPRINTABLE.sub("\ufffd", text)
