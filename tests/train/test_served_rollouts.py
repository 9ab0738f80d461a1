"""Whole runs whose completions come from a rollout server."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.processes.interrupts import Interrupted
from gpg_vl.rollout.served.client import Client, ServerFault
from gpg_vl.rollout.served.parity import OtherPolicy
from gpg_vl.rollout.vllm import NoServer
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from gpg_vl.update.gradient import UpdateError
from gpg_vl.update.learner import Learner
from tests.support.messages import naming
from tests.support.rollout_servers import SmallBackend, TinyBackend, serving
from tests.support.small_recipes import MakeRecipe
from tests.support.tiny_runs import sampled

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


@pytest.mark.parametrize(
    ("keys", "option"), [({"context_length": 20}, "--max-model-len"), ({"max_images": 0}, "--max-images")]
)
def test_rows_that_a_server_cannot_take_end_a_run_before_its_first_step(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, keys: dict[str, int], option: str
) -> None:
    backend, shared = SmallBackend(load(), **keys), str(tmp_path / "shared")
    with serving(backend, tmp_path / "shared") as (url, _):
        recipe = make_recipe(**SERVED, rollout__vllm__servers=[url], rollout__vllm__weights=shared)
        with pytest.raises(ValueError, match=naming("row 1", f"raise {option} of {url}")):
            train(recipe)
    assert backend.num_asked == backend.num_loads == 0


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


# --- one step ahead --------------------------------------------------------------------------------------------------

AHEAD = {"rollout__ahead": 1, "rollout__importance": "token"}


class OverlappingBackend(TinyBackend):
    """A draw that has begun ahead is answered when the update beside it has been made, and no sooner."""

    def __init__(self, adapter: Any):
        super().__init__(adapter)
        self.versions: list[str] = []  # that the draws were asked of
        self.updates = 0

    def generate(self, request: Any) -> Any:
        if request.group_size > 1:  # else it is compared
            self.versions.append(request.version)
            deadline = time.monotonic() + 60
            while self.updates < len(self.versions) - 1:
                assert time.monotonic() < deadline, "the update waits for the draw"
                time.sleep(0.005)
        return super().generate(request)

    def count_updates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = Learner.take_step

        def take_step(learner: Learner, rate: float) -> float:
            norm = original(learner, rate)
            self.updates += 1
            return norm

        monkeypatch.setattr(Learner, "take_step", take_step)


def drawn(run: Path) -> list[list[str]]:
    """The rows of each step, and what was asked."""
    return [[json.loads(line)["id"] for line in text.splitlines()] for text in sampled(run)]


def numbers(backend: OverlappingBackend) -> list[int]:
    """How often the weights had been published."""
    return [int(version.rpartition("-")[2]) for version in backend.versions]


def test_servers_sample_the_next_step_while_this_one_updates(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the weights of before it. A run that was stopped draws the same rows, at first from its present weights."""
    keys = {**SERVED, **AHEAD, "run__steps": 4, "rollout__vllm__weights": str(tmp_path / "shared")}
    backend = OverlappingBackend(load())
    with serving(backend, tmp_path / "shared") as (url, _), monkeypatch.context() as patch:
        backend.count_updates(patch)
        train(make_recipe(**keys, rollout__vllm__servers=[url], run__output_dir=str(tmp_path / "whole")))
    assert numbers(backend) == [1, 1, 2, 3]
    rows = read_metrics(tmp_path / "whole")
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1]
    assert rows[0]["update"]["largest_log_prob_gap"] < 1e-4
    assert min(row["update"]["largest_log_prob_gap"] for row in rows[1:]) > 1e-3, "the policy has moved on"
    with serving(TinyBackend(load()), tmp_path / "shared") as (url, _):
        recipe = make_recipe(**keys, rollout__vllm__servers=[url])
        stop_after_step(2, recipe, monkeypatch)
        assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]
        train(recipe)
    assert [row["staleness"] for row in read_metrics(tmp_path / "run")] == [0, 1, 0, 1]
    assert drawn(tmp_path / "run") == drawn(tmp_path / "whole")
    assert threading.active_count() < 20


def stop_after_step(steps: int, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal in the update of the next one, whose own next draw is under way."""
    original = Learner.accumulate_gradient

    def accumulate(learner: Learner, rollout: Any) -> Any:
        if rollout.step > steps:
            raise Interrupted(signal.SIGTERM)
        return original(learner, rollout)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "accumulate_gradient", accumulate)
        with pytest.raises(Interrupted):
            train(recipe)


def test_a_draw_that_servers_leave_unanswered_is_made_anew(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None
) -> None:
    """By hf, from the present weights; a validation between two steps ends no draw."""
    with serving(DyingBackend(load()), tmp_path / "shared") as (url, _):
        shared = str(tmp_path / "shared")
        train(make_recipe(**SERVED, **AHEAD, rollout__vllm__servers=[url], rollout__vllm__weights=shared,
                          rollout__vllm__on_failure="hf"))  # fmt: skip
    rows = read_metrics(tmp_path / "run")
    assert [row["staleness"] for row in rows] == [0, 1, 0]
    assert rows[2]["update"]["largest_log_prob_gap"] < 1e-4


def test_a_draw_that_no_server_was_compared_for_is_made_in_turn(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first draw ahead has the weights of the first step, which were compared; the second one has others."""
    original, second = Client.generate, "-00000002"

    def generate(client: Client, request: Any) -> Any:
        if request.group_size == 1 and request.version.endswith(second):
            raise ServerFault("no answer")
        assert not request.version.endswith(second), "it was not compared"
        return original(client, request)

    monkeypatch.setattr(Client, "generate", generate)
    with serving(TinyBackend(load()), tmp_path / "shared") as (url, _):
        shared = str(tmp_path / "shared")
        train(make_recipe(**SERVED, **AHEAD, rollout__vllm__servers=[url], rollout__vllm__weights=shared))
    rows = read_metrics(tmp_path / "run")
    assert [row["staleness"] for row in rows] == [0, 1, 0]
    assert rows[2]["update"]["largest_log_prob_gap"] < 1e-4


@pytest.mark.parametrize("keys", [AHEAD, {"rollout__top_p": 0.9}, {"rollout__top_k": 20}])
def test_an_engine_with_other_weights_ends_a_run_whose_steps_cannot_tell(
    make_recipe: MakeRecipe, load: Any, tmp_path: Path, noisy_rewards: None, keys: dict[str, Any]
) -> None:
    """From a policy that has moved on, or from one that is not truncated; so every version is compared by itself."""
    with serving(FrozenBackend(load()), tmp_path / "shared") as (url, _):
        shared = str(tmp_path / "shared")
        recipe = make_recipe(**SERVED, **keys, rollout__vllm__servers=[url], rollout__vllm__weights=shared,
                             update__learning_rate=1e-2)  # fmt: skip
        with pytest.raises(OtherPolicy, match=r"rollout.vllm.max_gap"):
            train(recipe)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"rollout__engine": "hf"}, "rollout.engine to vllm"),
        ({"rollout__vllm__mode": "colocate"}, "rollout.vllm.mode to server"),
        ({"rollout__importance": "none"}, "rollout.importance to token"),
        ({"rollout__ahead": 2}, "0 or 1"),
        ({"update__epochs_per_rollout": 2, "objective__name": "grpo"}, "update.epochs_per_rollout to 1"),
        ({"rollout__refresh": {"max_uses": 3}}, "rollout.refresh to null"),
    ],
)
def test_what_cannot_go_ahead_is_refused(make_recipe: MakeRecipe, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=naming(named)) as caught:
        make_recipe(**{**SERVED, **AHEAD, **keys})
    assert "\n" not in str(caught.value)
