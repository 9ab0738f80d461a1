"""The reference's test vectors, through the kit's own coefficients, losses and denominators."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch

from gpg_vl.config import ObjectiveConfig
from gpg_vl.learned.discriminator import discriminator_loss
from tests.support.shared_data import SHARED_DATA
from tests.support.written import Numbers, follow

VECTORS = SHARED_DATA.parent / "reference/objective_vectors.json"
pytestmark = pytest.mark.skipif(not VECTORS.is_file(), reason=f"no objective vectors in {SHARED_DATA.parent}")

STD: dict[str, Any] = {"f_norm": "std", "f_norm_eps": 1e-4}
CASES: dict[str, dict[str, Any]] = {
    "reinforce_token_mean": {"name": "reinforce", "reduction": "token"},
    "reinforce_seq_mean": {"name": "reinforce", "reduction": "sequence"},
    "reinforce_seq_sum": {"name": "reinforce", "reduction": "sequence_sum"},
    "reinforce_nanochat_two_pass": {"name": "reinforce", "completions_per_pass": 2},
    "rloo_seq_sum": {"name": "rloo"},
    "rloo_trl_ratio_kl": {"name": "rloo", "kl_coefficient": 0.05},
    "grpo_onpolicy": {"name": "grpo"},
    "grpo_onpolicy_nostd": {"name": "grpo", "f_norm": "one"},
    "grpo_offpolicy": {"name": "grpo"},
    "grpo_offpolicy_kl": {"name": "grpo", "kl_coefficient": 0.04},
    "grpo_dead_group_kl": {"name": "grpo", "kl_coefficient": 0.04},
    "grpo_batch": {"name": "grpo"},
    "drgrpo_onpolicy": {"name": "dr_grpo"},
    "drgrpo_offpolicy": {"name": "dr_grpo", "max_length": 8},
    "dapo_offpolicy": {"name": "dapo"},
    "dapo_overlong": {"name": "dapo", "max_length": 4, "overlong_cache": 2},
    "dapo_batch_filtered": {"name": "dapo"},
    "gpg_paper_single": {"name": "gpg"},
    "gpg_paper_single_fstd": {"name": "gpg", "f_norm": "std"},
    "gpg_paper_batch": {"name": "gpg"},
    "gpg_multimodal_single": {"name": "gpg", "reduction": "sequence", "alpha_eps": 1e-5},
    "gpg_multimodal_batch": {"name": "gpg", "reduction": "sequence", "alpha_eps": 1e-5},
    "gpg_multimodal_batch_no_adjust": {"name": "gpg", "reduction": "sequence", "alpha": False, **STD},
    "gpg_unimodal_batch": {"name": "gpg", "reduction": "token_official"},
    "raft_code": {"name": "raft"},
    "raft_positive_only_seq": {"name": "raft", "form": "accepted"},
    "raftpp_code": {"name": "raft_pp"},
    "raftpp_onpolicy": {"name": "raft_pp"},
    "raftpp_paper": {"name": "raft_pp", "form": "paper"},
    "reinforce_rej_pm1": {"name": "reinforce_rej", "reward_range": (-1, 1)},
    "reinforce_rej_01": {"name": "reinforce_rej", "reward_range": (-1, 1)},
    "reinforce_rej_batch": {"name": "reinforce_rej", "reward_range": (-1, 1)},
    "reinforce_rej_batch_paper": {"name": "reinforce_rej", "reward_range": (-1, 1), "form": "paper"},
    "gvpo": {"name": "gvpo"},
    "gvpo_onpolicy": {"name": "gvpo"},
    "gvpo_ref_anchor": {"name": "gvpo", "anchor": "reference"},
    "copg_all_pairs": {"name": "copg", "beta": 0.1},
    "copg_one_pair": {"name": "copg", "beta": 0.1, "pairs": "first"},
    "rebel_all_pairs": {"name": "rebel"},
    "rebel_eta10_ref": {"name": "rebel", "eta": 10.0, "anchor": "reference"},
    "rebel_paper_form": {"name": "rebel", "eta": 2.0, "form": "paper"},
    "rebel_disjoint_pairs": {"name": "rebel", "pairs": "disjoint"},
    "rebel_best_worst": {"name": "rebel", "pairs": "best_worst"},
    "apa_token": {"name": "apa", "form": "token", "beta": 1.0},
    "apa_token_lambda01": {"name": "apa", "form": "token"},
    "apa_seq": {"name": "apa"},
    "apa_seq_onpolicy": {"name": "apa"},
    "empg_centered": {"name": "em_pg"},
    "empg_posterior": {"name": "em_pg", "form": "posterior"},
    "agpo_v1_batch": {"name": "agpo", "form": "v1", "reward_range": (0, 1)},
    "agpo_v3_mask_seq": {"name": "agpo"},
    "agpo_v3_mask_token": {"name": "agpo", "reduction": "token"},
    "gapo_policy_grouped": {"name": "gapo"},
}
LEFT_OUT = {
    "gpg_verl_batch": "verl's alpha counts zero rewards; the kit has no such form",
    "gapo_discriminator": "below: it is no objective of completions",
}


def read_vectors() -> dict[str, dict[str, Any]]:
    return {vector["name"]: vector for vector in json.loads(VECTORS.read_text())}


def numbers_of(vector: dict[str, Any]) -> list[Numbers]:
    inputs = vector["inputs"]
    current = inputs["logprobs"]
    columns = zip(
        inputs["group_index"], inputs["rewards"], current, inputs.get("old_logprobs", current),
        inputs.get("ref_logprobs", current), strict=True,
    )  # fmt: skip
    groups = []
    for _, members in itertools.groupby(columns, key=lambda column: column[0]):
        _, rewards, *rows = zip(*members, strict=True)
        groups.append(Numbers(tuple(map(float, rewards)), *(tuple(map(tuple, each)) for each in rows)))
    return groups


def test_every_vector_is_tried_or_left_out_for_a_reason() -> None:
    assert set(read_vectors()) == set(CASES) | set(LEFT_OUT)


@pytest.mark.parametrize("name", CASES)
def test_vector(name: str) -> None:
    vector = read_vectors()[name]
    found = follow(ObjectiveConfig(**CASES[name]), numbers_of(vector), is_reused="old_logprobs" in vector["inputs"])
    assert found.loss == pytest.approx(vector["expected_loss"], abs=1e-12)
    assert found.flat == pytest.approx([each for row in vector["expected_grad_token"] for each in row], abs=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if "onpolicy" in name])
def test_vector_of_the_first_update_without_any_log_probs(name: str) -> None:
    """The update measures none where all would be those of the policy that sampled."""
    vector = read_vectors()[name]
    found = follow(ObjectiveConfig(**CASES[name]), numbers_of(vector), is_reused=False)
    assert found.flat == pytest.approx([each for row in vector["expected_grad_token"] for each in row], abs=1e-12)


def test_vector_of_the_discriminator() -> None:
    vector = read_vectors()["gapo_discriminator"]
    logits = torch.tensor(vector["inputs"]["discriminator_logits"], dtype=torch.float64, requires_grad=True)
    loss = discriminator_loss(logits, torch.tensor(vector["inputs"]["labels"], dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(vector["expected_loss"], abs=1e-12)
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx(vector["expected_grad_logits"], abs=1e-12)


def test_the_reward_of_the_policy_s_vector_is_the_discriminator_s() -> None:
    inputs = read_vectors()["gapo_policy_grouped"]["inputs"]
    logits = torch.tensor(inputs["discriminator_logits"], dtype=torch.float64)
    assert inputs["rewards"] == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-12)
