"""Prompts -> requests: the tokens and the pixels that the update sees, dealt to the servers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from gpg_vl.models.adapter import Adapter
from gpg_vl.records import Encoded, ImageView, Prompt, VideoView
from gpg_vl.rollout.served.messages import MOST_PROMPTS, AskedPrompt, Picture, Request

BYTES_PER_REQUEST = 2**26
"""Pixels that one request carries; a single prompt may have more."""


def ask_prompt(adapter: Adapter, prompt: Prompt, seed: tuple[object, ...]) -> AskedPrompt:
    """
    Raises:
        ValueError: the engine cannot be shown what the model sees
    """
    encoded = prompt.encoded
    refuse_media(adapter, prompt.sample.id, prompt.views)
    counts = adapter.count_image_tokens(prompt.views) if prompt.views else []
    pictures = tuple(Picture(image.width, image.height, image.convert("RGB").tobytes()) for image in prompt.pictures)
    assert len(pictures) == len(prompt.views), "the prompts of this engine keep their pictures"
    digest = hashlib.blake2b(repr(seed).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big") >> 2  # room for the numbers of the completions, which are added to it
    return AskedPrompt(encoded.token_ids, _image_runs(encoded, counts, prompt.sample.id), pictures, number)


def refuse_media(adapter: Adapter, sample_id: str, views: Sequence[ImageView]) -> None:
    """
    Raises:
        ValueError: the engine cannot be shown images or videos of a sample
    """
    where = f"rollout.engine: vllm: sample {sample_id}"
    if any(isinstance(view, VideoView) for view in views):
        raise ValueError(f"{where} has a video, which this engine is not given; set rollout.engine to hf")
    if views and not adapter.takes_sized_images:
        raise ValueError(
            f"{where} has an image, and a {adapter.model.config.model_type} model cuts or pads images itself; set "
            "rollout.engine to hf"
        )


def _image_runs(encoded: Encoded, counts: Sequence[int], sample: str) -> tuple[tuple[int, int], ...]:
    """Where each image's tokens are: its first one, and their number."""
    places = [place for place, kind in enumerate(encoded.token_types) if kind]
    runs, taken = [], 0
    for count in counts:
        run = places[taken : taken + count]
        is_run = len(run) == count > 0 and run[-1] - run[0] == count - 1
        if not is_run or len({encoded.token_ids[place] for place in run}) > 1:
            raise ValueError(f"rollout.engine: vllm: the images of sample {sample} are not runs of one token; use hf")
        runs.append((run[0], count))
        taken += count
    assert taken == len(places), f"{len(places)} image tokens for images of {taken}"
    return tuple(runs)


def deal(request: Request, num_servers: int) -> list[Request]:
    """Parts of a request, in order: at least one for each server, none of too many bytes."""
    prompts = request.prompts
    size = -(-len(prompts) // num_servers)
    shares = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return [replace(request, prompts=part) for share in shares for part in _small_parts(share)]


def _small_parts(prompts: Sequence[AskedPrompt]) -> Iterator[tuple[AskedPrompt, ...]]:
    cuts, room = [0], BYTES_PER_REQUEST
    for place, prompt in enumerate(prompts):
        size = sum(len(picture.rgb) for picture in prompt.pictures)
        if place > cuts[-1] and (size > room or place - cuts[-1] >= MOST_PROMPTS):
            cuts.append(place)
            room = BYTES_PER_REQUEST
        room -= size
    for start, end in pairwise([*cuts, len(prompts)]):
        yield tuple(prompts[start:end])
