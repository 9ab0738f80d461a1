"""A model in bfloat16 weights, and a float32 master of each weight that is trained.

The model computes in the rounded weights, so no call casts one. The optimizer knows the masters alone: gradients are
added up there in float32, and after each step the weights are rounded from them again. A step of 1e-6 would otherwise
be rounded away. Under DeepSpeed there are none (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Masters:
    """The masters by name; without a model there are none, and nothing is done."""

    def __init__(self, model: PreTrainedModel | None = None, dtype: torch.dtype = torch.float32):
        """Rounds a float32 model.

        Args:
            dtype: of the rounded weights
        """
        self._model, self._dtype = model, dtype
        self._rounded: Mapping[str, Tensor] = {} if model is None else dict(find_rounded(model))
        self._of = {name: nn.Parameter(each.detach()) for name, each in self._rounded.items() if each.requires_grad}
        self._round()
        for name, master in self._of.items():
            self._rounded[name].register_post_accumulate_grad_hook(_hand_over_to(master))

    def get(self, name: str, weight: nn.Parameter) -> nn.Parameter:
        """What the optimizer trains: the master of a weight, or the weight itself if it has none."""
        return self._of.get(name, weight)

    def to(self, device: torch.device | str) -> None:
        """Follows the model, whose buffers are others after a move."""
        for master in self._of.values():
            master.data = master.data.to(device)
        if self._model is not None:
            named: dict[str, Tensor] = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
            self._rounded = {name: named[name] for name in self._rounded}

    @torch.no_grad()
    def follow(self) -> None:
        """Brings the weights to where a step has moved their masters, in place."""
        for name, master in self._of.items():
            self._rounded[name].copy_(master)

    @contextmanager
    def in_float32(self, *, only_trained: bool = False, stay_rounded: Collection[int] = ()) -> Iterator[None]:
        """Within, the model is float32: masters where there are some, and what was rounded once, widened.

        Args:
            only_trained: what has no master stays rounded, which takes no memory
            stay_rounded: so do these, ids of weights
        """
        for name, weight in self._rounded.items():
            if name in self._of:
                weight.data = self._of[name].data
            elif not only_trained and id(weight) not in stay_rounded:
                weight.data = weight.data.float()
        try:
            yield
        finally:
            self._round()

    @contextmanager
    def running_in_float32(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """The same for what runs within: of ``layers`` one at a time is widened.

        Args:
            layers: frozen; whoever computes with their weights calls them
        """
        lent = {id(each) for layer in layers for each in layer.parameters(recurse=False)}
        with self.in_float32(stay_rounded=lent), ExitStack() as stack:
            stack.enter_context(widened_as_they_run(layers if self._rounded else ()))
            yield

    def _round(self) -> None:
        for name, weight in self._rounded.items():
            weight.data = self._of.get(name, weight).data.to(self._dtype)


def find_rounded(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What transformers rounds when it loads a model in another type: all but a few, and no buffer that it computes."""
    saved = model.state_dict().keys()
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        if name in saved and each.is_floating_point() and not stays_float32(model, name):
            yield name, each


def stays_float32(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers rounds a weight of this name in no type of model."""
    return any(part in name for part in model._keep_in_fp32_modules_strict or ())


@contextmanager
def widened_as_they_run(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, each of these layers has float32 weights for as long as it runs."""
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_widened_as_it_runs(layer))
        yield


@contextmanager
def _widened_as_it_runs(layer: nn.Module) -> Iterator[None]:
    """Within, a layer has float32 weights for as long as it runs."""
    rounded: dict[str, Tensor] = {}

    def widen(layer: nn.Module, _: object) -> None:
        for name, weight in layer.named_parameters(recurse=False):
            rounded[name], weight.data = weight.data, weight.data.float()

    def give_back(layer: nn.Module, *_: object) -> None:
        for name, weight in layer.named_parameters(recurse=False):
            weight.data = rounded.pop(name)

    handles = layer.register_forward_pre_hook(widen), layer.register_forward_hook(give_back, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hand_over_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """What adds a weight's gradient to its master's, in float32, as soon as a backward pass has it."""

    def hand_over(weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    return hand_over
