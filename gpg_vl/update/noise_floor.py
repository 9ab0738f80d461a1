"""Checks in the first batch of a run that packed rows differ from plain ones by no more than rounding.

``self_check`` compares forwards in float32, where a difference is small and plain to see. This compares what the update
computes: log-probs and gradients, in the run's own type, where rounding alone moves both. How far is measured too:
plain rows two at a time against the same rows one by one, by the model's own code. That is the noise floor. A few
tokens of two groups are enough; the gradients are those of vectors (norms and biases), which are few and take part in
every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from gpg_vl.errors import is_out_of_memory
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.update.packing import PackedRow, build_micro_batch
from gpg_vl.update.policy import move_to, packed_log_probs

GROUPS, COMPLETIONS, TOKENS = 2, 2, 64
"""What is compared at most: groups, completions of each, tokens of each."""


@dataclass(frozen=True, slots=True)
class Distance:
    log_probs: float  # mean over the tokens, in nats
    gradient: float  # as a fraction of the norm of the plain rows' gradient

    def __str__(self) -> str:
        return f"{self.log_probs:.1e} nats and {self.gradient:.1e} of the gradient"


@dataclass(frozen=True, slots=True)
class Rounding:
    packed: Distance  # packed rows from plain ones
    floor: Distance  # plain rows two at a time from the same one by one

    def __str__(self) -> str:
        return (
            f"packed rows are {self.packed} from plain ones, which are {self.floor} from themselves, two at a time "
            "and one by one"
        )


ALLOWANCE = {torch.float32: Distance(1e-4, 1e-3), torch.bfloat16: Distance(0.1, 0.1)}
"""What packed rows may differ by beyond twice the noise floor, which is 0 where a kernel computes rows one by one.

Recurrent layers that go on from a prompt's state round otherwise than in a whole row: by 0.03 nats in tiny models under
autocast. What is wrong in the log-probs shows in float32 already (``self_check``).
"""


def check_rounding(adapter: Adapter, rows: Sequence[PackedRow], temperature: float, max_tokens: int) -> Rounding | None:
    """Compares the first rows of a micro-batch; None if they are ordinary rows, or memory holds no two of them.

    Args:
        max_tokens: of a pass

    Raises:
        RuntimeError: packed rows differ by more than twice the noise floor and an allowance
    """
    few = _take_few(rows, max_tokens)
    if not few:
        return None
    try:
        found = measure_rounding(adapter, few, temperature)
    except RuntimeError as error:  # the update starts again with less; this needs its two rows
        if not is_out_of_memory(error):
            raise
        return None
    dtype = adapter.autocast_dtype or adapter.head_weight.dtype
    if not is_noise(found, ALLOWANCE[dtype]):
        raise RuntimeError(
            f"self-check failed on sample {few[0].sample_id}: in {str(dtype).removeprefix('torch.')}, {found}; set "
            "update.pack to false, and report the versions in use"
        )
    return found


def is_noise(found: Rounding, allowance: Distance) -> bool:
    """Whether packed rows are as near as the noise floor says; never if a number is NaN."""
    return (
        found.packed.log_probs <= 2 * found.floor.log_probs + allowance.log_probs
        and found.packed.gradient <= 2 * found.floor.gradient + allowance.gradient
    )


def measure_rounding(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> Rounding:
    """
    Args:
        rows: packed ones
    """
    alone = [
        replace(row, completions=(each,), coefficients=(of_each,), is_packed=False)
        for row in rows
        for each, of_each in zip(row.completions, row.coefficients, strict=True)
    ]

    def batch_of(several: Sequence[PackedRow]) -> Tensor:
        return packed_log_probs(adapter, move_to(build_micro_batch(several, adapter), adapter.device), temperature)

    def plain(row: PackedRow) -> Tensor:
        return plain_log_probs(adapter, row.encoded, row.completions[0], temperature)

    with _as_in_update(adapter), _vectors(adapter) as vectors:
        one_by_one = _follow(adapter, vectors, [partial(plain, row) for row in alone])
        pairs = [alone[n : n + 2] for n in range(0, len(alone), 2)]
        two_at_a_time = _follow(adapter, vectors, [partial(batch_of, pair) for pair in pairs])
        packed = _follow(adapter, vectors, [partial(batch_of, rows)])
    return Rounding(_distance(packed, one_by_one), _distance(two_at_a_time, one_by_one))


def _take_few(rows: Sequence[PackedRow], max_tokens: int) -> list[PackedRow]:
    """The beginnings of a few completions, so that two plain rows fit into a pass; [] if they do not."""
    few = list(rows[:GROUPS])
    length = min(TOKENS, max_tokens // 2 - max(len(row.encoded.token_ids) for row in few))
    if length < 1 or not few[0].is_packed:
        return []
    return [
        replace(
            row,
            completions=tuple(replace(c, token_ids=c.token_ids[:length]) for c in row.completions[:COMPLETIONS]),
            coefficients=tuple(each[:length] for each in row.coefficients[:COMPLETIONS]),
            parts_left=None,
        )
        for row in few
    ]


@contextmanager
def _as_in_update(adapter: Adapter) -> Iterator[None]:
    """Within, the model trains: gradient checkpointing keeps no more than in the update."""
    was_training = adapter.model.training
    adapter.model.train()
    try:
        yield
    finally:
        adapter.model.train(was_training)


@contextmanager
def _vectors(adapter: Adapter) -> Iterator[list[nn.Parameter]]:
    """The trained vectors, and those of the text model, which have a gradient within where they are frozen too."""
    named = [(name, each) for name, each in adapter.model.named_parameters() if each.ndim == 1]
    vectors = [each for name, each in named if each.requires_grad or adapter.part_of(name) == "text"]
    frozen = [each for each in vectors if not each.requires_grad]
    for each in frozen:
        each.requires_grad_(requires_grad=True)
    try:
        yield vectors
    finally:
        for each in frozen:
            each.requires_grad_(requires_grad=False)


Followed = tuple[Tensor, Tensor]
"""Log-probs [M] of all tokens, and the gradient of their sum, float32."""


def _follow(adapter: Adapter, vectors: Sequence[nn.Parameter], passes: Sequence[Callable[[], Tensor]]) -> Followed:
    """Runs passes forward and back; the weights keep the gradients they have."""
    found: list[Tensor] = []
    gradient = torch.zeros(sum(each.numel() for each in vectors), device=adapter.device)
    for run in passes:
        with adapter.autocast():
            log_probs = run()
        parts = torch.autograd.grad(log_probs.sum(), vectors, allow_unused=True, materialize_grads=True)
        gradient += torch.cat([each.float() for each in parts])
        found.append(log_probs.detach())
    return torch.cat(found), gradient


def _distance(found: Followed, expected: Followed) -> Distance:
    gap, off = (found[0] - expected[0]).abs().mean(), (found[1] - expected[1]).norm()
    return Distance(float(gap), float(off / expected[1].norm()) if off else 0.0)
