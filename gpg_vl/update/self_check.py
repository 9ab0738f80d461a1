"""Checks in the first batch of every run that update and rollout compute what plain rows of the model compute.

With a wrong mask or wrong positions, training would silently go wrong. So before the first step, a micro-batch runs
both as the update runs it and as separate rows with the model's own masks and positions, in float32. Weights that are
rounded are widened for it, most frozen ones, and those that ranks share, a layer at a time. Two prompts of different
length are prefilled together too, with one more token each. The largest difference counts; with a model that is in
bfloat16 itself, where rounding alone can move single tokens far apart, a row's mean.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.vision_records import feature_distance, move_vision
from gpg_vl.models.log_probs import mask_banned
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Encoded
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.expert_choices import changed_share, recording_choices
from gpg_vl.update.kept_prompts import build_part, run_prompt
from gpg_vl.update.packing import PackedRow, build_micro_batch, place_rows
from gpg_vl.update.policy import move_to, packed_log_probs

TOLERANCE = 1e-4
"""Tolerance with float32 weights: largest difference of a token's log-probs, in nats."""
BFLOAT16_TOLERANCE = 0.02
"""Tolerance with bfloat16 weights: mean difference over the tokens of a row, in nats."""
CHANGED_CHOICES = 0.01
"""Tolerance for the routers of a mixture: share of the tokens and layers with other experts."""
FEATURE_TOLERANCE = 0.25
"""Tolerance for image features that were computed in bfloat16: difference as a fraction of their norm."""


@torch.no_grad()
def check_packing(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> float:
    """Difference between packed and plain log-probs of a micro-batch, in nats: the largest, or in bfloat16 the mean.

    Features of images that are encoded beforehand are compared with the images themselves, a part of a group behind its
    kept prompt with plain rows too, and the experts that the routers of a mixture choose in packed and in plain rows.

    Raises:
        RuntimeError: it exceeds the tolerance; training would follow a wrong gradient
    """
    with _exactly(adapter):
        exact = [_with_exact_features(adapter, row) for row in rows]
        batch = move_to(build_micro_batch(exact, adapter), adapter.device)
        with recording_choices(adapter.model) as chosen:
            packed = packed_log_probs(adapter, batch, temperature)
        with recording_choices(adapter.model) as chosen_plainly:
            plain = [_plain_of_row(adapter, row, temperature) for row in exact]
        changed = changed_share(chosen, chosen_plainly, _places(exact, adapter))
        others = (_from_features(adapter, exact, temperature), _behind_prompt(adapter, exact, temperature))
    if not changed <= CHANGED_CHOICES:
        raise RuntimeError(
            f"self-check failed: routers choose other experts for {changed:.1%} of the tokens in packed rows than in "
            "plain ones; set update.pack to false, and report the versions in use"
        )
    return max(_compare(adapter, rows, each, plain) for each in (packed, *others) if each is not None)


@torch.no_grad()
def check_prefill(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> float:
    """Difference between plain rows and a rollout of two prompts, the shorter one padded, in nats.

    It is the mean over all tokens that may be sampled, of the token after the prompt and of the next one.

    Raises:
        RuntimeError: it exceeds the tolerance; completions would not be those of the model
    """
    prompts = _two_prompts(adapter, rows)
    token = torch.tensor([rows[0].completions[0].token_ids[0]] * 2, device=adapter.device)
    with _exactly(adapter):
        rolled = HfEngine(adapter, sys.maxsize).two_steps(prompts, token)
        plain = torch.stack([_plain_steps(adapter, prompt, int(token[0])) for prompt in prompts], dim=1)
    one, other = (_distribution(adapter, logits, temperature) for logits in (rolled, plain))
    found = float((one - other).abs().masked_fill(other == -torch.inf, 0).mean(-1).max())
    tolerance = _tolerance(adapter)
    if not found <= tolerance:
        lengths = " and ".join(str(len(prompt.token_ids)) for prompt in prompts)
        raise RuntimeError(
            f"self-check failed on sample {rows[0].sample_id}: in a rollout of two prompts of {lengths} tokens, "
            f"log-probs differ from those of plain rows by {found:.2e}, more than {tolerance:.0e}; report the versions "
            "in use"
        )
    return found


@contextmanager
def _exactly(adapter: Adapter) -> Iterator[None]:
    """Within, nothing is random, and neither rounded weights nor TF32 are used: they would hide a difference."""
    was_training = adapter.model.training
    precision = torch.get_float32_matmul_precision()
    adapter.model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with adapter.running_in_float32():
            yield
    finally:
        adapter.model.train(was_training)
        torch.set_float32_matmul_precision(precision)


def _tolerance(adapter: Adapter) -> float:
    return BFLOAT16_TOLERANCE if adapter.head_weight.dtype == torch.bfloat16 else TOLERANCE


def _compare(adapter: Adapter, rows: Sequence[PackedRow], found: Tensor, plain: Sequence[Tensor]) -> float:
    """
    Args:
        found: log-probs [M] of the rows' completions
        plain: the same of each row, by plain rows

    Raises:
        RuntimeError: they differ by more than the tolerance in some row
    """
    tolerance, is_rounded = _tolerance(adapter), adapter.head_weight.dtype == torch.bfloat16
    worst = 0.0
    for row, of_row, expected in zip(rows, found.split([len(each) for each in plain]), plain, strict=True):
        gaps = (of_row - expected).abs()
        difference = float(gaps.mean() if is_rounded else gaps.max())
        if not difference <= tolerance:
            way_out = " or update.pack: false" if row.is_packed else ""
            raise RuntimeError(
                f"self-check failed on sample {row.sample_id}: packed and plain log-probs differ by "
                f"{difference:.2e}, more than {tolerance:.0e}; try model.attention: eager{way_out}, and report the "
                "versions"
            )
        worst = max(worst, difference)
    return worst


def _plain_of_row(adapter: Adapter, row: PackedRow, temperature: float) -> Tensor:
    """Log-probs of all completion tokens of a row."""
    return torch.cat([plain_log_probs(adapter, row.encoded, each, temperature) for each in row.completions])


def _places(rows: Sequence[PackedRow], adapter: Adapter) -> list[Tensor]:
    """For each completion, where the tokens of its prompt and its own are in the micro-batch."""
    places = []
    for start, row in zip(place_rows(rows, adapter)[0], rows, strict=True):
        end = start + len(row.encoded.token_ids)
        prompt = torch.arange(start, end)
        for completion in row.completions:
            end += len(completion.token_ids) - 1
            places.append(torch.cat([prompt, torch.arange(end - len(completion.token_ids) + 1, end)]))
    return places


def _from_features(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> Tensor | None:
    """Log-probs of packed rows from features of their images; None if no image of theirs was read as pixels."""
    images = [row.encoded.vision for row in rows if row.encoded.vision is not None]
    if not images or not rows[0].is_packed or any(row.features is not None for row in rows):
        return None
    encoded = [
        None if row.encoded.vision is None else adapter.encode_images(move_vision(row.encoded.vision, adapter.device))
        for row in rows
    ]
    known = [replace(row, features=features) for row, features in zip(rows, encoded, strict=True)]
    return packed_log_probs(adapter, move_to(build_micro_batch(known, adapter), adapter.device), temperature)


def _behind_prompt(adapter: Adapter, rows: Sequence[PackedRow], temperature: float) -> Tensor | None:
    """Log-probs of a part of a group behind its prompt's keys and values; None if the rows run their own prompts."""
    if rows[0].parts_left is None:
        return None
    prompt = run_prompt(adapter, rows[0])
    return packed_log_probs(adapter, move_to(build_part(rows[0], adapter), adapter.device), temperature, prompt)


def _two_prompts(adapter: Adapter, rows: Sequence[PackedRow]) -> list[Encoded]:
    """The longest prompt of the rows and a shorter one, of them or made up."""
    prompts = sorted((row.encoded for row in rows), key=lambda encoded: len(encoded.token_ids))
    if len(prompts[0].token_ids) < len(prompts[-1].token_ids):
        return [prompts[-1], prompts[0]]
    return [prompts[-1], adapter.encode(adapter.render_plain(["."]), [], [])]


def _plain_steps(adapter: Adapter, prompt: Encoded, token: int) -> Tensor:
    """Logits [2, V] after a prompt, and after one token more, of one ordinary row."""
    return adapter.plain_logits(prompt, [token], 2)


def _distribution(adapter: Adapter, logits: Tensor, temperature: float) -> Tensor:
    return mask_banned(logits / temperature, adapter.banned_token_ids).log_softmax(-1)


def _with_exact_features(adapter: Adapter, row: PackedRow) -> PackedRow:
    """The row with image features in float32; with ``model.dtype: bfloat16`` those of the rollout are rounded.

    Raises:
        RuntimeError: the rollout's features do not belong to the row's images
    """
    vision = row.encoded.vision
    if row.features is None or adapter.config.dtype == "float32" or vision is None:
        return row
    exact = adapter.encode_images(move_vision(vision, adapter.device))
    difference = feature_distance(row.features, exact)
    if not difference <= FEATURE_TOLERANCE:
        raise RuntimeError(
            f"self-check failed on sample {row.sample_id}: the image features of the rollout differ from those "
            f"of its images by {difference:.2f} times their norm; report the versions in use"
        )
    return replace(row, features=exact)
