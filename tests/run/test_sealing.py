from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.models.folder.manifest import MANIFEST_FILE, find_damage
from gpg_vl.run.sealing import seal_folder


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "inner/state.json").write_text("{}")
    seal_folder(folder)
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sealed_folder_is_whole_wherever_it_lies(sealed: Path) -> None:
    assert find_damage(sealed) is None
    assert find_damage(sealed.rename(sealed.with_name("moved"))) is None


@pytest.mark.parametrize(
    ("file", "harm", "damage"),
    [
        ("weights.bin", flip, "weights.bin has changed since it was written"),
        ("weights.bin", lambda path: path.write_bytes(path.read_bytes()[:99]), "weights.bin has 99 bytes instead of"),
        ("inner/state.json", lambda path: path.write_text(""), "inner/state.json has 0 bytes instead of 2"),
        ("inner/state.json", Path.unlink, "inner/state.json is missing"),
        (MANIFEST_FILE, Path.unlink, "no manifest.json"),
        (MANIFEST_FILE, lambda path: path.write_text(""), "manifest.json is unreadable"),
        (MANIFEST_FILE, lambda path: path.write_text(path.read_text()[:-9]), "manifest.json is unreadable"),
        (MANIFEST_FILE, lambda path: path.write_text("[]"), "manifest.json is unreadable"),
        (MANIFEST_FILE, lambda path: path.write_text("[" * 100_000), "manifest.json is unreadable"),
        (MANIFEST_FILE, lambda path: path.write_text('{"files": {"a": 1}}'), "manifest.json is unreadable"),
        (MANIFEST_FILE, lambda path: path.write_text('{"files": {}}'), "manifest.json lists no file"),
    ],
)
def test_damage_is_named(sealed: Path, file: str, harm: Callable[[Path], object], damage: str) -> None:
    harm(sealed / file)
    found = find_damage(sealed)
    assert found is not None
    assert found.startswith(damage)


def test_manifest_names_every_file(sealed: Path) -> None:
    files = json.loads((sealed / MANIFEST_FILE).read_text())["files"]
    assert set(files) == {"weights.bin", "inner/state.json"}
    assert files["weights.bin"]["bytes"] == 10240


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "inner/../../outside", "link", "a\0b", ""])
def test_a_manifest_names_files_of_its_folder(sealed: Path, name: str) -> None:
    """A name that leads elsewhere is damage like any other, and nothing there is read."""
    outside = sealed.with_name("outside")
    outside.write_text("")
    (sealed / "link").symlink_to(outside)
    files = json.loads((sealed / MANIFEST_FILE).read_text())["files"]
    files[name] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (sealed / MANIFEST_FILE).write_text(json.dumps({"files": files}))
    found = find_damage(sealed)
    assert found is not None and found.startswith(repr(name))


@pytest.mark.parametrize(
    "entry", [{"bytes": "0", "sha256": 7}, {"bytes": None, "sha256": None}, {"bytes": [], "sha256": {}}]
)
def test_entries_of_other_types_are_damage(sealed: Path, entry: dict[str, object]) -> None:
    (sealed / MANIFEST_FILE).write_text(json.dumps({"files": {"weights.bin": entry}}))
    assert find_damage(sealed) is not None
