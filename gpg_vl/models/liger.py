"""``model.kernels: liger``: the norms and gated layers of the policy by Liger's Triton kernels.

The same weights and formulas, each in one kernel, which keeps less for the backward pass than transformers' code. They
are put into the modules of one model: transformers' classes, and so every other model of the process, stay as they are.
The head stays the kit's own, which never computes all logits either (``log_probs``), and knows banned tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from gpg_vl.config import ModelConfig
from gpg_vl.models.loading import read_config
from gpg_vl.models.lora import find_base
from gpg_vl.models.paths import resolve_model_path

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Those whose layers are known here, by ``config.model_type``."""
_NORMS = (qwen2_vl.Qwen2VLRMSNorm, qwen2_5_vl.Qwen2_5_VLRMSNorm, qwen3_vl.Qwen3VLTextRMSNorm)
_GATED = (qwen2_vl.Qwen2MLP, qwen2_5_vl.Qwen2MLP, qwen2_5_vl.Qwen2_5_VLMLP, qwen3_vl.Qwen3VLTextMLP)


def refuse_without_liger(config: ModelConfig, path: str, device: torch.device) -> None:
    """Before any weight is read.

    Args:
        path: of the model

    Raises:
        ValueError: the kernels are asked for and not installed, or cannot run here or in this model
    """
    if config.kernels != "liger":
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError("model.kernels: liger is not installed; pip install 'gpg-vl[liger]', or use torch")
    if device.type != "cuda":
        raise ValueError("model.kernels: liger needs a GPU with CUDA, and this run has none; use torch")
    found = resolve_model_path(path, config.revision)
    family = read_config(find_base(found) or found).model_type
    if family not in FAMILIES:
        raise ValueError(f"model.kernels: liger is for {', '.join(FAMILIES)} here, and {path} is {family}; use torch")


def use_liger(model: PreTrainedModel) -> None:
    """Puts the kernels into a model's modules, whose weights and names stay."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if (forward := _forward_for(module)) is not None:
            module.forward = MethodType(forward, module)


def _forward_for(module: nn.Module) -> Callable[..., Tensor] | None:
    if isinstance(module, _NORMS):
        return _norm
    if isinstance(module, _GATED) and isinstance(module.act_fn, type(ACT2FN["silu"])):
        return _gate
    return None


def _norm(module: Any, states: Tensor) -> Tensor:
    """In float32, rounded before the weight is multiplied, as transformers does it."""
    from liger_kernel.transformers.functional import liger_rms_norm

    # not in place: the gradient that comes in may be read elsewhere
    return liger_rms_norm(states, module.weight, module.variance_epsilon, in_place=False)  # type: ignore[no-any-return]


def _gate(module: Any, states: Tensor) -> Tensor:
    from liger_kernel.transformers.functional import liger_swiglu

    return module.down_proj(liger_swiglu(module.gate_proj(states), module.up_proj(states)))  # type: ignore[no-any-return]
