"""Keys of ``objective:`` that tests run: every objective in each of its forms."""

from __future__ import annotations

from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "gpg": {"name": "gpg"},
    "reinforce": {"name": "reinforce"},
    "reinforce in passes": {"name": "reinforce", "completions_per_pass": 2},
    "reinforce by token": {"name": "reinforce", "reduction": "token"},
    "reinforce by sequence": {"name": "reinforce", "reduction": "sequence"},
    "reinforce of sums": {"name": "reinforce", "reduction": "sequence_sum"},
    "rloo": {"name": "rloo"},
    "rloo with KL": {"name": "rloo", "kl_coefficient": 0.3},
    "grpo": {"name": "grpo"},
    "grpo with KL": {"name": "grpo", "kl_coefficient": 0.3},
    "grpo by token": {"name": "grpo", "reduction": "token"},
    "dr_grpo": {"name": "dr_grpo", "max_length": 11},
    "dapo": {"name": "dapo", "max_length": 8},
    "dapo, shaped and masked": {"name": "dapo", "max_length": 6, "overlong_cache": 4, "mask_unfinished": True},
    "gspo": {"name": "gspo"},
    "cispo": {"name": "cispo"},
    "sapo": {"name": "sapo"},
    "raft": {"name": "raft"},
    "raft, accepted above a threshold": {"name": "raft", "form": "accepted", "accept_above": 0.4},
    "raft_pp": {"name": "raft_pp", "accept_above": 0.4},
    "raft_pp, paper": {"name": "raft_pp", "form": "paper"},
    "reinforce_rej": {"name": "reinforce_rej", "reward_range": (0, 1)},
    "reinforce_rej, paper": {"name": "reinforce_rej", "form": "paper", "reward_range": (-0.5, 1.5)},
    "gvpo": {"name": "gvpo"},
    "gvpo, reference": {"name": "gvpo", "anchor": "reference", "beta": 0.4},
    "copg": {"name": "copg"},
    "copg, disjoint": {"name": "copg", "pairs": "disjoint", "beta": 0.2},
    "rebel": {"name": "rebel"},
    "rebel, paper": {"name": "rebel", "form": "paper", "eta": 3.0, "pairs": "best_worst"},
    "rebel with KL": {"name": "rebel", "anchor": "reference", "pairs": "first", "kl_coefficient": 0.3},
    "apa": {"name": "apa"},
    "apa by token": {"name": "apa", "form": "token", "beta": 0.5},
    "em_pg": {"name": "em_pg"},
    "em_pg, posterior": {"name": "em_pg", "form": "posterior"},
    "agpo": {"name": "agpo"},
    "agpo by token": {"name": "agpo", "reduction": "token"},
    "gapo": {"name": "gapo"},
    "agpo, v1": {"name": "agpo", "form": "v1", "reward_range": (0, 1)},
}
ON_POLICY = {case for case, keys in CASES.items() if keys["name"] in ("gpg", "reinforce")}
