"""What a run and its rollout servers say to each other: JSON that both sides check field by field. Data is never code.

An image goes as its pixels, so no server decodes a file. A weight version goes with every request and every answer.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.served.fields import BadMessage, Fields

PROTOCOL = 1
VERSION = re.compile(r"[0-9a-f]{16}-[0-9]{8}")
"""A weight version: 16 random digits of the run, and how often it has published weights."""
MOST_PROMPTS = 4096
MOST_TOKENS = 2**22
MOST_IMAGES = 1024
MOST_COMPLETIONS = 4096
_MOST_ID = 2**31 - 1
_ROUNDING = 1e-3  # a log-prob of nearly 0 may be rounded to above it


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in the size at which the model sees it."""

    width: int
    height: int
    rgb: bytes  # 3 for each pixel, row by row from the top


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    token_ids: tuple[int, ...]  # [P] as the update has them
    runs: tuple[tuple[int, int], ...]  # of each image, [N]: the place of its first token, and the number of its tokens
    pictures: tuple[Picture, ...]  # N
    seed: int

    @property
    def short_token_ids(self) -> list[int]:
        """The prompt with a single token for each image."""
        short: list[int] = []
        start = 0
        for first, count in self.runs:
            short += self.token_ids[start : first + 1]
            start = first + count
        return short + list(self.token_ids[start:])


@dataclass(frozen=True, slots=True)
class Request:
    """``group_size`` completions of each prompt, under the weights of a version."""

    version: str
    prompts: tuple[AskedPrompt, ...]
    group_size: int
    sampling: Sampling
    end_token_ids: tuple[int, ...]
    banned_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnsweredCompletion:
    token_ids: tuple[int, ...]  # [T], the last one an end token unless it was cut off
    log_probs: tuple[float, ...]  # [T] under the distribution sampled from, bans and temperature included


@dataclass(frozen=True, slots=True)
class AnsweredGroup:
    num_prompt_tokens: int  # as the engine counted them, its own image tokens included
    completions: tuple[AnsweredCompletion, ...]


def write_request(request: Request) -> bytes:
    plain = {"protocol": PROTOCOL, **asdict(request)}
    for prompt in plain["prompts"]:
        for picture in prompt["pictures"]:
            picture["rgb"] = base64.b64encode(picture["rgb"]).decode("ascii")
    return json.dumps(plain).encode()


def read_request(body: bytes) -> Request:
    """
    Raises:
        BadMessage: it is not what ``write_request`` writes
    """
    fields = Fields.of_message(body, PROTOCOL)
    prompts = fields.items("prompts", MOST_PROMPTS)
    return Request(
        fields.matching("version", VERSION),
        tuple(_read_prompt(Fields(each, f"prompts[{n}]")) for n, each in enumerate(prompts)),
        fields.whole("group_size", 1, MOST_COMPLETIONS),
        _read_sampling(fields.inner("sampling")),
        fields.wholes("end_token_ids", 0, _MOST_ID, MOST_TOKENS),
        fields.wholes("banned_token_ids", 0, _MOST_ID, MOST_TOKENS),
    )


def _read_sampling(fields: Fields) -> Sampling:
    return Sampling(
        fields.whole("max_new_tokens", 1, MOST_TOKENS),
        fields.number("temperature", 0.0, 1e6),
        fields.number("top_p", 1e-9, 1.0),
        fields.whole("top_k", 0, _MOST_ID),
    )


def _read_prompt(fields: Fields) -> AskedPrompt:
    token_ids = fields.wholes("token_ids", 0, _MOST_ID, MOST_TOKENS)
    pictures = fields.items("pictures", MOST_IMAGES)
    runs = [_read_run(each, len(token_ids)) for each in fields.items("runs", MOST_IMAGES)]
    if not token_ids or len(runs) != len(pictures):
        raise BadMessage(f"{fields.where}: {len(token_ids)} tokens, {len(runs)} runs and {len(pictures)} pictures")
    ends = [0, *(first + count for first, count in runs)]
    if any(first < end for (first, _), end in zip(runs, ends, strict=False)) or ends[-1] > len(token_ids):
        raise BadMessage(f"{fields.where}.runs overlap, or reach beyond the prompt")
    read = tuple(_read_picture(Fields(each, f"{fields.where}.pictures[{n}]")) for n, each in enumerate(pictures))
    return AskedPrompt(token_ids, tuple(runs), read, fields.whole("seed", 0, 2**62))


def _read_run(plain: Any, num_tokens: int) -> tuple[int, int]:
    first, count = Fields({"run": plain}, "runs").wholes("run", 0, num_tokens, 2, least=2)
    if count < 1:
        raise BadMessage("runs: an image has at least one token")
    return first, count


def _read_picture(fields: Fields) -> Picture:
    width, height = (fields.whole(name, 1, 2**16) for name in ("width", "height"))
    try:
        rgb = base64.b64decode(fields.text("rgb"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadMessage(f"{fields.where}.rgb is not base64") from error
    if len(rgb) != 3 * width * height:
        raise BadMessage(f"{fields.where}.rgb has {len(rgb)} bytes for {width} x {height} pixels")
    return Picture(width, height, rgb)


def write_answer(version: str, groups: Sequence[AnsweredGroup]) -> bytes:
    plain = {"protocol": PROTOCOL, "version": version, "groups": [asdict(group) for group in groups]}
    return json.dumps(plain).encode()


def read_answer(body: bytes, request: Request, vocab_size: int) -> list[AnsweredGroup]:
    """
    Args:
        vocab_size: rows of the model's head

    Raises:
        BadMessage: it is no complete answer to the request
    """
    fields = Fields.of_message(body, PROTOCOL)
    if fields.matching("version", VERSION) != request.version:
        raise BadMessage("the answer is from other weights than those asked for")
    groups = fields.items("groups", MOST_PROMPTS)
    if len(groups) != len(request.prompts):
        raise BadMessage(f"{len(groups)} groups for {len(request.prompts)} prompts")
    pairs = enumerate(zip(groups, request.prompts, strict=True))
    return [_read_group(Fields(each, f"groups[{n}]"), prompt, request, vocab_size) for n, (each, prompt) in pairs]


def _read_group(fields: Fields, prompt: AskedPrompt, request: Request, vocab_size: int) -> AnsweredGroup:
    num_tokens = fields.whole("num_prompt_tokens", 1, MOST_TOKENS)
    if num_tokens != len(prompt.token_ids):
        raise BadMessage(
            f"{fields.where}: the server's prompt has {num_tokens} tokens and the run's {len(prompt.token_ids)}"
        )
    completions = fields.items("completions", MOST_COMPLETIONS)
    if len(completions) != request.group_size:
        raise BadMessage(f"{fields.where}: {len(completions)} completions instead of {request.group_size}")
    read = [
        _read_completion(Fields(each, f"{fields.where}.completions[{n}]"), request, vocab_size)
        for n, each in enumerate(completions)
    ]
    return AnsweredGroup(num_tokens, tuple(read))


def _read_completion(fields: Fields, request: Request, vocab_size: int) -> AnsweredCompletion:
    token_ids = fields.wholes("token_ids", 0, vocab_size - 1, request.sampling.max_new_tokens, least=1)
    log_probs = fields.numbers("log_probs", -1e30, _ROUNDING, len(token_ids), least=len(token_ids))
    _check_end(fields.where, token_ids, request)
    if banned := set(token_ids) & set(request.banned_token_ids):
        raise BadMessage(f"{fields.where} has the banned token {min(banned)}")
    return AnsweredCompletion(token_ids, tuple(min(value, 0.0) for value in log_probs))


def _check_end(where: str, token_ids: Sequence[int], request: Request) -> None:
    ends: Collection[int] = request.end_token_ids
    if any(token in ends for token in token_ids[:-1]):
        raise BadMessage(f"{where} goes on after an end token")
    if token_ids[-1] not in ends and len(token_ids) < request.sampling.max_new_tokens:
        raise BadMessage(f"{where} stops after {len(token_ids)} tokens without an end token")
