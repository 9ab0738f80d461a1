"""``model.kernels``: the norms and gated layers of the policy as one kernel each, Liger's or those of torch.compile.

The same weights and formulas as in transformers' code; less is kept for the backward pass. They are put into the
modules of one model: transformers' classes, and so every other model of the process, stay as they are. The head stays
the kit's own, which never computes all logits either (``log_probs``), and knows banned tokens.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from gpg_vl.config import ModelConfig
from gpg_vl.models.folder.loading import read_config
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.weights.lora import find_base

KNOWN_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Those whose layers are known here, by ``config.model_type``."""
_NORMS = (qwen2_vl.Qwen2VLRMSNorm, qwen2_5_vl.Qwen2_5_VLRMSNorm, qwen3_vl.Qwen3VLTextRMSNorm)
_GATED = (qwen2_vl.Qwen2MLP, qwen2_5_vl.Qwen2MLP, qwen2_5_vl.Qwen2_5_VLMLP, qwen3_vl.Qwen3VLTextMLP)


def refuse_kernels(config: ModelConfig, path: str, device: torch.device) -> None:
    """Before any weight is read.

    Args:
        path: of the model

    Raises:
        ValueError: the kernels that are asked for are not installed, or cannot run here or in this model
    """
    kernels = config.kernels
    if kernels == "torch":
        return
    if kernels == "liger" and importlib.util.find_spec("liger_kernel") is None:
        raise ValueError("model.kernels: liger is not installed; pip install 'gpg-vl[liger]', or use torch")
    if device.type != "cuda":
        raise ValueError(f"model.kernels: {kernels} needs a GPU with CUDA, and this run has none; use torch")
    found = resolve_model_path(path, config.revision)
    family = read_config(find_base(found) or found).model_type
    if family not in KNOWN_TYPES:
        raise ValueError(
            f"model.kernels: {kernels} is for {', '.join(KNOWN_TYPES)} here, and {path} is {family}; use torch"
        )


def use_kernels(model: PreTrainedModel, kernels: str) -> None:
    """Puts the kernels into a model's modules, whose weights and names stay.

    Args:
        kernels: liger or compiled
    """
    forwards = importlib.import_module(f"gpg_vl.models.kernels.{kernels}")  # Liger's are not everywhere
    modules: list[Any] = list(model.modules())
    for module in modules:
        if isinstance(module, _NORMS):
            module.forward = MethodType(forwards.norm, module)  # type: ignore[method-assign]
        elif isinstance(module, _GATED) and isinstance(module.act_fn, type(ACT2FN["silu"])):
            module.forward = MethodType(forwards.gate, module)  # type: ignore[method-assign]
