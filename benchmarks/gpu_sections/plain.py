"""The plain computation: a row for every completion, encoded by the processor, run by transformers' own forward.

Neither the prompt's encoding, nor positions, nor masks, nor log-probs are the kit's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed.vision_attention import own_tower_attention
from gpg_vl.records import Completion, Prompt, TrainingGroup

Head = Callable[[Any, dict[str, Tensor], int], Tensor]
"""Model, its inputs and C -> logits [R, C, V] that predict the last C tokens."""


class KeepDouble(TorchFunctionMode):
    """Norms and rotary embeddings of transformers compute in float32 whatever the model is in; here in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.to:
            args = tuple(torch.float64 if each is torch.float32 else each for each in args)
            kwargs = {name: torch.float64 if each is torch.float32 else each for name, each in kwargs.items()}
        return func(*args, **kwargs)


def own_head(model: Any, inputs: dict[str, Tensor], keep: int) -> Tensor:
    """As transformers runs it, under autocast in bfloat16."""
    return model(**inputs, use_cache=False, logits_to_keep=keep + 1).logits[:, :-1]  # type: ignore[no-any-return]


def precise_head(model: Any, inputs: dict[str, Tensor], keep: int) -> Tensor:
    """In float32 or more, as the kit runs it: what is left to differ is the body."""
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, -keep - 1 : -1]
    weight = model.lm_head.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.to(dtype), weight.to(dtype))


def run_plain(
    adapter: QwenVLAdapter, groups: Sequence[TrainingGroup], divisor: float, head: Head, rows_together: int,
    model: Any = None, *, with_gradient: bool = True,
) -> Tensor:  # fmt: skip
    """Log-probs [M] in the groups' order; the gradient is added to that of the model.

    Args:
        rows_together: completions of a group in one batch
        model: in place of the adapter's own, a copy in another dtype; it runs without autocast
    """
    runs = adapter.model if model is None else model
    use_plain_attention(runs)
    autocast: Callable[[], AbstractContextManager[Any]] = adapter.autocast if model is None else nullcontext
    found = []
    for group in groups:
        encoded = encode(adapter, group.prompt)
        for completions, coefficients in _batches(group, rows_together):
            with own_tower_attention(runs), torch.set_grad_enabled(with_gradient):
                with autocast():
                    scores = _score(runs, adapter, encoded, completions, head)
                if with_gradient:
                    weights = torch.tensor([x for row in coefficients for x in row], device=scores.device)
                    ((weights * scores).sum() / divisor).backward()
            found.append(scores.detach())
    return torch.cat(found)


def use_plain_attention(model: Any) -> None:
    """Packed rows may have left their own attention code."""
    model.config.text_config._attn_implementation = "sdpa"


def encode(adapter: QwenVLAdapter, prompt: Prompt) -> dict[str, Tensor]:
    images = [Image.open(io.BytesIO(data)) for data in prompt.sample.images]  # type: ignore[arg-type]
    return dict(adapter.processor(text=[prompt.text], images=images or None, return_tensors="pt"))


def _batches(
    group: TrainingGroup, rows_together: int
) -> Iterator[tuple[tuple[Completion, ...], tuple[tuple[float, ...], ...]]]:
    for start in range(0, len(group.completions), rows_together):
        part = slice(start, start + rows_together)
        yield group.completions[part], group.coefficients[part]


def _score(
    model: Any, adapter: Adapter, encoded: dict[str, Tensor], completions: Sequence[Completion], head: Head
) -> Tensor:
    """Log-probs of the completions' tokens, one behind the other."""
    longest = max(len(completion.token_ids) for completion in completions)
    inputs = repeat_rows(encoded, completions, longest, adapter.pad_token_id)
    logits = head(model, {name: tensor.to(adapter.device) for name, tensor in inputs.items()}, longest)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    banned = torch.tensor(adapter.banned_token_ids, dtype=torch.long, device=logits.device)
    logits = logits.index_fill(-1, banned, -torch.inf)
    parts = []
    for row, completion in zip(logits, completions, strict=True):
        targets = torch.tensor(completion.token_ids, device=logits.device)
        real = row[: len(targets)]
        parts.append(real.gather(-1, targets[:, None])[:, 0] - real.logsumexp(dim=-1))
    return torch.cat(parts)


def repeat_rows(
    encoded: dict[str, Tensor], completions: Sequence[Completion], longest: int, pad: int
) -> dict[str, Tensor]:
    """What the model's forward takes for prompt and completion of each row, padded on the right."""
    count = len(completions)
    tails = torch.full((count, longest), pad)
    mask = torch.zeros(count, longest, dtype=encoded["attention_mask"].dtype)
    for r, completion in enumerate(completions):
        tails[r, : len(completion.token_ids)] = torch.tensor(completion.token_ids)
        mask[r, : len(completion.token_ids)] = 1
    tail = {"input_ids": tails, "attention_mask": mask, "mm_token_type_ids": torch.zeros_like(tails)}
    rows = {name: torch.cat([encoded[name].expand(count, -1), each], dim=1) for name, each in tail.items()}
    images = {name: encoded[name] for name in ("pixel_values", "image_grid_thw") if name in encoded}
    return rows | {name: tensor.repeat(count, 1) for name, tensor in images.items()}
