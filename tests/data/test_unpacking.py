"""What a packed file unpacks to is bounded."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest

from gpg_vl.data.unpacking import name_without_packing, open_seekable, read_bytes
from tests.support.messages import naming


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_bomb_is_refused(tmp_path: Path, end: str) -> None:
    content = bytes(3 * 2**20)
    path = tmp_path / f"rows.jsonl{end}"
    path.write_bytes(gzip.compress(content) if end == ".gz" else pyarrow.compress(content, "zstd", asbytes=True))
    assert read_bytes(path, len(content)) == content
    with open_seekable(path, len(content)) as file:
        assert (file.seek(-3, 2), file.read()) == (len(content) - 3, bytes(3))
    for unpack in (read_bytes, open_seekable):
        with pytest.raises(ValueError, match=naming(path, len(content) - 1)):
            unpack(path, len(content) - 1)


def test_names() -> None:
    assert name_without_packing(Path("a/Rows.JSONL.GZ")) == "rows.jsonl"
    assert name_without_packing(Path("x.tgz")) == "x.tar"
    assert name_without_packing(Path("x.gz.parquet")) == "x.gz.parquet"
