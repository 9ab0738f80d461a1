"""Keys of ``objective:`` that tests run: every objective in each of its forms, and every key with another value."""

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

OTHER_VALUES: dict[str, dict[str, Any]] = {  # of every key that an objective reads
    "gpg": {"f_norm": "std", "f_norm_eps": 0.3, "alpha": False, "alpha_eps": 0.3, "reduction": "token"},
    "reinforce": {"reduction": "token", "completions_per_pass": 1},
    "rloo": {"clip_low": 0.03, "clip_high": 0.03, "kl_coefficient": 0.7},
    "grpo": {
        "f_norm": "one", "f_norm_eps": 0.3, "alpha": True, "reduction": "group", "clip_low": 0.03, "clip_high": 0.03,
        "kl_coefficient": 0.7,
    },
    "dr_grpo": {"clip_low": 0.03, "clip_high": 0.03, "max_length": 5},
    "dapo": {
        "f_norm_eps": 0.3, "clip_low": 0.03, "clip_high": 0.03, "max_length": 5, "overlong_cache": 6,
        "mask_unfinished": True,
    },
    "gspo": {"f_norm": "one", "f_norm_eps": 0.3, "clip_low": 0.2, "clip_high": 0.2},
    "cispo": {"f_norm": "one", "f_norm_eps": 0.3, "max_ratio": 1.05},
    "sapo": {"f_norm": "one", "f_norm_eps": 0.3, "gate_temperatures": (2.0, 0.5)},
    "raft": {"form": "accepted", "accept_above": 0.4},
    "raft_pp": {"form": "paper", "accept_above": 0.4, "clip_low": 0.03, "clip_high": 0.03},
    "reinforce_rej": {
        "form": "paper", "reward_range": (-0.5, 2), "clip_low": 0.03, "clip_high": 0.03, "max_ratio": 1.05,
    },
    "gvpo": {"beta": 0.7, "anchor": "reference"},
    "em_pg": {"form": "posterior"},
    "agpo": {
        "form": "v1", "f_norm_eps": 0.3, "reduction": "token", "clip_low": 0.03, "clip_high": 0.03,
        "reward_range": (0, 2),
    },
    "copg": {"beta": 0.7, "pairs": "best_worst"},
    "rebel": {"form": "paper", "eta": 3.0, "pairs": "disjoint", "anchor": "reference", "kl_coefficient": 0.7},
    "apa": {"form": "token", "beta": 0.7},
    "gapo": {"f_norm": "std", "f_norm_eps": 0.3, "clip_low": 0.03, "clip_high": 0.03},
}  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {  # what a key needs beside it to have an effect
    "gpg: f_norm_eps": {"f_norm": "std"},
    "dapo: max_length": {"overlong_cache": 3},
    "agpo: form": {"reward_range": (0, 1)},
    "agpo: reward_range": {"form": "v1", "reward_range": (0, 1)},
    "rebel: form": {"eta": 3.0},
    "gapo: f_norm_eps": {"f_norm": "std"},
    **{f"reinforce_rej: {key}": {"reward_range": (0, 1)} for key in OTHER_VALUES["reinforce_rej"]},
}
KEY_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{name}: {key}": (base := {"name": name, **BESIDE.get(f"{name}: {key}", {})}, {**base, key: value})
    for name, values in OTHER_VALUES.items()
    for key, value in values.items()
}
"""Keys of ``objective:`` without one key, and with another value of it."""
