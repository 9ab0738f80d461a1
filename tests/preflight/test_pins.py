"""The user's code and the model under an adapter, as a resumed run must find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import LoraConfig, ModelConfig, ObjectiveConfig, Recipe, RewardsConfig
from gpg_vl.preflight.pins import check_pins, take_pins
from tests.support.messages import naming


def write_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def recipe(folder: Path, **keys: Any) -> Recipe:
    return Recipe(model=ModelConfig(path=str(folder), lora=LoraConfig()), **keys)


@pytest.mark.parametrize("position", [0, 10**6, 2 * 10**6 - 1])
def test_the_base_of_an_adapter_is_pinned(tmp_path: Path, position: int) -> None:
    weights = bytearray(2 * 10**6)
    base = write_model(tmp_path / "base", bytes(weights))
    then = take_pins(recipe(base), [], None)
    check_pins(take_pins(recipe(base), [], None), then)
    weights[position] = 1
    write_model(base, bytes(weights))
    with pytest.raises(ValueError, match=naming("model.path", "base model", "run.output_dir")):
        check_pins(take_pins(recipe(base), [], None), then)


def test_a_resumed_run_looks_at_the_base_that_its_adapter_names(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", b"1" * 100)
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}', encoding="utf-8")
    then = take_pins(recipe(base), [], None)
    assert take_pins(recipe(tmp_path / "elsewhere"), [], checkpoint) == then


def test_a_model_is_pinned_where_the_run_goes_back_to_it(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", b"1" * 100)
    plain = Recipe(model=ModelConfig(path=str(base)))
    assert take_pins(plain, [], None) == {}
    for keys in ({"name": "grpo", "kl_coefficient": 0.1}, {"name": "apa"}, {"name": "gapo"},
                 {"name": "gvpo", "anchor": "reference"}):  # fmt: skip
        going_back = Recipe(model=plain.model, objective=ObjectiveConfig(**keys))  # type: ignore[arg-type]
        assert list(take_pins(going_back, [], None)) == ["base model"], keys
    assert take_pins(Recipe(model=plain.model, objective=ObjectiveConfig(name="grpo")), [], None) == {}
    assert take_pins(Recipe(model=ModelConfig(path="someone/model", lora=LoraConfig())), [], None) == {}


def test_a_preference_head_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"1")
    base = write_model(tmp_path / "base", b"1" * 100)
    learned = Recipe(model=ModelConfig(path=str(base)), rewards=RewardsConfig(preference=str(tmp_path)))
    then = take_pins(learned, [], None)
    assert list(then) == ["preference head", "base model"]
    (tmp_path / "head.safetensors").write_bytes(b"2")
    with pytest.raises(ValueError, match=naming("rewards.preference", "preference head", "run.output_dir")):
        check_pins(take_pins(learned, [], None), then)


OBJECTIVE = """
from gpg_vl.objectives.gpg import Gpg

class Mine(Gpg):
    pass
"""


@pytest.mark.parametrize("changed", ["task.py", "rewards.py", "beside.py", "behind.py", "objective.py"])
def test_the_user_s_own_code_is_pinned(tmp_path: Path, changed: str) -> None:
    codes = {
        "task": "import os, beside",
        "beside": "from behind import x",
        "behind": "import beside",
        "rewards": "x = 1",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    (tmp_path / "objective.py").write_text(OBJECTIVE, encoding="utf-8")
    own = Recipe(
        rewards=RewardsConfig(functions=[f"{tmp_path}/rewards.py:f", f"{tmp_path}/rewards.py:g"]),
        objective=ObjectiveConfig(name=f"{tmp_path}/objective.py:Mine"),
    )
    tasks = ["counting", f"{tmp_path}/task.py:Mine"]
    then = take_pins(own, tasks, None)
    names = ("behind", "beside", "objective", "rewards", "task")
    assert list(then) == [f"code of {name}.py" for name in names]
    check_pins(take_pins(own, tasks, None), then)
    check_pins(take_pins(own, tasks, None), {})
    (tmp_path / changed).write_text("x = 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=naming(changed, "run.output_dir")):
        check_pins(take_pins(own, tasks, None), then)


def test_the_rows_of_the_validation_are_pinned() -> None:
    """A validation that is switched on, or whose images may be lost, goes on."""
    plain = Recipe(model=ModelConfig(path="someone/model"))
    then = take_pins(plain, [], None, ["2:rows:images:a", "2:rows:images:b"])
    check_pins(take_pins(plain, [], None, ["2:rows::a", "2:rows:images:b"]), then)
    check_pins(then, {})
    check_pins({}, then)
    for other in ("2:other:images:b", "2:rows:others:b"):
        with pytest.raises(ValueError, match=naming("data.eval", 2, "run.output_dir")):
            check_pins(take_pins(plain, [], None, ["2:rows:images:a", other]), then)
