"""Signals that ask a run to stop, in every phase of a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.generate import draw_samples
from gpg_vl import train as train_module
from gpg_vl.collect import Collector
from gpg_vl.data.sources import write_parquet
from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.records import Sample
from gpg_vl.run import background_save
from gpg_vl.run.background_save import BackgroundSaves
from gpg_vl.train import train
from gpg_vl.update import learner
from tests.support.scripted_rewards import noise, score_by
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import assert_equal_checkpoints, sampled, without_seconds

MOMENTS = ("rollout", "scoring", "backward", "optimizer step", "validation", "save", "writing")
SLOWER = [pytest.mark.faults, pytest.mark.faults_ci]


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "scoring"),
        (signal.SIGTERM, "optimizer step"),
        *(pytest.param(signal.SIGINT, moment, marks=SLOWER) for moment in MOMENTS if moment != "scoring"),
        *(pytest.param(signal.SIGTERM, moment, marks=SLOWER) for moment in MOMENTS if moment != "optimizer step"),
        (signal.SIGHUP, "rollout"),
        (signal.SIGUSR1, "backward"),
        (signal.SIGXCPU, "save"),
    ],
)
def test_a_signal_at_any_moment_costs_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    """Signalled in its third step, the run ends with the signal's code; the same recipe goes on as if nothing was."""
    calls = 0

    def in_third_call(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **names: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                os.kill(os.getpid(), number)
            return work(*words, **names)

        return call

    def score(sample: Sample, text: str) -> float:
        return noise(text)

    score_by(monkeypatch, score)
    validation = tmp_path / "validation.parquet"
    write_parquet(draw_samples("counting", 6, seed=8), validation)
    common = {"run.steps": 5, "run.eval_every": 1, "data.eval": [str(validation)], "run.save_every": 1}
    whole = train(make_recipe(**common, run__output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patched:
        place: dict[str, tuple[Any, str]] = {
            "rollout": (Collector, "_roll_out"),
            "scoring": (Collector, "_count"),
            "backward": (learner, "accumulate_gradient"),
            "optimizer step": (torch.optim.AdamW, "step"),
            "validation": (train_module, "summarise_scores"),
            "save": (BackgroundSaves, "begin"),
            "writing": (background_save, "write_weights"),  # in the thread
        }
        owner, name = place[moment]
        patched.setattr(owner, name, in_third_call(getattr(owner, name)))
        handler = signal.getsignal(number)
        with pytest.raises(Interrupted) as caught:
            train(make_recipe(**common))
        assert caught.value.exit_code == 128 + number
        assert signal.getsignal(number) is handler
    assert_equal_checkpoints(whole, train(make_recipe(**common)))
    assert sampled(tmp_path / "whole") == sampled(tmp_path / "run")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "run")
