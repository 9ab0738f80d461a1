"""The optimizer's state in a checkpoint: each rank writes what it has of it, and reads what it needs.

The first rank's files are ``optimizer-N.safetensors``, those of others ``optimizer-N-of-rank-R.safetensors``. A tensor
that is whole has its own shape; of another one there are the elements of a slice, and the file's metadata says which.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpg_vl.errors import first_line
from gpg_vl.run.sealing import sync
from gpg_vl.update.optimizer_state import Slice, StoredTensor

SEEN_SECONDS = 120.0
"""In which a file that another rank has written must be seen."""
_LOOK_SECONDS = 0.1
_SLICES = "slices"
"""In a file's metadata: JSON of key -> {start, shape}."""


def moments_file(rank: int, number: int) -> str:
    """The name of a rank's file of its ``number``-th portion, from 1 on."""
    return f"optimizer-{number}.safetensors" if rank == 0 else f"optimizer-{number}-of-rank-{rank}.safetensors"


def write_moments(portion: Mapping[str, Slice], path: Path) -> None:
    """Writes a portion; under its name, the file is complete and on disk.

    Raises:
        OSError, SafetensorError: it cannot be written
    """
    tensors = {key: each.values.view(each.shape) if each.is_whole else each.values for key, each in portion.items()}
    slices = {
        key: {"start": each.start, "shape": list(each.shape)} for key, each in portion.items() if not each.is_whole
    }
    begun = path.with_name(f"{path.stem}-{os.getpid()}.begun")  # a process of an ended run may still write here
    save_file(tensors, begun, {_SLICES: json.dumps(slices)} if slices else None)
    sync([begun])
    begun.rename(path)


def write_own(portions: Iterable[Mapping[str, Slice]], folder: Path, rank: int) -> list[Path]:
    """Writes a rank's portions, each read once the one before is on disk; returns the files."""
    paths = []
    for number, portion in enumerate(portions, start=1):
        paths.append(folder / moments_file(rank, number))
        write_moments(portion, paths[-1])
    return paths


def refuse_unseen() -> NoReturn:
    """On the first rank, where it does not see the file of another one in time.

    Raises:
        OSError: always
    """
    raise OSError(
        "the first process does not see the files of the others; put run.output_dir on a file system that all nodes see"
    )


def copy_portion(portion: Mapping[str, Slice]) -> dict[str, Slice]:
    """The same with copies of the values, in the host's memory."""
    return {key: Slice(each.shape, each.start, each.values.to("cpu", copy=True)) for key, each in portion.items()}


class FilesOfOthers:
    """Files that other ranks write; on a file system of several nodes, they may take a moment to be seen here."""

    def __init__(self, paths: Iterable[Path] = ()):
        self._paths = list(paths)
        self._until = inf  # as time.monotonic()

    def give_up(self, after_seconds: float) -> None:
        """Whoever waits for them waits no longer than this."""
        self._until = time.monotonic() + after_seconds

    def have_come(self) -> bool:
        """Waits for them; False if they are not there in time."""
        while not all(path.exists() for path in self._paths):
            if time.monotonic() > self._until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements of a tensor in one file."""

    file: Any
    key: str
    shape: tuple[int, ...]  # in the file
    start: int  # of the first one in the whole flattened tensor

    @property
    def end(self) -> int:
        return self.start + prod(self.shape)

    def read(self, start: int, end: int) -> Tensor:
        """Its elements among those from ``start`` to ``end`` of the whole flattened tensor."""
        first, last = max(start, self.start) - self.start, min(end, self.end) - self.start
        if not self.shape:
            return self.file.get_tensor(self.key).flatten()[first:last]  # type: ignore[no-any-return]
        of_row = prod(self.shape[1:])
        rows = slice(first // of_row, -(-last // of_row))
        skipped = rows.start * of_row
        return self.file.get_slice(self.key)[rows].flatten()[first - skipped : last - skipped]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor, in pieces that follow each other."""

    shape: torch.Size
    pieces: list[_Piece]

    def read(self, start: int, num: int) -> Tensor:
        parts = [
            piece.read(start, start + num) for piece in self.pieces if piece.start < start + num and start < piece.end
        ]
        return torch.cat(parts) if parts else torch.empty(0)


@contextmanager
def open_moments(folder: Path) -> Iterator[Mapping[str, Mapping[str, StoredTensor]]]:
    """Inside, the tensors of each weight's state by its name and theirs; from one file, or from those of many ranks.

    Raises:
        SafetensorError, ValueError: a file is none of ``write_moments``, or a slice of a tensor is missing
    """
    with ExitStack() as stack:
        found: dict[str, tuple[torch.Size, list[_Piece]]] = {}
        paths = sorted(folder.glob("optimizer-*.safetensors"))
        if not paths:
            raise ValueError("no file of it")
        for path in paths:
            file = stack.enter_context(safe_open(path, "pt"))
            slices = _read_slices(file)
            for key in file.keys():  # noqa: SIM118  no dict
                shape = tuple(file.get_slice(key).get_shape())
                start, whole = slices.get(key, (0, torch.Size(shape)))
                found.setdefault(key, (whole, []))[1].append(_Piece(file, key, shape, start))
        stored: dict[str, dict[str, StoredTensor]] = {}
        for key, (whole, pieces) in found.items():
            name, _, entry = key.rpartition("/")
            stored.setdefault(name, {})[entry] = _join(key, whole, pieces)
        yield stored


def _read_slices(file: Any) -> dict[str, tuple[int, torch.Size]]:
    """Start and whole shape of the slices in a file, by key."""
    try:
        plain = json.loads((file.metadata() or {}).get(_SLICES, "{}"))
        return {key: (int(each["start"]), torch.Size(each["shape"])) for key, each in plain.items()}
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"its {_SLICES} cannot be read: {first_line(error)}") from error


def _join(key: str, shape: torch.Size, pieces: list[_Piece]) -> _Stored:
    ordered = sorted(pieces, key=lambda piece: piece.start)
    starts = [*(piece.start for piece in ordered), shape.numel()]
    if [0, *(piece.end for piece in ordered)] != starts:
        raise ValueError(f"{key} of {list(shape)} is not whole: the file of a rank is missing, or there twice")
    return _Stored(shape, ordered)
