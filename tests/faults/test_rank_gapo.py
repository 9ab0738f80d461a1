"""A discriminator that several ranks learn together: as one process does, in its reward and through relaxed samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpg_vl.run.run_log import read_metrics
from tests.support.tiny_runs import fork_ranks, join_ranks, train_words, write_recipe_folder

SECONDS = 200  # of a run on two ranks that ought to take 20, on a busy machine
STATE = "checkpoint-3/training_state/discriminator.safetensors"

pytestmark = pytest.mark.faults


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("gradient", ["score", "relaxed"])
def test_two_ranks_learn_what_one_does(tmp_path: Path, model_folders: dict[str, Path], gradient: str) -> None:
    objective = {"name": "gapo", "discriminator_width": 8, "discriminator_rate": 0.01, "beta_th": 0.0}
    keys = {
        "objective": {**objective, "discriminator_gradient": gradient},
        "update": {"schedule": "constant"},
        "run": {"steps": 3, "save_every": 3},
    }
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)
    for name, num in (("one", 1), ("two", 2)):
        ranks = fork_ranks(folder, [*train_words(name), "--task", "counting"], "zero0", num)
        assert join_ranks(ranks, SECONDS) == [0] * num, (folder / "log.txt").read_text()
    one, two = (read_metrics(folder / name) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert b["parts"]["discriminator"] == pytest.approx(a["parts"]["discriminator"], rel=1e-3)
        assert b["update"]["loss"] == pytest.approx(a["update"]["loss"], abs=1e-4)
    for name, limit in ((STATE, 1e-3), ("checkpoint-3/model.safetensors", 1e-4)):
        a, b = (load_file(folder / run / name) for run in ("one", "two"))
        assert max(float((a[key] - b[key]).abs().max()) for key in a) < limit, name
