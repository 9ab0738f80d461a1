"""Whole runs whose completions come from a rollout server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl.rollout.vllm import NoServer
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from gpg_vl.update.gradient import UpdateError
from tests.support.rollout_servers import TinyBackend, serving
from tests.support.small_recipes import MakeRecipe

SERVED = {"rollout__engine": "vllm", "run__steps": 3, "rollout__vllm__retries": 1, "rollout__vllm__retry_s": 0.05}


class FrozenBackend(TinyBackend):
    """Says that it took the weights, and keeps its own: as an engine that names a tensor otherwise."""

    def load_weights(self, folder: Path) -> None:
        if not self.num_loads:
            super().load_weights(folder)


class DyingBackend(TinyBackend):
    """Fails in the second step."""

    def generate(self, request: Any) -> Any:
        if self.num_loads > 1:
            raise RuntimeError("engine died")
        return super().generate(request)


def test_every_step_is_sampled_by_the_weights_that_it_trains(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None
) -> None:
    backend = TinyBackend(load())
    with serving(backend, tmp_path / "shared") as (url, _):
        train(make_recipe(**SERVED, rollout__vllm__servers=[url], rollout__vllm__weights=str(tmp_path / "shared")))
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 3 and backend.num_loads == 3
    for row in rows:
        update = row["update"]
        assert 0 <= update["log_prob_gap"] <= update["largest_log_prob_gap"] < 1e-4
        assert 0 <= update["rollout_kl"] < 1e-6


def test_an_engine_with_other_weights_ends_the_run_before_they_are_trained(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None
) -> None:
    with serving(FrozenBackend(load()), tmp_path / "shared") as (url, _):
        recipe = make_recipe(
            **SERVED, rollout__vllm__servers=[url], rollout__vllm__weights=str(tmp_path / "shared"),
            update__learning_rate=1e-2,
        )  # fmt: skip
        with pytest.raises(UpdateError, match=r"rollout.engine.*nats"):
            train(recipe)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1]


@pytest.mark.parametrize("on_failure", ["stop", "hf"])
def test_a_server_that_dies_ends_the_run_or_costs_time(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None, on_failure: str
) -> None:
    """A run that ended can be resumed with the other engine: its first step is saved."""
    with serving(DyingBackend(load()), tmp_path / "shared") as (url, _):
        keys = {"rollout__vllm__servers": [url], "rollout__vllm__weights": str(tmp_path / "shared")}
        recipe = make_recipe(**SERVED, **keys, rollout__vllm__on_failure=on_failure)
        if on_failure == "stop":
            with pytest.raises(NoServer):
                train(recipe)
            assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1]
            recipe = make_recipe(run__steps=3)
        train(recipe)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
