from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl.data.file_digests import BLOCK_BYTES, digest_bytes, digest_file


@pytest.mark.parametrize("num_blocks", [2, 5])
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1, 9 * BLOCK_BYTES + 7])
def test_files_and_bytes_have_one_digest(tmp_path: Path, size: int, num_blocks: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "x").write_bytes(content)
    assert digest_file(tmp_path / "x", num_blocks) == digest_bytes(content, num_blocks)


@pytest.mark.parametrize("size", [10, 2 * BLOCK_BYTES, 9 * BLOCK_BYTES + 7])
def test_a_change_of_size_start_or_end_is_seen(size: int) -> None:
    content = bytes(size)
    others = [content + b"\0", content[1:], b"1" + content[1:], content[:-1] + b"1"]
    assert len({digest_bytes(each) for each in [content, *others]}) == 5


@pytest.mark.parametrize("position", range(0, 2 * BLOCK_BYTES, BLOCK_BYTES // 4))
def test_of_a_small_file_every_byte_is_seen(position: int) -> None:
    content = bytearray(2 * BLOCK_BYTES)
    plain = digest_bytes(bytes(content))
    content[position] = 1
    assert digest_bytes(bytes(content)) != plain
