"""The optimizer: AdamW with a group per part of the model, and the learning rate as a plain function of the step."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from gpg_vl.config import ModelConfig, UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.sharding import WHOLE, Sharding
from gpg_vl.screen import say


def build_optimizer(adapter: Adapter, config: UpdateConfig, sharding: Sharding = WHOLE) -> torch.optim.Optimizer:
    """AdamW on the trainable float32 weights, or on their masters, with a group for each part.

    On CUDA it is torch's fused kernel, which needs no copies of the weights for a step. So it is where a layout leaves
    the step to the host's processors, whose threads share it. The adapter's rounded weights follow each step.

    ``lr_scale`` of a group is its part's rate in units of ``config.learning_rate``; ``set_learning_rate`` multiplies by
    it. All groups in sequence hold the weights in the order of ``adapter.trainable_parameters``.

    Raises:
        ValueError: the optimizer is not available on this machine
    """
    groups: list[dict[str, Any]] = []
    for part, named in itertools.groupby(adapter.trainable_parameters(), key=lambda pair: adapter.part_of(pair[0])):
        rate = config.learning_rates.get(part, config.learning_rate)
        parameters = [parameter for _, parameter in named]
        groups.append({"params": parameters, "lr": rate, "lr_scale": rate / config.learning_rate})
    on_cuda = all(each.device.type == "cuda" for group in groups for each in group["params"])
    optimizer = _make_adamw(groups, config, is_fused=on_cuda or sharding.steps_on_host)
    optimizer.register_step_post_hook(lambda *_: adapter.follow_masters())
    return optimizer


def _make_adamw(groups: list[dict[str, Any]], config: UpdateConfig, *, is_fused: bool) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        check_optimizer(config, groups[0]["params"][0].device)
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, **options)
        return optimizer
    if config.optimizer == "adamw_fused":
        try:
            return torch.optim.AdamW(groups, fused=True, **options)
        except RuntimeError as error:  # torch knows which devices have the kernel
            raise ValueError(f"update.optimizer: adamw_fused is not available here ({error}); use adamw") from error
    return torch.optim.AdamW(groups, fused=is_fused or None, **options)


def refuse_shared_moments(config: UpdateConfig, sharding: Sharding) -> None:
    """
    Raises:
        ValueError: the 8-bit optimizer is requested with a layout that shards moments
    """
    if config.optimizer == "adamw_8bit" and not sharding.keeps_whole_moments:
        raise ValueError(
            f"update.optimizer: adamw_8bit stores its moments in blocks that cannot be saved under {sharding.title}; "
            "use adamw, or SHARDING=none"
        )


def check_optimizer(config: UpdateConfig, device: torch.device) -> None:
    """
    Args:
        device: that the trained weights are on

    Raises:
        ValueError: the 8-bit optimizer is requested without its library, or without a device that it runs on
    """
    if config.optimizer != "adamw_8bit":
        return
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        way_out = "pip install 'gpg-vl[bnb]', or use adamw"
        raise ValueError(f"update.optimizer: adamw_8bit needs the library bitsandbytes; {way_out}") from error
    if device.type != "cuda":
        raise ValueError("update.optimizer: adamw_8bit needs a CUDA device; use adamw")


def learning_rate(config: UpdateConfig, step: int, total_steps: int) -> float:
    """Learning rate of ``step``, counted from 0, in a run of ``total_steps``.

    Linear warm-up, times the schedule's decay from 1 to ``min_learning_rate_ratio`` over the whole run. The schedule is
    transformers' and depends on nothing but the step, so a resumed run needs no scheduler state.

    Raises:
        ValueError: the schedule does not accept one of ``config.schedule_options``
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    low = config.min_learning_rate_ratio
    return config.learning_rate * warmup * (low + (1 - low) * _schedule(config, total_steps)(min(step, total_steps)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of the next step, scaled for each part."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def _schedule(config: UpdateConfig, total_steps: int) -> Any:
    """transformers' function from step to fraction of the peak. The optimizer passed in is a dummy."""
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=config.learning_rate)
    options = {name: int(value) if value == int(value) else value for name, value in config.schedule_options.items()}
    try:
        scheduler = get_scheduler(
            config.schedule, stand_in, num_warmup_steps=0, num_training_steps=total_steps,
            scheduler_specific_kwargs=options,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise ValueError(f"update.schedule_options: {config.schedule} does not accept {options}: {error}") from error
    return scheduler.lr_lambdas[0]


def show_trained_parts(adapter: Adapter, model: ModelConfig, update: UpdateConfig) -> None:
    """Prints a line for each part to standard error: how many of its weights are trained, and the peak rate."""
    say(f"{'part':<10} {'parameters':>15} {'trained':>15}  peak learning rate")
    for part, (total, trained) in adapter.num_by_part().items():
        rate = f"{update.learning_rates.get(part, update.learning_rate):g}" if trained else "-"
        lora = f" (LoRA, r {model.lora.r})" if trained and model.lora is not None else ""
        say(f"{part:<10} {total:>15,} {trained:>15,}  {rate}{lora}")
