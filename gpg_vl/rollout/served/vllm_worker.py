"""What vLLM's worker does for the kit, where the model is: one function for each call of ``collective_rpc``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def take_all(worker: Any, source: dict[str, Any]) -> None:
    """
    Raises:
        RuntimeError: vLLM keeps weights that it had; it would only write that down
    """
    model = worker.get_model()
    load, names, taken = model.load_weights, {name for name, _ in model.named_parameters()}, set[str]()

    def note(weights: Iterator[tuple[str, Tensor]]) -> Any:
        loaded = load(weights)
        taken.update(names if loaded is None else loaded)
        return loaded

    model.load_weights = note
    try:
        worker.reload_weights(**source)
    finally:
        del model.load_weights
    if kept := sorted(names - taken):
        raise RuntimeError(f"vllm takes no new weights for {len(kept)} of its {len(names)} parameters, as {kept[0]}")


def keep_work_space(worker: Any) -> None:
    """In the host's memory: when vLLM sleeps, it lays aside its model's buffers and nothing else."""
    worker.work_space = [(each, each.to("cpu", copy=True)) for each in work_space(worker.get_model())]


@torch.inference_mode()  # or what was made in it could not be written to
def restore_work_space(worker: Any) -> None:
    for tensor, kept in worker.work_space:
        tensor.copy_(kept)
    worker.work_space = []


def work_space(model: nn.Module) -> list[Tensor]:
    """What a model has beside parameters and buffers, as a list of tensors; without the keys and values."""
    known = {each.data_ptr() for each in (*model.parameters(), *model.buffers())}
    found = [each for module in model.modules() for each in _tensors_in(_own_values(module))]
    return [each for each in found if each.numel() and each.data_ptr() not in known]


def _own_values(module: nn.Module) -> list[object]:
    registered = ("_parameters", "_buffers", "_modules", "kv_cache")
    return [value for name, value in vars(module).items() if name not in registered]


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(each)


def repack_head(worker: Any) -> None:
    """On a CPU, vLLM computes with a packed copy of the head, and keeps the old one where the head is the embedding."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    heads = [layer for layer in worker.get_model().modules() if isinstance(layer, ParallelLMHead)]
    for head in heads if current_platform.is_cpu() else ():
        head.quant_method.process_weights_after_loading(head)
