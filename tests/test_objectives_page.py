"""docs/objectives.md against the objectives: its tables name all of them, with the defaults that they have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import OBJECTIVES, read_values

PAGE = (Path(__file__).parents[1] / "docs/objectives.md").read_text(encoding="utf-8")


def rows_of(section: str) -> dict[str, list[str]]:
    """Cells of the section's table behind the first, by the name in that one."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if re.match(r"\| \[?`", line)]
    return {str(re.findall(r"`(\w+)`", first)[0]): [cell.strip() for cell in rest] for first, *rest in rows}


def as_value(value: Any) -> Any:
    """YAML reads 1e-4 as text, and lists where the config has pairs."""
    if isinstance(value, list):
        return tuple(value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


DEFAULTS = rows_of("Defaults")


@pytest.mark.parametrize("section", ["At a glance", "Defaults"])
def test_every_objective_has_a_row(section: str) -> None:
    assert list(rows_of(section)) == list(dict.fromkeys(rows_of(section)))
    assert set(rows_of(section)) == set(OBJECTIVES)
    assert len({len(cells) for cells in rows_of(section).values()}) == 1


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_those_of_the_code(name: str) -> None:
    """Every key that it reads, beta_th and max_draws where they are not the usual ones."""
    plain = yaml.safe_load("{" + DEFAULTS[name][0].strip("`") + "}")
    shown = {key: as_value(value) for key, value in plain.items()}
    values = read_values(ObjectiveConfig(name=name))
    usual = {"beta_th": 0.6 if name == "supervised" else 0.0, "max_draws": 20}
    assert {**usual, **shown} == {key: value for key, value in values.items() if key != "name"}
