"""Pictures of a source, in a folder or a ZIP archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from data_tools.image_files import ImageFiles
from tests.support.builders import png
from tests.support.messages import naming


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images/one.png", png(40, 40, 1))
        file.writestr("images/two.png", png(40, 40, 2))
    return tmp_path / "images.zip"


def test_a_damaged_member_is_named_and_the_others_are_read(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[60:70] = bytes(10)  # inside of the first member's data
    archive.write_bytes(content)
    images = ImageFiles(str(archive))
    with pytest.raises(ValueError, match=naming("images/one.png", "archive")):
        images.find("one.png")
    assert images.find("two.png") == png(40, 40, 2)


def test_an_encrypted_member_is_named(archive: Path) -> None:
    content = archive.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + offset
        content = content[:at] + bytes([content[at] | 1]) + content[at + 1 :]
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=naming("images/one.png", "archive", "RuntimeError")):
        ImageFiles(str(archive)).find("images/one.png")


def test_a_broken_directory_of_the_archive_is_said(archive: Path) -> None:
    content = archive.read_bytes()
    at = content.index(b"PK\x01\x02")
    archive.write_bytes(content[:at] + b"XXXX" + content[at + 4 :])
    with pytest.raises(ValueError, match=naming("images.zip", "ZIP")):
        ImageFiles(str(archive))
