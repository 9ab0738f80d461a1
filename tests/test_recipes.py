"""Recipes in layers, and the explanation of every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpg_vl import cli
from gpg_vl.recipes import KNOWN_KEYS, describe_keys, load_recipe
from tests.support.messages import lines_naming


def test_help_explains_every_key_in_a_line() -> None:
    """An entry is the key, as each version of Python writes options, and its explanation behind two spaces or more."""
    entries = re.split(r"\n  (?=--)", describe_keys())
    for key in KNOWN_KEYS:
        [entry] = [entry for entry in entries if re.match(rf"--{re.escape(key)}[ ,]", entry)]
        explanation = " ".join(re.split(r"\s{2,}", entry, maxsplit=1)[1].split("(type:")[0].split())
        assert len(explanation) > 10, key
        assert not re.search(r"--\w", explanation), f"{key}: the options themselves were read as the explanation"


def test_a_later_recipe_holds_the_keys_in_which_it_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("rollout: {group_size: 4, max_new_tokens: 9}\nrun: {steps: 5, seed: 3}\n")
    other.write_text("rollout: {max_new_tokens: 7}\nrun: {steps: 6}\n")
    recipe = load_recipe([str(one), str(other)], ["--run.seed", "8"])
    assert (recipe.rollout.group_size, recipe.rollout.max_new_tokens) == (4, 7)
    assert (recipe.run.steps, recipe.run.seed) == (6, 8)


def test_train_names_the_recipe_with_the_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("run: {steps: 5}\n")
    other.write_text("run: {step: 6}\n")
    assert cli.main(["train", str(one), str(other)]) == 2
    assert lines_naming(capsys.readouterr().err, other, "run.step", "run.steps")
