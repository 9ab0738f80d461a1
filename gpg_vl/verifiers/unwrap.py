r"""Removes what surrounds an answer, one wrapper at a time: bold, quotes, dollars, ``\boxed{}``, a code fence.

First each glyph gets one spelling: full-width letters, digits and marks, spaces, minus signs and quotes.
Digits of other scripts stay as they are and are refused: models do not write them where they are asked for a number,
several look like another Latin digit (the Arabic five like a zero), and most readers of a log could not check the
reward. An answer that mixes full-width and ASCII digits is refused for the same reason.

Every function returns for any text, in time linear in its length.
"""

from __future__ import annotations

import re

MAX_WRAPPERS = 8

_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if not 0xFF10 <= code <= 0xFF19}
_FULL_WIDTH_DIGITS = {code: chr(code - 0xFEE0) for code in range(0xFF10, 0xFF1A)}
_GLYPHS = {
    **_FULL_WIDTH,
    **dict.fromkeys(
        map(ord, "\u3000\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"), " "
    ),
    **dict.fromkeys(map(ord, "−﹣‐‑‒–—―－"), "-"),
    **dict.fromkeys(map(ord, "“”„‟「」『』"), '"'),
    **dict.fromkeys(map(ord, "‘’‚‛"), "'"),
    **dict.fromkeys(map(ord, "【〔［〖"), "["),
    **dict.fromkeys(map(ord, "】〕］〗"), "]"),
    **dict.fromkeys(map(ord, "∶：﹕"), ":"),
    ord("﹐"): ",",
    ord("｡"): "。",
}
_ASCII_DIGIT = re.compile(r"[0-9]")
_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    ("***", "***"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
    ("<b>", "</b>"),
    ("<strong>", "</strong>"),
)
_FIRST_CHARS = frozenset(opening[0] for opening, _ in _PAIRS)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textrm|textit|emph|mathrm|mathbf|mathit|mathbb|bm|boldsymbol)\s{0,8}\{"
)
_LOOKS = re.compile(r"\\(?:displaystyle|quad|qquad|[,;:! ])(?![A-Za-z])")
_FENCE_LANGUAGE = re.compile(r"(?:json|jsonc|python|text|plaintext|txt)\b|[A-Za-z][\w+-]{0,15}(?=\s*\n)", re.IGNORECASE)
_AFTER_WORDS = ",;:!、；"


def normalise_glyphs(text: str) -> str:
    """The text with one spelling for each glyph.

    >>> normalise_glyphs("（３０°）"), normalise_glyphs("−3")
    ('(30°)', '-3')
    """
    if text.isascii():
        return text
    text = text.translate(_GLYPHS)
    return text if _ASCII_DIGIT.search(text) else text.translate(_FULL_WIDTH_DIGITS)


def unwrap(text: str) -> str:
    r"""The content of the wrappers, without a final mark; at most 8 wrappers are removed.

    >>> unwrap(r"$\boxed{30^\circ}$."), unwrap("**Right**."), unwrap('"a" or "b"')
    ('30^\\circ', 'Right', '"a" or "b"')
    """
    return without_wrappers(normalise_glyphs(text))


def without_wrappers(text: str) -> str:
    """As ``unwrap``, of text with one spelling for each glyph."""
    text = text.strip()
    for _ in range(MAX_WRAPPERS):
        bare = drop_final_mark(text)
        inner = _unwrap_once(bare)
        if inner is None:
            return bare
        text = inner.strip()
    return drop_final_mark(text)


def drop_final_mark(text: str) -> str:
    """The text without one period at its end, and without another mark where a word or a closing bracket ends it."""
    last = text[-1:]
    if last in (".", "。"):
        return text if text.endswith(("..", "。。")) else text[:-1].rstrip()
    if last and last in _AFTER_WORDS and not text[-2:-1].isdigit() and text[-2:-1] not in ("", last):
        return text[:-1].rstrip()
    return text


def _unwrap_once(text: str) -> str | None:
    """The content of the outermost wrapper, None if there is none."""
    first = text[:1]
    if first == "`" and text.startswith("```"):
        return _inside_fence(text)
    if first == "\\" or text.endswith(("quad", "\\,", "\\;", "\\!")):
        inner = _inside_command(text)
        if inner is not None:
            return inner
    if first in _FIRST_CHARS:
        for opening, closing in _PAIRS:
            if text.startswith(opening):
                inner = _inside_pair(text, opening, closing)
                if inner is not None:
                    return inner
    return None


def _inside_pair(text: str, opening: str, closing: str) -> str | None:
    if not text.endswith(closing) or len(text) <= len(opening) + len(closing):
        return None
    inner = text[len(opening) : -len(closing)]
    return None if opening in inner or closing in inner else inner


def _inside_fence(text: str) -> str:
    """The content of a code fence, closed or not, without the language it names."""
    body = text[3:].rstrip().removesuffix("```")
    language = _FENCE_LANGUAGE.match(body)
    return body if language is None else body[language.end() :]


def _inside_command(text: str) -> str | None:
    spaced = _LOOKS.sub(" ", text).strip()
    if spaced != text:
        return spaced
    command = _COMMAND.match(text)
    if command is None or not text.endswith("}") or not _closes_at_end(text, command.end()):
        return None
    return text[command.end() : -1]


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the brace before ``start`` is the one that the last character closes."""
    depth = 1
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return start + match.end() == len(text)
    return False
