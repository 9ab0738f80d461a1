"""Collecting the groups of a step: when it draws again, what it keeps, and what it counts, on one rank and on two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.collect import gather_collected
from gpg_vl.processes.pulse import PULSE
from gpg_vl.records import CollectedGroups, LoggedGroup, Reward, ScoredGroup, StepTotals
from gpg_vl.tasks import TASKS
from tests.support.collectors import Outcome, collect_on_two_ranks, describe, ids, ids_in_order, lengths, make_collector
from tests.support.hostile_groups import group as make_group

S: Outcome = "signal"
N: Outcome = "silent"
F: Outcome = "failure"
B: Outcome = "bad image"


def collect(outcomes: list[Outcome], prompts_per_step: int, beta_th: float, **options: Any) -> CollectedGroups:
    collector, _ = make_collector(outcomes, Accelerator(), prompts_per_step, beta_th, **options)
    return collector.collect(1)


def brute_force(
    outcomes: list[Outcome], prompts_per_step: int, beta_th: float, max_draws: int
) -> tuple[int, list[str]]:
    """Number of draws, and what has signal among them, as section 3.2 says it."""
    signals = 0
    for draw in range(1, max_draws + 1):
        signals += outcomes[(draw - 1) * prompts_per_step : draw * prompts_per_step].count("signal")
        if signals >= beta_th * prompts_per_step:
            break
    drawn = ids_in_order(draw * prompts_per_step)
    return draw, [each for each, outcome in zip(drawn, outcomes, strict=False) if outcome == "signal"]


# --- when it draws again ---


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([S, N]), min_size=30, max_size=30), st.integers(1, 6), st.floats(0, 1), st.integers(1, 5)
)
def test_it_draws_until_beta_th_of_the_prompts_have_signal(
    outcomes: list[Outcome], prompts_per_step: int, beta_th: float, max_draws: int
) -> None:
    found = collect(outcomes, prompts_per_step, beta_th, max_draws=max_draws)
    num_draws, trained = brute_force(outcomes, prompts_per_step, beta_th, max_draws)
    assert found.num_draws == num_draws
    assert ids(found.groups) == ids_in_order(num_draws * prompts_per_step)
    assert ids(found.trained) == trained


@pytest.mark.parametrize(("num_signals", "num_draws"), [(2, 2), (3, 1), (4, 1)])
def test_the_threshold_itself_is_enough(num_signals: int, num_draws: int) -> None:
    """beta_th 0.75 of 4 prompts asks for 3 groups with signal: 2 are too few, 3 are not."""
    outcomes: list[Outcome] = [S] * num_signals + [N] * (4 - num_signals) + [S] * 4
    assert collect(outcomes, 4, 0.75).num_draws == num_draws


def test_signal_counts_over_all_draws() -> None:
    """One group of each draw: the third makes the three that are asked for."""
    assert collect([S, N, N, N] * 5, 4, 0.75).num_draws == 3


def test_with_beta_th_0_it_never_draws_again() -> None:
    found = collect([N] * 8, 4, 0.0)
    assert (found.num_draws, found.trained, found.totals.alpha) == (1, [], 0)


def test_max_draws_ends_it_and_what_was_found_is_trained() -> None:
    found = collect([N, S, N, N, N, N, N, S, S, S, S, S], 4, 1.0, max_draws=2)
    assert found.num_draws == 2
    assert ids(found.trained) == [ids_in_order(8)[1], ids_in_order(8)[7]]


# --- what is kept and counted ---


def test_every_group_with_signal_is_kept_though_fewer_were_asked_for() -> None:
    """The second draw brings more than beta_th asks for: no group is sampled in vain."""
    found = collect([N, S, N, N, S, S, S, S], 4, 0.5)
    assert found.num_draws == 2
    assert len(found.trained) == 5
    assert len(found.groups) == 8


def test_counts_are_those_of_the_groups() -> None:
    outcomes: list[Outcome] = [S, N, N, S, N, S, S, N]
    found = collect(outcomes, 4, 0.75)
    tokens = [sum(lengths(each)) for each in ids_in_order(8)]
    assert found.totals.groups == 8
    assert found.totals.tokens == sum(tokens)
    assert found.totals.trained_groups == 4
    assert found.totals.trained_sequences == 8
    with_signal = [n for n, outcome in zip(tokens, outcomes, strict=True) if outcome == S]
    assert found.totals.trained_tokens == sum(with_signal)
    assert found.totals.alpha == 2.0


def test_each_draw_has_seeds_of_its_own() -> None:
    collector, answers = make_collector([N] * 12, Accelerator(), 4, 1.0, max_draws=3)
    collector.collect(7)
    assert answers.seeds == [(3, 7, n // 4, each, 0) for n, each in enumerate(ids_in_order(12))]


# --- groups that cannot be scored, prompts that cannot be read ---


def test_a_dropped_group_is_in_no_count_but_logged() -> None:
    """Two of four are dropped: alpha is 2 / 1, and the one signal is short of beta_th, which goes by the prompts."""
    found = collect([F, S, F, N, S, S, N, N], 4, 0.75, on_error="drop_group")
    drawn = ids_in_order(8)
    assert found.num_draws == 2
    assert ids(found.dropped) == [drawn[0], drawn[2]]
    assert ids(found.groups) == [each for each in drawn if each not in ids(found.dropped)]
    assert found.totals.groups == 6
    assert found.totals.tokens == sum(sum(lengths(each)) for each in ids(found.groups))
    assert found.totals.alpha == 2.0
    logged = describe(found)
    assert logged["logged_dropped"] == [[drawn[0], False], [drawn[2], False]]
    assert logged["logged"] == [[each, each in ids(found.trained)] for each in ids(found.groups)]


def test_a_failure_that_counts_zero_is_an_ordinary_group() -> None:
    """Rewards 0 and 1 of a timeout and a right answer: it has signal."""
    found = collect([F, S, F, N], 4, 0.75)
    assert (found.num_draws, found.totals.groups, found.totals.trained_groups, found.dropped) == (1, 4, 3, [])


def test_another_prompt_takes_the_place_of_one_whose_image_is_bad() -> None:
    found = collect([B, S, N, B, S, S], 4, 0.75)
    drawn = ids_in_order(6)
    assert found.num_draws == 1
    assert ids(found.groups) == [drawn[1], drawn[2], drawn[4], drawn[5]]


def test_opening_images_is_watched_for_hangs() -> None:
    collector, answers = make_collector([S] * 4, Accelerator(), 4, 0.75)
    before = PULSE.last.work
    collector.collect(1)
    assert {beat.work for beat in answers.beats} == {"opening images"}
    assert len(set(answers.beats)) == 4, "each sample is progress"
    assert PULSE.last.work == before


# --- two ranks ---


def test_two_ranks_decide_and_count_as_one_and_share_the_groups() -> None:
    """The ranks have unlike numbers of prompts, of signals, of dropped groups and of images that are bad."""
    outcomes: list[Outcome] = [N, S, F, B, N, N, S, N, N, S, S, S, B, F, S, S]
    options: dict[str, Any] = {"prompts_per_step": 5, "beta_th": 0.8, "on_error": "drop_group"}
    one = describe(collect(outcomes, **options))
    first, second = collect_on_two_ranks(outcomes, **options)
    assert one["draws"] > 1
    assert one["dropped"]
    for key in ("totals", "alpha", "draws"):
        assert first[key] == second[key] == one[key], key
    for key in ("groups", "trained", "dropped"):
        assert first[key], f"the first rank has {key}"
        assert sorted(first[key] + second[key]) == sorted(one[key]), key
    for key in ("logged", "logged_dropped"):
        assert first[key] == second[key], "gathered on every rank"
        assert sorted(first[key]) == sorted(one[key]), key
    assert [each for each, _ in first["logged"]] == first["groups"] + second["groups"], "rank by rank"


ABORT = """
import sys, time
from accelerate import Accelerator
from gpg_vl.processes.ranks import RankError, run_together
from gpg_vl.config import RewardsConfig
from gpg_vl.rewards.scorer import Scorer
from tests.support.hostile_groups import hostile

rank = Accelerator(cpu=True).process_index
with Scorer(RewardsConfig(on_error="abort", timeout_s=1.0)) as scorer:
    assert run_together(lambda: scorer.score([hostile("right")]))[0].rewards[0].total == 1.2
    start = time.monotonic()
    try:
        run_together(lambda: scorer.score([hostile("sleep" if rank == 1 else "right", sample_id=f"row-{rank}")]))
    except RankError as error:
        assert time.monotonic() - start < 10
        sys.stdout.write(f"rank {rank} stopped: {error}\\n")  # at once: the launcher turns buffers off
"""


def test_abort_stops_every_rank_with_the_sample(tmp_path: Path) -> None:
    """Two real processes; the verifier of the second one hangs."""
    (tmp_path / "ranks.py").write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{ABORT}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = subprocess.run(
        [*command, str(tmp_path / "ranks.py")], capture_output=True, text=True, check=False, timeout=240
    )
    stopped = sorted(line for line in ran.stdout.splitlines() if "stopped" in line)
    assert [line[:6] for line in stopped] == ["rank 0", "rank 1"], ran.stderr
    assert all("sample row-1: timeout: no answer within 1 s" in line for line in stopped)


# --- what is logged of a group ---


def logged(*completions: tuple[str, Reward], task: str = "counting") -> LoggedGroup:
    rolled = make_group(*(text for text, _ in completions), task=task)
    scored = ScoredGroup(rolled.prompt, rolled.completions, tuple(reward for _, reward in completions))
    totals = StepTotals(1, 1, 1, 0, 0, 0)
    [found] = gather_collected(CollectedGroups([scored], [0], [], [], totals, 1, 0.0, 0.0), TASKS).groups
    return found


def earned(correct: float, form: float = 1.0, **others: float) -> Reward:
    return Reward(correct + 0.2 * form, {"correct": correct, "format": form, **others}, "ok")


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [
        ([earned(1.0), earned(1.0)], "easy"),
        ([earned(0.0), earned(0.0)], "hard"),  # although its format earned something
        ([earned(1.0), earned(0.0)], "signal"),
        ([earned(1.0), earned(1.0, 0.0)], "signal"),
        ([Reward(0.0, {}, "error"), Reward(0.0, {}, "timeout")], "hard"),
        ([Reward(1.0, {"format": 1.0, "accuracy": 1.0}, "ok")] * 2, "easy"),  # as a published scorer names it
        ([Reward(0.0, {"correct": 1.0, "cost": -1.2}, "ok")] * 2, "easy"),  # nothing in total, yet all are right
    ],
)
def test_groups_without_signal_are_easy_or_hard_by_what_their_task_gave(rewards: list[Reward], kind: str) -> None:
    assert logged(*(("", reward) for reward in rewards)).kind == kind


@pytest.mark.parametrize(("correct", "kind"), [(-1.0, "hard"), (-0.2, "easy"), (0.0, "easy")])
def test_a_main_part_that_is_a_penalty(correct: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TASKS["counting"]), "ranges", {"correct": (-1.0, 0.0)})
    reward = Reward(correct, {"correct": correct}, "ok")
    assert logged(("", reward), ("", reward)).kind == kind


def test_a_main_part_of_another_name() -> None:
    reward = Reward(0.6, {"iou": 0.6, "format": 0.0}, "ok")
    assert logged(("", reward), ("", reward), task="grounding").kind == "easy"


def test_different_answers_are_counted_as_they_are_read() -> None:
    texts = ["<answer>4</answer>", "<think>so</think><answer> 4 </answer>", "<answer>5</answer>", "none", "no place"]
    assert logged(*((text, earned(0.0)) for text in texts)).num_answers == 3
