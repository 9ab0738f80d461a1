"""The start of a run: what becomes of the check whether it fits, and of the budgets that it chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl import assemble
from gpg_vl.config import Recipe
from gpg_vl.planning.memory import Budgets
from gpg_vl.planning.shapes import NotOnShapes


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check of a run on a device, where the plan raises an error."""

    def run(error: Exception, device: str = "cuda") -> None:
        def fail(*given: Any) -> str:
            raise error

        monkeypatch.setattr(assemble, "machine_here", lambda accelerator: None)
        monkeypatch.setattr(assemble, "fit_run", fail)
        accelerator: Any = SimpleNamespace(device=torch.device(device))
        assert assemble._choose_budgets(Recipe(), "model", [], accelerator) == Budgets(None, None)

    return run


def test_a_model_that_does_not_run_on_shapes_starts_unchecked(check: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(NotOnShapes("model.path: it looks at values\nand more"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "model.path: it looks at values" in said


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, TypeError, AttributeError, KeyError])
def test_every_other_error_of_the_check_is_told(check: Any, kind: type[Exception]) -> None:
    """What does not fit ends the run, and a mistake in the check is not taken for a model's."""
    with pytest.raises(kind, match="wrong"):
        check(kind("wrong"))


def test_nothing_is_checked_on_a_cpu(check: Any) -> None:
    check(AssertionError("it was called"), device="cpu")
