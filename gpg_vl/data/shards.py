"""WebDataset shards: tar files in which the members ``KEY.jpg``, ``KEY.json``, ``KEY.txt`` ... are one row.

The fields of ``KEY.json`` are columns, as are the texts of ``KEY.NAME.txt`` and ``KEY.cls``; every picture of a key is
one of its ``images``. Texts are kept in memory, pictures are read when their row is.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from gpg_vl.data.images import MAX_BYTES
from gpg_vl.data.json_text import check_characters, read_object
from gpg_vl.data.text_tables import TableRow, TextTable
from gpg_vl.data.unpacking import name_without_packing, open_seekable
from gpg_vl.errors import first_line

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_TEXTS = (".txt", ".text", ".cls")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Member(NamedTuple):
    """A file in a shard: where its content is."""

    suffix: str  # after the key: "jpg", "0.jpg", "json"
    shard: int
    offset: int
    size: int


def find_shards(path: str) -> list[Path]:
    """The tar files that a path means: itself, those in a folder, or those of ``name-{000..012}.tar`` or ``*.tar``.

    Raises:
        ValueError: a file of a range is missing
    """
    location = Path(path)
    if location.is_dir():
        return sorted(each for each in location.iterdir() if is_shard(each))
    if location.is_file():
        return [location] if is_shard(location) else []
    if not is_shard(location):
        return []
    found = _RANGE.search(path)
    if found is None:
        return [Path(name) for name in sorted(glob.glob(path))] if "*" in path else []
    shards: list[Path] = []
    for number in range(int(found[1]), int(found[2]) + 1):
        shards.append(Path(path.replace(found[0], f"{number:0{len(found[1])}d}", 1)))
        if not shards[-1].is_file():
            raise ValueError(f"{path}: there is no file {shards[-1]}; correct the range")
    if not shards:
        raise ValueError(f"{path}: there is no file {found[0]}; correct the range")
    return shards


def is_shard(path: Path) -> bool:
    return name_without_packing(path).endswith(".tar") and not path.name.startswith(".")


class ShardTable:
    """Rows of tar files, one per key."""

    kind = "WebDataset shards"

    def __init__(self, path: str, shards: Sequence[Path], limit: int | None) -> None:
        """Raises ``ValueError`` if a file is not a tar file or no row can be read; names it."""
        self._files = [open_seekable(shard) for shard in shards]
        groups: dict[tuple[int, str], list[_Member]] = {}
        for number, shard in enumerate(shards):
            for key, member in _index(self._files[number], number, shard):
                groups.setdefault((number, key), []).append(member)
        chosen = list(groups.items())[:limit]
        self._pictures = [[m for m in members if _ending(m) in _PICTURES] for _, members in chosen]
        self._texts = TextTable(path, [self._read_texts(key, members) for (_, key), members in chosen])
        images = ["images"] if any(self._pictures) else []
        self.column_names = list(dict.fromkeys([*self._texts.column_names, *images]))

    def __len__(self) -> int:
        return len(self._texts)

    def row(self, index: int) -> TableRow:
        pictures = [self._read(member) for member in self._pictures[index]]
        row = self._texts.row(index)
        return {**row, "images": pictures} if pictures else row

    def column(self, name: str) -> list[Any]:
        return self._texts.column(name)

    def _read_texts(self, key: str, members: Sequence[_Member]) -> TableRow | ValueError:
        """The texts of a key as columns. What a shard's JSON says of its picture is the name that it had elsewhere."""
        row: TableRow = {"__key__": key}
        try:
            for member in members:
                row.update(self._read_text(member))
        except UnicodeDecodeError:
            return ValueError(f"{key} has a text that is not UTF-8; write the shard again")
        except ValueError as error:
            return ValueError(f"{key} has a text that is {error}; write the shard again")
        if any(_ending(member) in _PICTURES for member in members):
            row.pop("image", None)
        return row

    def _read_text(self, member: _Member) -> TableRow:
        ending, name = _ending(member), PurePosixPath(member.suffix).stem
        if ending == ".json":
            return read_object(self._read(member).decode("utf-8-sig"))
        if ending not in _TEXTS:
            return {}
        text = self._read(member).decode("utf-8-sig")
        check_characters(text)
        return {(name if "." in member.suffix else member.suffix): text.strip()}

    def _read(self, member: _Member) -> bytes:
        if member.size > MAX_BYTES:
            raise ValueError(f"a member of its shard has {member.size} bytes, more than {MAX_BYTES}")
        file = self._files[member.shard]
        return _read_at(file, member.offset, member.size)


def _read_at(file: IO[bytes], offset: int, size: int) -> bytes:
    """Without moving the file's position: several threads may read at once."""
    content = os.pread(file.fileno(), size, offset)
    if len(content) < size:
        raise ValueError("its shard ends before its picture does; write the shard again")
    return content


def _index(file: IO[bytes], number: int, shard: Path) -> Iterator[tuple[str, _Member]]:
    """The members of a shard with their keys: the name up to the first dot after its folders."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                stem, dot, suffix = name.name.partition(".")
                if entry.isreg() and not entry.issparse() and stem and dot:
                    yield str(name.with_name(stem)), _Member(suffix, number, entry.offset_data, entry.size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise ValueError(f"{shard} cannot be read as a tar file ({first_line(error)[:100]}); write it again") from error


def _ending(member: _Member) -> str:
    return f".{member.suffix.rpartition('.')[2].lower()}"
