"""Fields as the published data sets write them: images in the row, a question, a tagged solution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpg_vl.verifiers.answers import strip_answer_tags


def read_image(value: Any) -> bytes:
    """The bytes of an image of a Parquet row: an Image feature, or a column of bytes.

    Raises:
        ValueError: there are none
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise ValueError(f"the image is a {type(content).__name__}, not the bytes of a file")
    return content


def read_string(values: Mapping[str, Any], name: str) -> str:
    """A column of text, without white space around.

    Raises:
        ValueError: it is no text or empty; names the column
    """
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {str(value)[:40]!r}, not text")
    return value.strip()


def read_list(values: Mapping[str, Any], name: str) -> list[str]:
    """A column of a list of texts.

    Raises:
        ValueError: it is no list or empty; names the column
    """
    value = values.get(name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {str(value)[:40]!r}, not a list of texts")
    return [str(text) for text in value]


def read_solution(values: Mapping[str, Any], name: str = "solution") -> str:
    """The text between the tags of ``<answer> 145° </answer>``.

    Raises:
        ValueError: there is none
    """
    answer = strip_answer_tags(read_string(values, name))
    if not answer:
        raise ValueError(f"{name} holds no answer")
    return answer
