from __future__ import annotations

import pytest
import torch

from gpg_vl.errors import first_line, is_out_of_memory


def test_memory_errors_of_card_and_host_are_told_apart_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    for text in (
        "CUDA error: out of memory", "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):  # fmt: skip
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_an_error_is_shown_by_one_line() -> None:
    assert first_line(ValueError("what\nand more")) == "what"
    assert first_line(ValueError()) == "ValueError"
