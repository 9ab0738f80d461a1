"""Versions as package metadata has them."""

from __future__ import annotations

from importlib.metadata import version

from gpg_vl.models.versions import MODEL_LIBRARIES, read_versions


def test_versions_are_those_installed_and_others_come_last() -> None:
    assert list(read_versions()) == list(MODEL_LIBRARIES)
    found = read_versions(["math-verify"])
    assert list(found) == [*MODEL_LIBRARIES, "math-verify"]
    assert found == {name: version(name) for name in found}
