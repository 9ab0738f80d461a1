"""Gradients against TRL 1.16's own loss on the same log-probs, on and off policy, for every objective that it has."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gpg_vl.config import ObjectiveConfig
from tests.support.written import Numbers, follow

pytest.importorskip("trl", reason="TRL is an extra of its own: pip install -c constraints.txt -e '.[bench]'")

MAX_LENGTH = 9
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"name": "grpo"}, {"loss_type": "grpo"}),
    "grpo with KL": ({"name": "grpo", "kl_coefficient": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
    "dr_grpo": ({"name": "dr_grpo"}, {"loss_type": "dr_grpo", "scales": False}),
    "dapo": ({"name": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": (
        {"name": "gspo"},
        {"loss_type": "grpo", "epsilon_low": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence"},
    ),
    "cispo": ({"name": "cispo"}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": ({"name": "sapo"}, {"loss_type": "sapo"}),
}


def draw(seed: int, spread: float, rewards: Sequence[float]) -> Numbers:
    rng = random.Random(seed)
    lengths = [rng.randint(1, MAX_LENGTH) for _ in rewards]

    def rows(base: Any, by: float) -> Any:
        return tuple(tuple(value + rng.gauss(0, by) for value in row) for row in base)

    current = rows([[-2.0] * n for n in lengths], 1.0)
    return Numbers(tuple(rewards), current, rows(current, spread), rows(current, 0.3))


@pytest.fixture(scope="module")
def trainer(model_folders: dict[str, Any]) -> Any:
    from benchmarks import trl_side
    from gpg_vl.config import ModelConfig
    from gpg_vl.models import load_adapter
    from tests.support.builders import SMALL_IMAGES

    adapter = load_adapter(ModelConfig(path=str(model_folders["qwen2_vl"]), **SMALL_IMAGES))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl_side.build_trainer(adapter, 8, 4, MAX_LENGTH)
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.use_bias_correction_kl = False  # of DeepSeek-V3.2
    trainer.model.train()
    return trainer


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def trl_gradients(trainer: Any, groups: Sequence[Numbers], options: dict[str, Any], is_fresh: bool) -> list[float]:
    """By every log-prob, row by row."""
    current = padded([row for group in groups for row in group.current]).requires_grad_()
    lengths = [n for group in groups for n in group.lengths]
    mask = torch.tensor([[t < n for t in range(current.shape[1])] for n in lengths]).long()
    advantages = []
    for group in groups:
        rewards = torch.tensor(group.rewards, dtype=torch.float64)
        centred = rewards - rewards.mean()
        advantages.append(centred / (rewards.std() + 1e-4) if options.get("scales", True) else centred)
    inputs = {
        "prompt_ids": torch.zeros((len(lengths), 1), dtype=torch.long),
        "prompt_mask": torch.ones((len(lengths), 1), dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": torch.cat(advantages),
        "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": padded([row for group in groups for row in group.reference]),
    }
    if not is_fresh:
        inputs["old_per_token_logps"] = padded([row for group in groups for row in group.old])
    settings = {
        "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token",
        "max_completion_length": MAX_LENGTH, **options,
    }  # fmt: skip
    for name, value in settings.items():
        setattr(trainer, name, value)
    trainer._get_per_token_logps_and_entropies = lambda *words, **names: (current, torch.zeros_like(current), None)
    trainer._compute_loss(trainer.model, inputs).backward()
    assert current.grad is not None
    return [float(x) for row, n in zip(current.grad, lengths, strict=True) for x in row[:n]]


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.1, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_trl(trainer: Any, case: str, spread: float) -> None:
    keys, options = CASES[case]
    for seed in range(5):
        groups = [draw(seed, spread, [1.0, 0.0, 0.25, 0.75]), draw(seed + 50, spread, [0.0, 1.0, 1.0, 0.0])]
        is_fresh = spread == 0.0
        found = follow(ObjectiveConfig(**keys), groups, not is_fresh, MAX_LENGTH).flat
        expected = trl_gradients(trainer, groups, options, is_fresh)
        largest = max(map(abs, expected))
        assert largest > 1e-4
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 * largest)


@pytest.mark.parametrize("case", ["grpo", "dr_grpo", "gspo", "cispo", "sapo"])
def test_groups_of_one_reward_stay_in_the_mean_as_in_trl(trainer: Any, case: str) -> None:
    keys, options = CASES[case]
    groups = [draw(1, 0.1, [1.0, 0.0, 0.25, 0.75]), draw(2, 0.1, [1.0] * 4)]
    found = follow(ObjectiveConfig(**keys), groups, is_reused=True, max_new_tokens=MAX_LENGTH).flat
    assert found == pytest.approx(trl_gradients(trainer, groups, options, is_fresh=False), rel=1e-6, abs=1e-12)
