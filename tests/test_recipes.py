"""Recipes in layers, and the explanation of every key."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from gpg_vl import cli
from gpg_vl.recipes import KNOWN_KEYS, describe_keys, load_recipe
from gpg_vl.run.saved_recipe import read_recipe
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


def bomb(depth: int = 9) -> str:
    """Some hundred bytes whose aliases would make a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "run: &a {steps: 5}\nrollout: *a\n",
        "run: &a\n  <<: *a\n",
        "run: " + "[" * 3000,
        "run: " + "{a: " * 3000,
        "run: {steps: 5}\n#" + "x" * 2**18,
        "run: !!python/object/apply:os.system ['true']\n",
        "run: {steps: 5}\n---\nrun: {steps: 6}\n",
        "\x00",
        "2001-99-99",
    ],
    ids=["bomb", "alias", "merge", "brackets", "braces", "large", "python", "two", "zero", "date"],
)
def test_a_recipe_is_small_and_plain_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.monotonic()
    for read in (lambda: load_recipe(str(path)), lambda: read_recipe(path)):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_tasks_of_ones_own_are_lasting_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("tasks: [a.py:A, sub/b.py:B]\n")
    assert load_recipe("recipe.yaml").tasks == [f"{tmp_path}/a.py:A", f"{tmp_path}/sub/b.py:B"]
    assert load_recipe(None, ["--tasks", "[c.py:C]"]).tasks == [f"{tmp_path}/c.py:C"]
