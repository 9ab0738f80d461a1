"""The learner's updates: their gradient for every objective, what is measured for it, and what is not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from gpg_vl.config import ModelConfig, ObjectiveConfig, Recipe, RolloutConfig, UpdateConfig
from gpg_vl.objectives import build_objective
from gpg_vl.objectives.base import given
from gpg_vl.objectives.grpo import Grpo
from gpg_vl.records import GroupLogProbs, LogProbs, count_tokens
from gpg_vl.update import learner as learner_module
from gpg_vl.update.learner import Learner
from gpg_vl.update.packing import shortest_budget
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.rollouts import AnchoredGroup
from tests.support import learner_gradients
from tests.support.builders import SMALL_IMAGES
from tests.support.learner_gradients import Case, cases
from tests.support.messages import lines_naming
from tests.support.objective_cases import CASES, ON_POLICY

TOLERANCE = 1e-4  # float32, against plain rows
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", cases())
def test_gradient_equals_autograd_of_the_written_loss(model_folders: dict[str, Path], name: str) -> None:
    error = learner_gradients.measure(str(model_folders["qwen2_vl"]), cases()[name], Accelerator())
    assert error < TOLERANCE


@pytest.mark.parametrize("name", ["grpo with KL", "rloo with KL", "rebel with KL", "gvpo, reference", "copg", "apa"])
def test_old_and_reference_that_are_swapped_would_show(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], name: str
) -> None:
    beside = AnchoredGroup.beside

    def swapped(each: AnchoredGroup, current: GroupLogProbs) -> LogProbs:
        return beside(replace(each, old=each.reference, reference=each.old), current)

    monkeypatch.setattr(AnchoredGroup, "beside", swapped)
    for case in (Case(CASES[name]), Case(CASES[name], epochs=1, num_done=0)):
        assert learner_gradients.measure(str(model_folders["qwen2_vl"]), case, Accelerator()) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["grpo", "gvpo", "apa", "gspo"])
def test_weights_that_move_unnoticed_would_show(model_folders: dict[str, Path], name: str) -> None:
    case = Case(CASES[name], is_stale=True)
    assert learner_gradients.measure(str(model_folders["qwen2_vl"]), case, Accelerator()) > 100 * TOLERANCE


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(900)
def test_gradient_of_two_ranks_equals_that_of_the_written_loss(model_folders: dict[str, Path]) -> None:
    script = ROOT / "tests/support/learner_gradients.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, str(model_folders["qwen2_vl"])], capture_output=True, text=True, check=False, timeout=900,
        env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = {row["case"]: row["errors"] for row in map(json.loads, ran.stdout.splitlines())}
    assert found.keys() == cases().keys()
    assert {name: errors for name, errors in found.items() if not max(errors) < TOLERANCE} == {}


# --- what is not needed is not computed ---


class Counted:
    """How often the policy and the reference run without a gradient, and whether there is a reference."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        update: UpdateConfig,
        chosen: UpdateConfig | None = None,
        **objective: Any,
    ):
        self.forwards = 0
        config = ObjectiveConfig(**objective)
        recipe = Recipe(
            model=ModelConfig(path=str(folder), **SMALL_IMAGES),  # type: ignore[arg-type]
            rollout=RolloutConfig(prompts_per_step=4, group_size=3, max_new_tokens=8),
            objective=config,
            update=update,
        )
        self.objective = build_objective(config, 8, update.reuses_rollouts)
        adapter = learner_gradients.load(str(folder))
        self.learner = Learner(recipe, self.objective, adapter, Accelerator(), update=chosen)
        self.learner._is_checked = True  # the self-check is none of this
        self.groups = learner_gradients.make_groups(adapter)
        original = PolicyForward.forward

        def forward(module: PolicyForward, *given: Any) -> Any:
            self.forwards += not module.training
            return original(module, *given)

        monkeypatch.setattr(PolicyForward, "forward", forward)

    def run(self, updates: int) -> list[int]:
        """Forwards without a gradient before the rollout's updates, and in each of them."""
        collected = learner_gradients.collect(self.groups, self.objective, Accelerator())
        rollout = self.learner.open_rollout(1, collected)
        counts = [self.forwards]
        for _ in range(updates):
            before = self.forwards
            self.learner.accumulate_gradient(rollout)
            self.learner.take_step(1e-6)
            rollout.num_done += 1
            counts.append(self.forwards - before)
        return counts


ONE_UPDATE = UpdateConfig()
TWO_UPDATES = UpdateConfig(epochs_per_rollout=2)
NEED_A_REFERENCE = {"grpo with KL", "rloo with KL", "gvpo, reference", "copg", "copg, disjoint", "rebel with KL", "apa",
                    "apa by token"}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_update_of_a_rollout_runs_nothing_that_its_objective_does_not_read(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], name: str
) -> None:
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, **CASES[name])
    has_reference = name in NEED_A_REFERENCE
    assert (counted.learner._reference is not None) == has_reference
    assert counted.run(1) == [2 if has_reference else 0, 0], "policy and reference once, or nothing at all"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", [1, 0, 1]),  # old once, which is current in the first update; current again in the second
        ("grpo with KL", [2, 0, 1]),
        ("gvpo, reference", [2, 0, 1]),
        ("raft", [0, 0, 0]),
        ("em_pg", [0, 0, 0]),
    ],
)
def test_several_updates_measure_the_current_log_probs_before_each_but_the_first(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], name: str, expected: list[int]
) -> None:
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], TWO_UPDATES, **CASES[name])
    assert counted.run(2) == expected


def test_objectives_of_rewards_alone_load_no_reference(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(learner_module, "Reference", None)  # calling it would fail
    for name in set(CASES) - NEED_A_REFERENCE:
        update = ONE_UPDATE if name in ON_POLICY else TWO_UPDATES
        counted = Counted(monkeypatch, model_folders["qwen2_vl"], update, **CASES[name])
        assert counted.learner._reference is None, name


def test_a_mini_batch_without_alpha_is_divided_by_its_share_of_the_prompts(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    """Two of four groups have signal: each mini-batch of one is its mean times 2 / 4, as both in one update."""
    denominator, divided = Grpo.denominator, []

    def noted(*given: Any) -> float:
        divided.append(denominator(*given))
        return divided[-1]

    monkeypatch.setattr(Grpo, "counts_silent", property(lambda _: False))
    monkeypatch.setattr(Grpo, "denominator", noted)
    update = UpdateConfig(groups_per_update=1)
    Counted(monkeypatch, model_folders["qwen2_vl"], update, name="grpo", reduction="group").run(2)
    assert divided == [2.0, 2.0]


def test_entropy_is_a_mean_over_tokens_and_none_of_gold(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    """A new model's tokens are nearly equally likely."""
    entropies = {}
    for name in ("gpg", "supervised"):
        counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, name=name)
        collected = learner_gradients.collect(counted.groups, counted.objective, Accelerator())
        stats = counted.learner.accumulate_gradient(counted.learner.open_rollout(1, collected))
        assert stats is not None
        entropies[name] = stats.entropy
    assert entropies["supervised"] is None
    num_logits = len(counted.learner._adapter.head_weight)
    assert entropies["gpg"] == pytest.approx(math.log(num_logits), rel=0.1)


def test_the_gap_is_that_between_the_rollouts_log_probs_and_the_updates(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    """The same forward gives none; log-probs that are off by 0.25, or off by 0.5 for one token, show as such."""
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], UpdateConfig(tokens_per_micro_batch=48), name="gpg")
    measured = counted.learner._measure(counted.groups)

    def gaps(shift: float, of_first: float = 0.0) -> tuple[float, float]:
        groups = [
            replace(group, completions=tuple(
                replace(completion, log_probs=tuple(value + shift for value in values))
                for completion, values in zip(group.completions, of_group, strict=True)
            ))
            for group, of_group in zip(counted.groups, measured, strict=True)
        ]  # fmt: skip
        n = next(n for n, group in enumerate(groups) if counted.objective.trains(group))
        first = groups[n].completions[0]
        moved = replace(first, log_probs=(given(first.log_probs)[0] + of_first, *given(first.log_probs)[1:]))
        groups[n] = replace(groups[n], completions=(moved, *groups[n].completions[1:]))
        rollout = counted.learner.open_rollout(1, learner_gradients.collect(groups, counted.objective, Accelerator()))
        stats = counted.learner.accumulate_gradient(rollout)
        assert stats is not None and stats.num_micro_batches > 1
        return given(stats.log_prob_gap), given(stats.largest_log_prob_gap)

    assert max(gaps(0.0)) < 1e-5
    assert gaps(0.25) == pytest.approx((0.25, 0.25), abs=1e-5)
    mean, largest = gaps(0.0, of_first=0.5)
    assert largest == pytest.approx(0.5, abs=1e-5)
    trained = [group for group in counted.groups if counted.objective.trains(group)]
    num = sum(count_tokens(group.completions) for group in trained)
    assert mean == pytest.approx(0.5 / num, abs=1e-5)


def test_no_gap_without_log_probs_and_in_later_updates(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, name="gpg")
    rollout = counted.learner.open_rollout(
        1, learner_gradients.collect(counted.groups, counted.objective, Accelerator())
    )
    stats = counted.learner.accumulate_gradient(rollout)
    assert stats is not None and (stats.log_prob_gap, stats.largest_log_prob_gap) == (None, None)


def test_a_budget_that_memory_has_halved_is_kept(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The next step begins with it, however short its rows are, and has room for a row that is longer."""
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], UpdateConfig(tokens_per_micro_batch=2**16), name="gpg")
    counted.groups = counted.groups * 12
    longest = max(shortest_budget(counted.objective.training_group(group)) for group in counted.groups)
    forward, most = PolicyForward.forward, 2 * longest

    def limited(module: PolicyForward, batch: Any, *prompt: Any) -> Any:
        if batch.input_ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(module, batch, *prompt)

    monkeypatch.setattr(PolicyForward, "forward", limited)
    counted.run(1)
    said = capsys.readouterr().err
    assert "update.tokens_per_micro_batch" in said
    left = counted.learner._budget()
    assert left.tokens_per_micro_batch <= most and left.patches_per_micro_batch < UpdateConfig().patches_per_micro_batch
    counted.run(1)
    assert capsys.readouterr().err == ""
    assert counted.learner._budget() == left
    counted.learner._tokens = 1
    assert counted.learner._budget().tokens_per_micro_batch == longest


def test_a_budget_of_the_machine_takes_the_place_of_the_recipes(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    """Patches follow when memory has halved it; one below the recipe's has room for the longest row."""
    recipe, patches = UpdateConfig(tokens_per_micro_batch=1000), UpdateConfig().patches_per_micro_batch
    for tokens in (1600, 1):
        chosen = replace(recipe, tokens_per_micro_batch=tokens)
        counted = Counted(monkeypatch, model_folders["qwen2_vl"], recipe, chosen, name="gpg")
        counted.learner.groups = [counted.objective.training_group(group) for group in counted.groups]
        found = counted.learner._budget()
        longest = max(map(shortest_budget, counted.learner.groups))
        assert found.tokens_per_micro_batch == max(tokens, longest)
        assert found.patches_per_micro_batch == patches
    counted.learner._tokens, counted.learner._update = 800, replace(recipe, tokens_per_micro_batch=1600)
    assert counted.learner._budget() == replace(
        recipe, tokens_per_micro_batch=800, patches_per_micro_batch=patches // 2
    )


@pytest.mark.parametrize("is_together", [False, True])
def test_what_the_update_computes_is_checked_where_a_pass_is_no_collective(
    monkeypatch: pytest.MonkeyPatch,
    model_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    is_together: bool,
) -> None:
    """Once, and in rows that fit into the budget."""
    budgets: list[int] = []
    check = learner_module.check_rounding
    monkeypatch.setattr(learner_module, "check_rounding", lambda *given: budgets.append(given[-1]) or check(*given))
    for chosen in (10**5, 300):
        update = replace(ONE_UPDATE, tokens_per_micro_batch=chosen)
        counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, update, name="gpg")
        counted.learner._is_checked, counted.learner.layout.needs_equal_passes = False, is_together
        counted.run(1)
        counted.run(1)
        said = lines_naming(capsys.readouterr().err, "self-check")
        assert len(said) == (1 if is_together else 2)
    assert budgets == ([] if is_together else [8192, 300])


def test_a_budget_is_halved_down_to_the_longest_row_and_not_below(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where half the budget would not hold the longest row, and the row alone fits."""
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, name="gpg")
    longest = max(shortest_budget(counted.objective.training_group(group)) for group in counted.groups)
    update = replace(ONE_UPDATE, tokens_per_micro_batch=2 * longest - 1)
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], update, name="gpg")
    forward = PolicyForward.forward

    def limited(module: PolicyForward, batch: Any, *prompt: Any) -> Any:
        if batch.input_ids.numel() > longest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(module, batch, *prompt)

    monkeypatch.setattr(PolicyForward, "forward", limited)
    counted.run(1)
    assert counted.learner._budget().tokens_per_micro_batch == longest


def test_a_step_without_an_update_counts_what_it_sampled_alone(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path]
) -> None:
    counted = Counted(monkeypatch, model_folders["qwen2_vl"], ONE_UPDATE, name="gpg")
    counted.run(1)
    sampled, whole = (counted.learner.useful_flops(counted.groups, has_updated=each) for each in (False, True))
    assert sampled is not None and whole is not None and 0 < sampled < whole
    assert counted.learner.useful_flops([], has_updated=False) == 0
