"""Every objective's loss as its source writes it: loops over groups, completions and tokens, in float64, with autograd.

Nothing here is the kit's: formulas stand as in docs/objectives.md, each loss over all sampled groups at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.written import Numbers


@dataclass(frozen=True)
class Leaves:
    """A group with its current log-probs as tensors [T] to differentiate by."""

    rewards: Tensor  # [G]
    current: list[Tensor]
    old: list[Tensor]
    reference: list[Tensor]
    finished: list[bool]

    @property
    def is_mixed(self) -> bool:
        return float(self.rewards.max() - self.rewards.min()) > 1e-5

    @property
    def num_tokens(self) -> int:
        return sum(len(row) for row in self.current)


def leaves_of(numbers: Numbers) -> Leaves:
    def tensors(rows: Sequence[Sequence[float]]) -> list[Tensor]:
        return [torch.tensor(row, dtype=torch.float64) for row in rows]

    current = [row.requires_grad_() for row in tensors(numbers.current)]
    finished = list(numbers.finished or [True] * len(current))
    rewards = torch.tensor(numbers.rewards, dtype=torch.float64)
    return Leaves(rewards, current, tensors(numbers.old), tensors(numbers.reference), finished)


def gradients_of(loss: Tensor, groups: Sequence[Leaves]) -> list[float]:
    """By every current log-prob, 0 where the loss does not depend on it."""
    rows = [row for group in groups for row in group.current]
    if not loss.requires_grad:
        return [0.0 for row in rows for _ in row]
    found = torch.autograd.grad(loss, rows, allow_unused=True, materialize_grads=True)
    return [float(value) for row in found for value in row]


# --- parts ---


def centred(x: Tensor) -> Tensor:
    return x - x.mean()


def clip(ratio: Tensor, o: Any) -> Tensor:
    return ratio.clamp(1 - o.clip_low, 1 + o.clip_high)


def clip_loss(ratio: Tensor, advantage: Tensor | float, o: Any) -> Tensor:
    return -torch.min(ratio * advantage, clip(ratio, o) * advantage)


def normalised(x: Tensor, o: Any) -> Tensor:
    return centred(x) / (x.std() + o.f_norm_eps if o.f_norm == "std" else 1.0)


def advantages_of(group: Leaves, o: Any) -> Tensor:
    return normalised(group.rewards, o) if group.is_mixed else torch.zeros_like(group.rewards)


def ratios(group: Leaves) -> list[Tensor]:
    return [torch.exp(now - old) for now, old in zip(group.current, group.old, strict=True)]


def sums(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([row.sum() for row in rows])


def total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum() if values else torch.zeros((), dtype=torch.float64)


def token_mean(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(rows)).mean()


def sequence_mean(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([row.mean() for row in rows]).mean()


def reduced(groups: Sequence[Sequence[Tensor]], reduction: str) -> Tensor:
    """The mean of token losses [groups][G][T] over tokens, completions or groups."""
    rows = [row for group in groups for row in group]
    if reduction == "sequence_sum":
        return sums(rows).mean()
    if reduction == "group":
        return torch.stack([token_mean(group) for group in groups]).mean()
    return token_mean(rows) if reduction == "token" else sequence_mean(rows)


def over_pairs(loss: Callable[[int, int], Tensor], rewards: Tensor, pairs: str) -> Tensor:
    size = len(rewards)
    chosen = {
        "all": list(itertools.combinations(range(size), 2)),
        "disjoint": [(2 * k, 2 * k + 1) for k in range(size // 2)],
        "best_worst": [(int(rewards.argmax()), int(rewards.argmin()))],
        "first": [(0, 1)],
    }[pairs]
    if chosen[0][0] == chosen[0][1]:  # all rewards equal
        chosen = [(0, 1)]
    return torch.stack([loss(i, j) for i, j in chosen]).mean()


# --- the losses, over all sampled groups ---


def gpg(groups: Sequence[Leaves], o: Any) -> Tensor:
    mixed = [g for g in groups if g.is_mixed]
    rows = [[-a * row for a, row in zip(advantages_of(g, o), g.current, strict=True)] for g in mixed]
    share = len(mixed) / len(groups)  # 1 / alpha
    alpha = 1 / (share + o.alpha_eps) if o.alpha else 1.0
    if o.reduction == "token_official":
        return alpha * total([row.sum() for group in rows for row in group]) / sum(g.num_tokens for g in groups)
    return alpha * share * reduced(rows, o.reduction)


def reinforce(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = [[-a * row for a, row in zip(centred(g.rewards), g.current, strict=True)] for g in groups]
    if o.reduction != "group" or o.completions_per_pass is None:
        return reduced(rows, o.reduction)
    size = o.completions_per_pass
    passes = [[token_mean(row[i : i + size]) for i in range(0, len(row), size)] for row in rows]
    return torch.stack([torch.stack(each).mean() for each in passes]).mean()


def rloo(groups: Sequence[Leaves], o: Any) -> Tensor:
    losses = []
    for g in groups:
        rewards = g.rewards - o.kl_coefficient * (sums(g.old) - sums(g.reference))
        for i, (now, old) in enumerate(zip(g.current, g.old, strict=True)):
            others = torch.cat([rewards[:i], rewards[i + 1 :]])
            losses.append(clip_loss(torch.exp(now.sum() - old.sum()), rewards[i] - others.mean(), o))
    return torch.stack(losses).mean()


def grpo(groups: Sequence[Leaves], o: Any) -> Tensor:
    def of_group(g: Leaves) -> list[Tensor]:
        rows = []
        for a, w, now, ref in zip(advantages_of(g, o), ratios(g), g.current, g.reference, strict=True):
            k3 = torch.exp(ref - now) - (ref - now) - 1
            rows.append(clip_loss(w, a, o) + o.kl_coefficient * k3)
        return rows

    counted = [g for g in groups if g.is_mixed or not o.alpha or o.kl_coefficient > 0]
    return reduced([of_group(g) for g in counted], o.reduction)


def dr_grpo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = [clip_loss(w, a, o) for g in groups for a, w in zip(centred(g.rewards), ratios(g), strict=True)]
    return total([row.sum() for row in rows]) / (len(rows) * o.max_length)


def dapo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = []
    for g in (g for g in groups if g.is_mixed):
        penalties = []
        for row in g.current:
            n, cache, limit = len(row), o.overlong_cache or 1, o.max_length
            if not o.overlong_cache or n <= limit - cache:
                penalties.append(0.0)
            elif n <= limit:
                penalties.append(((limit - cache) - n) / cache)
            else:
                penalties.append(-1.0)
        shaped = g.rewards + torch.tensor(penalties, dtype=torch.float64)
        same = float(shaped.max() - shaped.min()) == 0
        advantages = torch.zeros_like(shaped) if same else normalised(shaped, o)
        for a, w, is_finished in zip(advantages, ratios(g), g.finished, strict=True):
            if is_finished or not o.mask_unfinished:
                rows.append(clip_loss(w, a, o))
    return token_mean(rows)


def gspo(groups: Sequence[Leaves], o: Any) -> Tensor:
    losses = [
        clip_loss(torch.exp((now - old).mean()), a, o)
        for g in groups
        for a, now, old in zip(advantages_of(g, o), g.current, g.old, strict=True)
    ]
    return torch.stack(losses).mean()


def cispo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = [
        -w.clamp(max=o.max_ratio).detach() * a * now
        for g in groups
        for a, w, now in zip(advantages_of(g, o), ratios(g), g.current, strict=True)
    ]
    return token_mean(rows)


def sapo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = []
    for g in groups:
        for a, w in zip(advantages_of(g, o), ratios(g), strict=True):
            tau = o.gate_temperatures[0 if a > 0 else 1]
            rows.append(-torch.sigmoid(tau * (w - 1)) * 4 / tau * a)
    return sequence_mean(rows)


def raft(groups: Sequence[Leaves], o: Any) -> Tensor:
    weights = [torch.where(g.rewards > o.accept_above, g.rewards.clamp(min=0), 0.0) for g in groups]
    pairs = [
        (weight, row) for g, w in zip(groups, weights, strict=True) for weight, row in zip(w, g.current, strict=True)
    ]
    if o.form == "code":
        return token_mean([-weight * row for weight, row in pairs])
    return sequence_mean([-weight * row for weight, row in pairs if weight > 0])


def raft_pp(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = []
    for g in groups:
        for reward, w in zip(g.rewards, ratios(g), strict=True):
            is_accepted = bool(reward > o.accept_above and reward > 0)
            is_best = bool(reward == g.rewards.max())
            weight = reward.clamp(min=0) * is_accepted if o.form == "code" else float(is_best and is_accepted)
            rows.append(-torch.min(w, clip(w, o)) * weight)
    return token_mean(rows) if o.form == "code" else sequence_mean(rows)


def reinforce_rej(groups: Sequence[Leaves], o: Any) -> Tensor:
    low, high = o.reward_range
    rows = []
    for g in groups:
        if not g.is_mixed and o.form == "paper":
            continue
        for reward, w in zip((g.rewards - low) / (high - low) * 2 - 1, ratios(g), strict=True):
            if not g.is_mixed:
                rows.append(0 * w.detach())
            elif reward < 0 and o.form == "code":
                rows.append(torch.min(clip_loss(w, reward, o), -o.max_ratio * reward * torch.ones_like(w)))
            else:
                rows.append(clip_loss(w, reward, o))
    return token_mean(rows) if o.form == "code" else sequence_mean(rows)


def shifts(g: Leaves, anchor: str) -> Tensor:
    return sums(g.current) - sums(g.reference if anchor == "reference" else g.old)


def gvpo(groups: Sequence[Leaves], o: Any) -> Tensor:
    losses = [
        ((o.beta * centred(shifts(g, o.anchor)) - centred(g.rewards)) ** 2).sum() / (2 * (len(g.rewards) - 1))
        for g in groups
    ]
    return torch.stack(losses).mean()


def copg(groups: Sequence[Leaves], o: Any) -> Tensor:
    def of_group(g: Leaves) -> Tensor:
        d = shifts(g, "reference")
        regularised = g.rewards - o.beta / 2 * d
        return over_pairs(lambda i, j: -(regularised[i] - regularised[j]) * (d[i] - d[j]), g.rewards, o.pairs)

    return torch.stack([of_group(g) for g in groups]).mean()


def rebel(groups: Sequence[Leaves], o: Any) -> Tensor:
    def of_group(g: Leaves) -> Tensor:
        d = shifts(g, o.anchor)
        r = g.rewards - o.kl_coefficient * (sums(g.old) - sums(g.reference))
        scale = 1 / o.eta if o.form == "paper" else 1.0
        return over_pairs(lambda i, j: (scale * ((d[i] - d[j]) - o.eta * (r[i] - r[j]))) ** 2, r, o.pairs)

    return torch.stack([of_group(g) for g in groups]).mean()


def apa(groups: Sequence[Leaves], o: Any) -> Tensor:
    if o.form == "sequence":
        return torch.cat([(shifts(g, "reference") - centred(g.rewards) / o.beta) ** 2 for g in groups]).mean()
    rows = [
        (now - ref - a / o.beta) ** 2
        for g in groups
        for a, now, ref in zip(centred(g.rewards), g.current, g.reference, strict=True)
    ]
    return token_mean(rows)


def em_pg(groups: Sequence[Leaves], o: Any) -> Tensor:
    if o.form == "centred":
        return torch.cat([-centred(g.rewards) * sums(g.current) for g in groups]).mean()
    taken = [g for g in groups if g.rewards.sum() > 0]
    return torch.stack([-(g.rewards / g.rewards.sum() * sums(g.current)).sum() for g in taken]).mean()


def agpo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = []
    for g in groups:
        advantages = advantages_of(g, o)
        if not g.is_mixed and o.form == "v3":
            continue
        if not g.is_mixed:
            low, high = o.reward_range
            mean = float(g.rewards.mean())
            advantages = torch.full_like(g.rewards, 1.0 if mean == high else -1.0 if mean == low else 0.0)
        rows.append([clip_loss(w, a, o) for a, w in zip(advantages, ratios(g), strict=True)])
    return reduced(rows, o.reduction)


def gapo(groups: Sequence[Leaves], o: Any) -> Tensor:
    rows = [clip_loss(w, a, o) for g in groups for a, w in zip(advantages_of(g, o), ratios(g), strict=True)]
    return sequence_mean(rows)


WRITTEN: dict[str, Callable[[Sequence[Leaves], Any], Tensor]] = {
    "gpg": gpg,
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "sapo": sapo,
    "raft": raft,
    "raft_pp": raft_pp,
    "reinforce_rej": reinforce_rej,
    "gvpo": gvpo,
    "copg": copg,
    "rebel": rebel,
    "apa": apa,
    "em_pg": em_pg,
    "agpo": agpo,
    "gapo": gapo,
}
