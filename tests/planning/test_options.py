"""How the command says which cards there are."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from gpg_vl.planning.options import read_options


@pytest.mark.parametrize(("word", "cards"), [("1", (1, 8)), ("12", (12, 8)), ("2x4", (8, 4)), ("16x1", (16, 1))])
def test_cards_are_a_number_or_machines_with_cards(tmp_path: Path, word: str, cards: tuple[int, int]) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {path: model}")
    _, options = read_options(ArgumentParser(), [str(tmp_path / "recipe.yaml"), "--gpus", word])
    assert (options.num_gpus, options.of_machine) == cards
    assert options.host is None


def test_memory_of_a_machine_is_in_gb(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {path: model}")
    _, options = read_options(ArgumentParser(), [str(tmp_path / "recipe.yaml"), "--host-gb", "512"])
    assert options.host == 512 * 10**9
