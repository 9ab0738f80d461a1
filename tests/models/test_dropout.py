"""Dropout in any part of a model: one line that names the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.dropout import refuse_dropout
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.tiny import write_tiny_model
from tests.support.messages import naming

KEYS = {
    "internvl": (
        "text_config.attention_dropout",
        "vision_config.attention_dropout",
        "vision_config.hidden_dropout_prob",
        "vision_config.projection_dropout",
    ),
    "smolvlm": ("vision_config.attention_dropout",),
    "glm4v": ("vision_config.attention_dropout", "text_config.attention_dropout"),
    "mistral3": ("vision_config.attention_dropout",),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_has_any_by_default(name: str) -> None:
    refuse_dropout(FAMILIES[name].model.config_class())  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("name", KEYS)
def test_every_part_is_looked_at(name: str) -> None:
    for key in KEYS[name]:
        config = FAMILIES[name].model.config_class()  # type: ignore[misc]
        part, _, last = key.partition(".")
        assert getattr(getattr(config, part), last) == 0, "a key that the class knows"
        setattr(getattr(config, part), last, 0.1)
        with pytest.raises(ValueError, match=naming("model.path", key, "config.json")):
            refuse_dropout(config)


@pytest.mark.parametrize("family", ["auto", "generic"])
def test_a_tower_with_dropout_is_refused(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path / "tiny", "internvl")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["projection_dropout"] = 0.1
    path.write_text(json.dumps(config))
    options = {"path": str(folder), "family": family}
    with pytest.raises(ValueError, match=naming("model.path", "vision_config.projection_dropout")) as raised:
        load_adapter(ModelConfig(**options), with_weights=False)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
