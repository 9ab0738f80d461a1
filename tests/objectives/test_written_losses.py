"""Every objective's loss and coefficients against autograd of the loss as its source writes it, on generated groups."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import OBJECTIVES, resolve_config
from tests.support.objective_cases import CASES, KEY_CASES, OTHER_VALUES
from tests.support.written import Numbers, Rows, follow
from tests.support.written_losses import WRITTEN, gradients_of, leaves_of

MAX_LENGTH = 8


def draw_rows(rng: random.Random, lengths: list[int], base: Rows | None, spread: float) -> Rows:
    """Log-probs, or some that moved by about ``spread`` from others."""
    if base is None:
        return tuple(tuple(-4 * rng.random() for _ in range(n)) for n in lengths)
    return tuple(tuple(value + rng.gauss(0, spread) for value in row) for row in base)


def draw_group(rng: random.Random, size: int, spread: float, kind: str) -> Numbers:
    lengths = [rng.randint(1, 9) for _ in range(size)]
    current = draw_rows(rng, lengths, None, 0)
    rewards = {
        "mixed": [rng.choice([0.0, 1.0, rng.random()]) for _ in range(size - 2)] + [0.0, 1.0],
        "right": [1.0] * size,
        "wrong": [0.0] * size,
        "even": [0.25] * size,
    }[kind]
    rng.shuffle(rewards)
    old, reference = (draw_rows(rng, lengths, current, spread) for _ in range(2))
    finished = (*(rng.random() < 0.7 for _ in range(size - 1)), True)
    return Numbers(tuple(rewards), current, old, reference, finished)


@st.composite
def batches(draw: st.DrawFn) -> list[Numbers]:
    """Groups of one size; at least one has signal. Some log-ratios are beyond every clip, and most within."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    size = draw(st.integers(2, 5))
    spread = draw(st.sampled_from([1e-4, 0.1, 1.0]))
    kinds = draw(st.lists(st.sampled_from(["mixed", "right", "wrong", "even"]), max_size=3))
    groups = [draw_group(rng, size, spread, kind) for kind in ["mixed", *kinds]]
    rng.shuffle(groups)
    return groups


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=40)
@given(groups=batches())
def test_loss_and_gradient_are_those_of_the_written_loss(case: str, groups: list[Numbers]) -> None:
    assert_as_written(ObjectiveConfig(**CASES[case]), groups)


def assert_as_written(config: ObjectiveConfig, groups: list[Numbers]) -> None:
    loss, gradient = follow_written(config, groups)
    is_reused = OBJECTIVES[config.name].allows_reuse
    found = follow(config, groups, is_reused=is_reused, max_new_tokens=MAX_LENGTH)
    assert found.loss == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert found.flat == pytest.approx(gradient, rel=1e-9, abs=1e-12)


def follow_written(config: ObjectiveConfig, groups: list[Numbers]) -> tuple[float, list[float]]:
    leaves = [leaves_of(each) for each in groups]
    loss = WRITTEN[config.name](leaves, resolve_config(config, MAX_LENGTH))
    return loss.item(), gradients_of(loss, leaves)


@pytest.mark.parametrize("case", KEY_CASES)
@settings(deadline=None, max_examples=15)
@given(groups=batches())
def test_a_key_that_is_set_is_read(case: str, groups: list[Numbers]) -> None:
    _, keys = KEY_CASES[case]
    assert_as_written(ObjectiveConfig(**keys), groups)


WITHOUT_EFFECT = {"raft_pp: clip_low": "min(w, clip(w)) is w below the clip, and no weight of it is negative"}


@pytest.mark.parametrize("case", [case for case in KEY_CASES if case not in WITHOUT_EFFECT])
def test_a_key_that_is_not_read_would_show(case: str) -> None:
    """The written loss of some batch has another gradient without it."""
    without, with_key = (ObjectiveConfig(**keys) for keys in KEY_CASES[case])
    rng = random.Random(0)
    for _ in range(10):
        groups = [draw_group(rng, 4, 0.2, kind) for kind in ("mixed", "mixed", "right", "wrong", "even")]
        (_, expected), (_, found) = (follow_written(config, groups) for config in (without, with_key))
        if found != pytest.approx(expected, rel=1e-3, abs=1e-6):
            return
    raise AssertionError(f"{case} changes nothing")


def test_every_key_is_tried() -> None:
    """But for those of the discriminator, which has tests of its own."""
    for name, objective in OBJECTIVES.items():
        if name != "supervised":
            idle = {key for key in objective.keys if key.startswith(("discriminator_", "relaxed_", "spectral_"))}
            assert set(OTHER_VALUES[name]) == objective.keys - idle


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=20)
@given(groups=batches())
def test_the_first_update_of_a_rollout_needs_no_old_log_probs(case: str, groups: list[Numbers]) -> None:
    """Where the policy is the one that sampled, the coefficients are the same with old log-probs and without."""
    config = ObjectiveConfig(**CASES[case])
    fresh = [each.on_policy() for each in groups]
    leaves = [leaves_of(each) for each in fresh]
    written = WRITTEN[config.name](leaves, resolve_config(config, MAX_LENGTH))
    found = follow(config, fresh, is_reused=False, max_new_tokens=MAX_LENGTH)
    assert found.flat == pytest.approx(gradients_of(written, leaves), rel=1e-9, abs=1e-12)


def test_every_objective_is_tried() -> None:
    assert {keys["name"] for keys in CASES.values()} == set(OBJECTIVES) - {"supervised"} == set(WRITTEN)
    forms = {(keys["name"], resolve_config(ObjectiveConfig(**keys), 8).form) for keys in CASES.values()}
    assert forms == {(name, form) for name in WRITTEN for form in OBJECTIVES[name].forms or (None,)}
