"""The pinned environments hold what pyproject.toml asks for: every library of the extras that are installed there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def read_pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(library): version for library, version in pairs}


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("constraints.txt", ["dev", "bench", "docs"]),
        ("constraints-lower.txt", ["dev", "bench"]),
        ("constraints-vllm.txt", ["dev", "bench", "vllm"]),
    ],
)
def test_every_library_is_pinned_within_its_bounds(name: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = read_pins(name)
    wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    for each in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(each.name))
        assert pin is not None and each.specifier.contains(pin), f"{each} has the pin {pin} in {name}"
