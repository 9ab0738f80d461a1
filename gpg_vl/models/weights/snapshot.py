"""Copies of a model's weights in the host's memory, to be written while the model is trained further."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from gpg_vl.files import follow_umask
from gpg_vl.models.folder.carried_weights import CarriedWeights
from gpg_vl.models.weights.four_bit import four_bit_weights


@dataclass(frozen=True, slots=True)
class WeightsSnapshot:
    """What a model folder has beside the processor; the body may be a copy that is only there to be written."""

    body: PreTrainedModel
    generation: GenerationConfig  # with the end tokens of the run
    carried: CarriedWeights | None  # weights of the model's folder that its class does not load

    def write(self, folder: Path) -> None:
        """Writes weights or adapter, config and generation config; a thread beside the training may do it."""
        self.body.save_pretrained(folder)
        self.generation.save_pretrained(folder)
        if self.carried is not None:
            self.carried.write(folder)
        follow_umask(folder)


@torch.no_grad()
def copy_model(model: PreTrainedModel, *, only_trained: bool, is_copy: bool) -> PreTrainedModel:
    """The same modules with copies of the weights; what is tied stays tied.

    Args:
        only_trained: weights that are not trained get no values
        is_copy: the weights are copies already, in the host's memory
    """

    def take(tensor: Tensor) -> Tensor:
        return tensor.detach() if is_copy else tensor.detach().to("cpu", copy=True)

    shared = {id(each) for _, layer in four_bit_weights(model) for each in (*layer.buffers(), *layer.parameters())}
    memo: dict[int, object] = {id(each): take(each) for each in model.buffers() if id(each) not in shared}
    for each in (each for each in model.parameters() if id(each) not in shared):
        held = take(each) if each.requires_grad or not only_trained else each.detach().to("meta")
        memo[id(each)] = nn.Parameter(held, requires_grad=each.requires_grad)
    return copy.deepcopy(model, memo)
