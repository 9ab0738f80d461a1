"""TrainingGroup -> gradient -> one optimizer step. It owns the scale of the gradient.

The loss is a sum over all completion tokens of the step, divided once by a denominator that is known before the first
backward pass. So the gradient does not depend on micro-batches, ranks or accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from gpg_vl.config import UpdateConfig
from gpg_vl.errors import is_out_of_memory
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.parts import Medium
from gpg_vl.models.packed.kept_prompt_keys import KeptPrompt
from gpg_vl.processes.collectives import max_over_ranks
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import RankError, run_together
from gpg_vl.records import Completion, MicroBatch, TrainingGroup, count_tokens
from gpg_vl.screen import say
from gpg_vl.update.importance import Importance
from gpg_vl.update.kept_prompts import KeptPrompts, build_part
from gpg_vl.update.layouts import Layout
from gpg_vl.update.optimizer import set_learning_rate
from gpg_vl.update.packing import PackedRow, build_micro_batch, num_patches, plan_update, shortest_budget
from gpg_vl.update.policy import move_to

T = TypeVar("T")


class UpdateError(RankError):
    """The update cannot continue; the message names the key to change. Raised on all ranks together."""


class OutOfMemory(ValueError):
    """As ``UpdateError``, but raised on one rank, while the others are in the middle of a pass that needs it."""


@dataclass(frozen=True, slots=True)
class PassStats:
    """The forward and backward passes of an update, on this rank."""

    loss: float  # this rank's part of it: the whole one is the sum over the ranks
    surprisal: float  # the sum of -log-prob over this rank's trained tokens, in nats
    num_tokens: int  # of which it is the sum
    gap: float  # the sum of the distances between these log-probs and those of the rollout, in nats
    largest_gap: float
    divergence: float  # the sum of the k3 estimates of the KL from the rollout's distribution to these, in nats
    num_compared: int  # tokens whose log-prob the rollout has kept
    num_micro_batches: int
    num_split_rows: int  # prompts that ran again, for a part of a group that was split
    num_padded_tokens: int  # tokens of the forward passes, padding included
    tokens_per_micro_batch: int  # the budget, less than the recipe's where memory ran out


def accumulate_gradient(
    layout: Layout,
    groups: Sequence[TrainingGroup],
    denominator: float,
    config: UpdateConfig,
    adapter: Adapter,
    accelerator: Accelerator,
    importance: Importance | None = None,
) -> PassStats:
    """Accumulates the gradient of ``sum of coefficient * log-prob / denominator`` in the layout, for ``take_step``.

    If memory runs out and the layout can discard a gradient, all ranks restart the step's update with half the budget,
    for the same groups and the same gradient.

    Args:
        groups: this rank's groups
        denominator: of the whole step, over all ranks
        importance: weights of the tokens whose log-probs the rollout has kept; None: every token counts as it is

    Raises:
        UpdateError, OutOfMemory: memory ran out, and a smaller budget was not possible
    """
    run = partial(_run_passes, layout, groups, denominator, adapter, accelerator, importance)
    if layout.needs_equal_passes:
        try:
            return run(config)
        except RuntimeError as error:  # the others are already in a pass that needs this rank
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(_describe_lack(config, "the ranks run it together and end")) from error
    while True:
        stats = run_together(partial(_none_without_memory, run, config))
        if not max_over_ranks(accelerator, stats is None):
            assert stats is not None
            return stats
        layout.clear()
        config = _halve_budget(config, groups, accelerator)


def _none_without_memory(run: Callable[[UpdateConfig], PassStats], config: UpdateConfig) -> PassStats | None:
    try:
        return run(config)
    except RuntimeError as error:  # torch's own class, or CUDA's and cuBLAS's, which only say so
        if not is_out_of_memory(error):
            raise
        return None


def _run_passes(
    layout: Layout,
    groups: Sequence[TrainingGroup],
    denominator: float,
    adapter: Adapter,
    accelerator: Accelerator,
    importance: Importance | None,
    config: UpdateConfig,
) -> PassStats:
    layout.forward.train()
    # where passes are collectives, the ranks agree before each one; in the other layouts, once for all of them
    prepare = run_together if layout.needs_equal_passes else _at_once
    prompts = KeptPrompts(adapter)
    plan = prepare(lambda: plan_update(groups, config, adapter, keeps_prompts(layout, adapter)))
    num_prompts = sum(not row.parts_left for rows in plan for row in rows)
    passes = level_passes(plan, adapter, accelerator, config.pack) if layout.needs_equal_passes else plan
    loss = surprisal = gap = largest_gap = divergence = 0.0
    num_tokens = padded_tokens = num_compared = 0
    for number, rows in enumerate(passes, start=1):
        PULSE.beat(f"the forward of pass {number} of {len(passes)}")
        prompt = prompts.before(rows)
        batch = prepare(partial(_build_batch, rows, adapter, prompt))
        log_probs = layout.forward(batch, prompt)
        mine = plan[number - 1 : number]  # a filler, which comes last, does not count
        count, kept = _count_tokens(mine), log_probs.new_tensor(_kept_log_probs(mine))
        weights = 1.0 if importance is None else importance.weights(log_probs, kept, _lengths(mine, kept))
        weighted_sum = (batch.coefficients * weights * log_probs).sum()
        gaps = F.pad(log_probs[: len(kept)].detach() - kept, (0, 1))  # never empty
        sums = torch.stack([weighted_sum.detach(), log_probs[:count].detach().sum(), *_measure_gaps(gaps)])
        value, log_prob, *gaps_here = sums.tolist()  # at once: the device waits for it
        num_tokens += count
        surprisal -= log_prob
        gap, largest_gap = gap + gaps_here[0], max(largest_gap, gaps_here[1])
        divergence += gaps_here[2]
        num_compared += len(kept)
        PULSE.beat(f"the backward of pass {number} of {len(passes)}")
        # a loss that is not finite makes the gradient not finite, which every layout notices on all ranks
        layout.backward(weighted_sum * (1 / denominator if math.isfinite(value) else math.nan), number == len(passes))
        prompts.after(rows)
        loss += value / denominator
        padded_tokens += batch.input_ids.numel()
    return PassStats(
        loss, surprisal, num_tokens, gap, largest_gap, divergence, num_compared, len(plan), num_prompts - len(groups),
        padded_tokens + prompts.num_tokens, config.tokens_per_micro_batch,
    )  # fmt: skip


def keeps_prompts(layout: Layout, adapter: Adapter) -> bool:
    """Whether a split group's prompt runs once. Where passes are collectives, all ranks would have to split alike."""
    return adapter.keeps_prompts and not layout.needs_equal_passes


def _measure_gaps(gaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and largest of the distances, and the sum of ``exp(gap) - 1 - gap``, which is 0 where they are equal."""
    distances = gaps.abs()
    return distances.sum(), distances.amax(), (gaps.expm1() - gaps).sum()


def _count_tokens(passes: Sequence[Sequence[PackedRow]]) -> int:
    return sum(count_tokens(row.completions) for rows in passes for row in rows)


def _lengths(passes: Sequence[Sequence[PackedRow]], kept: Tensor) -> list[int]:
    """Those of the completions whose log-probs are kept: all, or none."""
    completions = [completion for rows in passes for row in rows for completion in row.completions]
    return [len(completion.token_ids) for completion in completions] if len(kept) else []


def _kept_log_probs(passes: Sequence[Sequence[PackedRow]]) -> list[float]:
    """Those of the rollout, in the order of the tokens of a pass; empty if it has not kept all of them."""
    completions = [completion for rows in passes for row in rows for completion in row.completions]
    kept = [completion.log_probs for completion in completions if completion.log_probs is not None]
    return [value for of_one in kept for value in of_one] if len(kept) == len(completions) else []


def _at_once(work: Callable[[], T]) -> T:
    return work()


def _build_batch(rows: Sequence[PackedRow], adapter: Adapter, prompt: KeptPrompt | None) -> MicroBatch:
    batch = build_micro_batch(rows, adapter) if prompt is None else build_part(rows[0], adapter)
    return move_to(batch, adapter.device)


def level_passes(
    plan: Sequence[list[PackedRow]], adapter: Adapter, accelerator: Accelerator, pack: bool = True
) -> list[list[PackedRow]]:
    """The same number of passes on every rank, through the same modules; a rank with fewer gets zero-weight rows."""
    count = max_over_ranks(accelerator, len(plan))
    runs_tower = bool(max_over_ranks(accelerator, max((num_patches(rows) for rows in plan), default=0)))
    filler = replace(build_filler_row(adapter, runs_tower), is_packed=pack)
    passes = [[*rows, filler] if runs_tower and not num_patches(rows) else rows for rows in plan]
    return passes + [[filler]] * (count - len(plan))


def build_filler_row(adapter: Adapter, with_image: bool) -> PackedRow:
    """The shortest prompt, with the smallest image if asked for, and one completion token with coefficient zero."""
    views = (adapter.view(1, 1),) if with_image else ()
    images = [Image.new("RGB", (1, 1)) for _ in views]
    text = adapter.render_plain([Medium.IMAGE] if with_image else ["."])
    completion = Completion((adapter.end_token_ids[0],), "", finished=True)
    return PackedRow("filler", adapter.encode(text, images, views), (completion,), ((0.0,),))


def _halve_budget(config: UpdateConfig, groups: Sequence[TrainingGroup], accelerator: Accelerator) -> UpdateConfig:
    """Half of it, or what the longest row on some rank takes where that is more.

    Raises:
        UpdateError: that was the budget already
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    longest = max_over_ranks(accelerator, max(map(shortest_budget, groups), default=0))
    tokens = max(config.tokens_per_micro_batch // 2, longest)
    if tokens >= config.tokens_per_micro_batch:
        raise UpdateError(_describe_lack(config, f"a prompt with one completion takes {longest} tokens"))
    say(f"out of memory: restarting the update with update.tokens_per_micro_batch {tokens}")
    patches = config.patches_per_micro_batch * tokens // config.tokens_per_micro_batch
    return replace(config, tokens_per_micro_batch=tokens, patches_per_micro_batch=max(1, patches))


def _describe_lack(config: UpdateConfig, why: str) -> str:
    return (
        f"out of memory in the update at update.tokens_per_micro_batch={config.tokens_per_micro_batch} ({why}); lower "
        "it, update.patches_per_micro_batch or model.max_pixels, or set model.gradient_checkpointing"
    )


def take_step(layout: Layout, learning_rate: float) -> float:
    """Takes an optimizer step with the accumulated gradient and clears it.

    Returns:
        the gradient's norm before clipping; if it is not finite, no rank has changed its weights
    """
    set_learning_rate(layout.optimizer, learning_rate)
    return layout.step()
