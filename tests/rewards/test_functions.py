import inspect

import pytest
import transformers

from gpg_vl.rewards.functions import TrainerState

WITHOUT = {"trial_params", "stateful_callbacks"}
"""Fields of transformers that hold objects of its own."""


def test_the_state_has_every_plain_field_of_transformers() -> None:
    fields = set(inspect.signature(transformers.TrainerState).parameters) - WITHOUT
    assert {name for name in fields if not hasattr(TrainerState(), name)} == set()


@pytest.mark.parametrize(("step", "steps", "epoch"), [(0, 40, 0.0), (10, 40, 0.25), (40, 40, 1.0)])
def test_the_run_is_one_epoch(step: int, steps: int, epoch: float) -> None:
    state = TrainerState(step, steps)
    assert (state.epoch, state.num_train_epochs) == (epoch, 1)
    assert (state.global_step, state.max_steps, state.log_history) == (step, steps, [])


def test_an_evaluation_has_no_epoch() -> None:
    assert (TrainerState().epoch, TrainerState().num_train_epochs) == (0.0, 0)
