"""What ``rollout.engine: vllm`` holds of a row, so that one it cannot take ends a run before its first step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpg_vl.config import RolloutConfig, VllmConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.ranks import run_on_main
from gpg_vl.records import ImageView
from gpg_vl.rollout.served.asking import refuse_media
from gpg_vl.rollout.served.client import ServerStatus
from gpg_vl.rollout.served.parity import Comparison
from gpg_vl.rollout.served.pool import ServerPool, find_servers


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Those of a server, or of the engines of all ranks."""

    context_length: int  # most tokens of prompt and completion together
    length_key: str  # what raises it
    max_images: int  # of a prompt
    images_key: str


class RowLimits:
    def __init__(self, adapter: Adapter, limits: Sequence[EngineLimits]):
        self._adapter = adapter
        self._limits = limits

    @property
    def lengths(self) -> dict[int, str]:
        """Most tokens of prompt and completion together -> what raises it, as ``prompts.length.Room`` has it."""
        keys: dict[int, list[str]] = {}
        for each in self._limits:
            keys.setdefault(each.context_length, []).append(each.length_key)
        return {length: f"raise {' and '.join(of_length)}" for length, of_length in keys.items()}

    def check(self, sample_id: str, views: Sequence[ImageView]) -> None:
        """
        Raises:
            ValueError: an engine cannot take these images or videos; says what to raise
        """
        refuse_media(self._adapter, sample_id, views)
        for each in self._limits:
            if len(views) > each.max_images:
                raise ValueError(
                    f"the prompt has {len(views)} images, more than the {each.max_images} of vllm; raise "
                    f"{each.images_key}"
                )


def find_limits(config: RolloutConfig, adapter: Adapter, *, of_all: bool) -> RowLimits | None:
    """The limits of ``rollout.engine``; None where it takes every row. All ranks together.

    Args:
        of_all: of every server, as images that are scaled down to fit must not depend on which one answers; False: of
            those that answer

    Raises:
        ValueError: the shared folder has no token, a server computes in another type, or one of all does not answer
    """
    if config.engine != "vllm":
        return None
    return RowLimits(adapter, run_on_main(lambda: _limits(config, adapter, of_all=of_all)))


def _limits(config: RolloutConfig, adapter: Adapter, *, of_all: bool) -> list[EngineLimits]:
    if config.vllm.mode == "colocate":
        length = config.vllm.max_model_len or adapter.context_length
        return [EngineLimits(length, "rollout.vllm.max_model_len", config.vllm.max_images, "rollout.vllm.max_images")]
    pool = find_servers(adapter, config.vllm, Comparison(adapter, config.vllm))
    servers = _ask_all(pool, config.vllm) if of_all else pool.check()
    return [
        EngineLimits(status.context_length, f"--max-model-len of {url}", status.max_images, f"--max-images of {url}")
        for url, status in servers
    ]


def _ask_all(pool: ServerPool, config: VllmConfig) -> list[tuple[str, ServerStatus]]:
    """Waits for those that do not answer yet as for completions (``rollout.vllm.retries``)."""
    for pause in (*(config.retry_s * 2**number for number in range(config.retries)), None):
        found = pool.check()
        if len(found) == len(config.servers):
            return found
        if pause is not None:
            time.sleep(pause)
    silent = ", ".join(sorted({*config.servers} - {url for url, _ in found}))
    raise ValueError(
        f"data.on_long_prompt: shrink goes by the length of every rollout server, and {silent} does not answer; start "
        "it, or set data.on_long_prompt to drop"
    )
