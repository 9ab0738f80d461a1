from __future__ import annotations

import pytest
import torch

from gpg_vl.processes.determinism import deterministic
from tests.support.messages import naming


def scatter() -> torch.Tensor:
    """An operation that torch has no deterministic form of, on a CPU neither."""
    return torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))


def test_an_operation_without_a_deterministic_form_is_one_line() -> None:
    scatter()
    with deterministic(is_wanted=False):
        scatter()
    with (
        pytest.raises(ValueError, match=naming("run.deterministic", "put_", "false", "model.attention")),
        deterministic(is_wanted=True),
    ):
        scatter()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(is_wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
    scatter()


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="no room"), deterministic(is_wanted=True):
        raise RuntimeError("no room")
