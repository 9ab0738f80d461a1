"""What chooses the experts of a mixture."""

from __future__ import annotations

from torch import nn


def find_routers(model: nn.Module) -> list[nn.Module]:
    """The modules whose output transformers calls ``router_logits``."""
    named = [(getattr(module, "_can_record_outputs", None) or {}).get("router_logits") for module in model.modules()]
    kinds = {getattr(recorder, "target_class", recorder) for recorder in named if recorder is not None}
    return [module for module in model.modules() if type(module) in kinds]
