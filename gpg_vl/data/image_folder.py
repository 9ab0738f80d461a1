"""Images and videos of a JSON lines file: those outside the file's folder are copied to ``NAME_images`` next to it.

Either all of them appear or none. Rows never name a path outside the file's folder: the kit would refuse to open it.
"""

from __future__ import annotations

import glob
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpg_vl.data.images import read_image_file

_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\x1aE\xdf\xa3": ".mkv",
}
_OWN_NAME = re.compile(r"\d+-(v?\d+)(-\d+)?\.(png|jpg|webp|bmp|gif|tif|mkv|mp4|img)")


class ImageFolder:
    """The future ``NAME_images``; until the rows are complete it has a hidden name that cannot be foreseen."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._parent = file.parent.resolve()
        self._final = self._parent / f"{file.stem}_images"
        self._partial = self._parent / f".{self._final.name}.{secrets.token_hex(4)}.partial"
        self._is_needed = False  # whether rows name images in it

    def save(self, source: str | bytes, name: str) -> str:
        """The image's path for the row, relative to the file's folder; an image from elsewhere is copied.

        Raises:
            ValueError: a part of the image's path is a link, which no row has once it is read; or the folder holds
                files that were not written here before
        """
        if isinstance(source, bytes):
            return self._write(source, name)
        path = Path(source)
        self._is_needed |= path.is_relative_to(self._final)
        if self.is_elsewhere(source):
            return self._write(read_image_file(source), name)
        if path.resolve() != path:
            raise ValueError(f"image {path}: a part of its path is a link; give the path that it leads to")
        return str(path.relative_to(self._parent))

    def is_elsewhere(self, source: str | bytes) -> bool:
        """Whether an image is a file outside the file's folder."""
        return isinstance(source, str) and not Path(source).is_relative_to(self._parent)

    def _write(self, content: bytes, name: str) -> str:
        if not self._partial.is_dir():
            self._refuse_other_files()
            self._partial.mkdir()
        other = ".mp4" if content[4:8] == b"ftyp" else ".img"
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), other)
        (self._partial / (name + suffix)).write_bytes(content)
        return f"{self._final.name}/{name}{suffix}"

    def _refuse_other_files(self) -> None:
        for path in self._final.glob("*"):
            if not _OWN_NAME.fullmatch(path.name):
                raise ValueError(f"{path} was not written here before; move it, or write to a file with another name")

    def replace(self) -> None:
        """Replaces the images of an earlier file with the new ones; if there are none, leaves the old ones alone.

        Raises:
            ValueError: the rows themselves need an image that would be replaced
        """
        if not self._partial.is_dir():
            return
        if self._is_needed:
            raise ValueError(f"{self._file}: rows use images in {self._final}; write to a file with another name")
        self._file.unlink(missing_ok=True)  # if killed here: no file, rather than a file with another one's images
        shutil.rmtree(self._final, ignore_errors=True)
        self._partial.rename(self._final)

    def remove(self) -> None:
        """Removes the hidden folder, and those of processes that were killed: only one at a time writes the file."""
        for folder in self._parent.glob(f".{glob.escape(self._final.name)}.{'[0-9a-f]' * 8}.partial"):
            shutil.rmtree(folder, ignore_errors=True)  # follows no link


@contextmanager
def images_when_done(file: Path) -> Iterator[ImageFolder]:
    """The images of ``file``: moved into place when the block ends, removed when it fails."""
    folder = ImageFolder(file)
    folder.remove()  # left by a process that was killed
    try:
        yield folder
        folder.replace()
    finally:
        folder.remove()
