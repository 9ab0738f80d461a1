"""A list of messages, as chat data has it -> one question, with its system message and its answer.

Messages are ``{"role": ..., "content": ...}`` (TRL, verl, ms-swift) or ``{"from": ..., "value": ...}`` (LLaVA), or a
mixture; content is text or a list of parts. A row asks one question, so a conversation of several questions is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.data.media_markers import IMAGE_MARKER, VIDEO_MARKER

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
_IMAGE_KEYS = ("image", "image_url", "url", "path", "bytes", "base64")
_VIDEO_KEYS = ("video", "video_url")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a list of messages says."""

    question: str  # of the user's message; a marker where a part was an image or a video
    images: tuple[Any, ...] = ()  # those that are inside parts, as they are written there
    system: str = ""
    answer: str | None = None  # of the assistant's message
    videos: tuple[Any, ...] = ()  # of the parts that are videos; None where a part does not say which


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str
    images: tuple[Any, ...]
    videos: tuple[Any, ...]


def is_conversation(value: Any) -> bool:
    """Whether a value is a message or a list of them."""
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list) or not messages:
        return False
    return all(isinstance(each, Mapping) and _form(each) is not None for each in messages)


def refuse_half_messages(value: Any) -> None:
    """Refuses a list of messages of which one is not whole, or that is empty.

    Raises:
        ValueError: names the message, and what it lacks
    """
    if value == []:
        raise ValueError("the question has no messages; write one of the user, and one answer")
    for number, each in enumerate(value if isinstance(value, list) else [], start=1):
        if not isinstance(each, Mapping) or not each.keys() & {*_ROLE_KEYS, *_CONTENT_KEYS} or _form(each) is not None:
            continue
        lacking = "role" if _filled(each, _ROLE_KEYS) is None else "content"
        raise ValueError(f"message {number} of the question has no {lacking}; write its role and its content")


def parse_conversation(text: str) -> Any:
    """The messages that a text holds as JSON, as a column of a CSV file does; another text as it is.

    Raises:
        ValueError: it begins as messages do, and is not JSON
    """
    if not _MESSAGES.match(text):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("a text begins as a list of messages, but is not JSON; write it as JSON") from error
    return value if is_conversation(value) else text


def read_conversation(value: Any) -> Conversation:
    """The one question of a list of messages.

    Raises:
        ValueError: there is no question, or there are several; or a part is neither text nor an image
    """
    messages = [_read_message(each) for each in ([value] if isinstance(value, Mapping) else value)]
    turns = [each for each in messages if each.role != "system"]
    asked = [each for each in turns if each.role == "user"]
    if len(asked) != 1 or turns[0].role != "user" or len(turns) > 2:
        roles = ", ".join(each.role for each in turns[:6]) or "none"
        raise ValueError(f"the question has {len(turns)} messages ({roles}); write one of the user, and one answer")
    answer = turns[1].text if len(turns) == 2 else None
    system = "\n".join(each.text for each in messages if each.role == "system" and each.text)
    if any(each.images or each.videos for each in messages if each.role != "user"):
        raise ValueError("an image or video is in a message that is not the user's; put it into the question")
    return Conversation(asked[0].text, asked[0].images, system, answer, asked[0].videos)


def read_last_answer(value: Any) -> str:
    """The text of the last message of a list, which must be the assistant's: TRL's ``completion``.

    Raises:
        ValueError: it is another's
    """
    last = _read_message(value if isinstance(value, Mapping) else value[-1])
    if last.role != "assistant":
        raise ValueError(f"the answer is messages, the last of them by the {last.role}; end with the assistant's")
    return last.text


def _form(message: Mapping[str, Any]) -> tuple[str, str] | None:
    role, content = _filled(message, _ROLE_KEYS), _filled(message, _CONTENT_KEYS)
    return None if role is None or content is None else (role, content)


def _filled(message: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if message.get(key) is not None), None)


def _read_message(message: Mapping[str, Any]) -> _Message:
    role_key, content_key = _form(message) or ("role", "content")
    role = _ROLES.get(str(message[role_key]).lower())
    if role is None:
        raise ValueError(f"the question has a message by {str(message[role_key])[:20]!r}; known: {list(_ROLES)}")
    content = message[content_key]
    parts = [_read_part(part) for part in ([content] if isinstance(content, str) else _as_list(content))]
    shown = {
        marker: tuple(each for text, found in parts for each in found if text == marker)
        for marker in (IMAGE_MARKER, VIDEO_MARKER)
    }
    return _Message(role, "".join(text for text, _ in parts), shown[IMAGE_MARKER], shown[VIDEO_MARKER])


def _as_list(content: Any) -> Sequence[Any]:
    if isinstance(content, Mapping):
        return [content]
    if not isinstance(content, list):
        raise ValueError(f"the question has a message of type {type(content).__name__}; write text or a list of parts")
    return content


def _read_part(part: Any) -> tuple[str, tuple[Any, ...]]:
    """The text of a part and the images or videos in it."""
    if isinstance(part, str):
        return part, ()
    if not isinstance(part, Mapping):
        raise ValueError(f"the question has a part of type {type(part).__name__}; write text and images")
    filled = {key: value for key, value in part.items() if value is not None}  # columns of a table have every key
    kind = filled.get("type") or next((key for key in ("text", *_VIDEO_KEYS, *_IMAGE_KEYS) if key in filled), "empty")
    if kind in ("text", "input_text", "output_text") and isinstance(filled.get("text"), str):
        return filled["text"], ()
    if kind in (*_IMAGE_KEYS, "input_image"):
        return IMAGE_MARKER, tuple(filled[key] for key in _IMAGE_KEYS if key in filled)[:1]
    if kind in _VIDEO_KEYS:
        return VIDEO_MARKER, (next((filled[key] for key in (*_VIDEO_KEYS, "url", "path") if key in filled), None),)
    raise ValueError(f"the question has a part of type {str(kind)[:20]!r}; write text, images and videos")
