"""Whether a model drops anything at random in training, by the config of each of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig


def refuse_dropout(config: PreTrainedConfig) -> None:
    """With dropout, the log-probs of an update are not those of the sampled tokens, in text, tower and projector.

    Raises:
        ValueError: a key of the config sets one; names it with the part that it stands in
    """
    for key, value in _numbers(config.to_dict()):
        if "dropout" in key.rpartition(".")[2] and value > 0:
            raise ValueError(f"model.path: the config has {key} above 0; set it to 0 in config.json")


def _numbers(part: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a config and of its parts: ``vision_config.hidden_dropout_prob``."""
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{key}.")
        elif isinstance(value, int | float):
            yield f"{path}{key}", value
