"""A folder or ZIP archive of images -> the image that a published row names, wherever the archive was unpacked."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from gpg_vl.data.images import MAX_BYTES, follow_links


class ImageFiles:
    """Finds images by the path in the row, or by the longest suffix of that path that exists.

    So ``./Geo170K/images/test/0.png`` is found in the parent folder of ``Geo170K``, in ``Geo170K``, in ``images``, and
    in a ZIP with members ``images/test/0.png``. In a ZIP, the bare name is enough if only one member has it.
    """

    def __init__(self, location: str) -> None:
        """Raises ``ValueError`` if ``location`` is neither a folder nor a ZIP archive."""
        self._location = location
        self._archive: zipfile.ZipFile | None = None
        if Path(location).is_dir():
            self._root = Path(location).resolve()
        elif zipfile.is_zipfile(location):
            try:
                self._archive = zipfile.ZipFile(location)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise ValueError(f"--images {location}: a damaged ZIP archive; download the file again") from error
            self._members = _name_members(self._archive)
        else:
            raise ValueError(f"--images {location}: no such folder or ZIP archive")

    def find(self, name: str) -> str | bytes:
        """An absolute path, or the bytes of a member of the archive.

        Raises:
            ValueError: the image is not there, or the path leads out of the folder
        """
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")]
        if ".." in parts or not parts:
            raise ValueError(f"image {name[:80]!r} leads out of {self._location}")
        for start in range(len(parts)):
            found = self._look_up("/".join(parts[start:]))
            if found is not None:
                return found
        raise ValueError(f"image {name[:80]!r} is not in {self._location}")

    def _look_up(self, path: str) -> str | bytes | None:
        if self._archive is not None:
            return _read_member(self._archive, self._members[path]) if path in self._members else None
        try:
            file = follow_links(self._root / path)
            return str(file) if file.is_relative_to(self._root) and file.is_file() else None
        except (OSError, ValueError) as error:  # a name that is too long, a link to itself, a zero byte
            raise ValueError(f"image {path[:80]!r} is not a usable path ({type(error).__name__})") from error


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    name = f"image {entry.filename[:80]!r}"
    if entry.file_size > MAX_BYTES:
        raise ValueError(f"{name} has {entry.file_size} bytes, more than {MAX_BYTES}")
    try:
        return archive.read(entry)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{name} cannot be extracted from the archive ({type(error).__name__})") from error


def _name_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    names = [PurePosixPath(entry.filename).name for entry in files]
    counts = Counter(names)
    alone = {name: entry for name, entry in zip(names, files, strict=True) if counts[name] == 1}
    return {**alone, **{entry.filename: entry for entry in files}}
