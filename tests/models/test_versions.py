"""Versions as package metadata has them, and families that need a later one."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import peft
import pytest
from transformers import PreTrainedModel
from transformers.models.auto import configuration_auto

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families import minicpm_v, paligemma
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.models.versions import MODEL_LIBRARIES, read_versions
from gpg_vl.models.weights import lora
from tests.support.messages import naming


def test_versions_are_those_installed_and_others_come_last() -> None:
    assert list(read_versions()) == list(MODEL_LIBRARIES)
    found = read_versions(["math-verify"])
    assert list(found) == [*MODEL_LIBRARIES, "math-verify"]
    assert found == {name: version(name) for name in found}


def test_a_family_that_transformers_does_not_know_yet_is_refused_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this version has no class of the family, not even for its config."""
    known = {name: config for name, config in configuration_auto.CONFIG_MAPPING.items() if name != "molmo2"}
    monkeypatch.setattr(configuration_auto, "CONFIG_MAPPING", known)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "molmo2"}))
    with pytest.raises(ValueError, match=naming("model.path", "molmo2", "5.23", version("transformers"))):
        load_adapter(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("module", "constant", "family"),
    [
        (minicpm_v, "CUT_SINCE", "minicpmv4_6"),
        (paligemma, "CAPPED_SINCE", "paligemma"),
    ],
)
def test_a_family_that_an_old_version_gets_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, constant: str, family: str
) -> None:
    monkeypatch.setattr(module, constant, "99.1")
    folder = write_tiny_model(tmp_path, family)
    with pytest.raises(ValueError, match=naming("model.path", "99.1", version("transformers"))):
        load_adapter(ModelConfig(path=str(folder)), with_weights=False)


def test_a_peft_that_transformers_does_not_take_is_named(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before weights are read. A model without an adapter needs none."""
    monkeypatch.setattr(lora, "MIN_PEFT_VERSION", "99.1")
    load()
    with pytest.raises(ValueError, match=naming("model.lora", "peft", "99.1", peft.__version__)):
        load(lora=LoraConfig(r=2))


def test_layers_that_peft_cannot_adapt_are_one_line(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As peft 0.19 does in GLM-4.5V, whose pattern it takes for a set of letters."""
    refuse = mock.Mock(side_effect=ValueError("Target modules {'q', '_'} not found"))
    monkeypatch.setattr(PreTrainedModel, "add_adapter", refuse)
    with pytest.raises(ValueError, match=naming("model.lora", "peft", peft.__version__, "qwen2_vl")) as raised:
        load(lora=LoraConfig(r=2))
    assert "\n" not in str(raised.value)
