"""What the kit asks of a model family. ``FAMILIES`` lists those it knows; docs/add-a-model.md adds one.

An adapter renders and encodes prompts, knows positions, end tokens and vision tokens, runs the model's body and head,
and saves an ordinary model folder. It knows nothing of tasks, groups or training. ``base.py`` holds what they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.records import Encoded, Frame, ImageFeatures, ImageView, VisionInputs


class Adapter(Protocol):
    """A vision-language model with its processor."""

    model: Any
    """The transformers model, head included."""
    config: ModelConfig
    frame: Frame
    """What the family means by coordinates."""
    autocast_dtype: torch.dtype | None
    """None where nothing is computed in a lower precision than the weights'."""

    # --- reading ---

    @property
    def context_length(self) -> int:
        """Most tokens that the model can read, prompt and completion together."""

    def has_chat_template(self) -> bool: ...

    def is_chat(self) -> bool:
        """Whether the chat template marks roles; that of a base model only joins the contents."""

    def render_chat(self, parts: Sequence[str | None], system: str | None) -> str:
        """One user turn as prompt text; None in ``parts`` stands for an image."""

    def render_plain(self, parts: Sequence[str | None]) -> str:
        """Prompt text without any template; None in ``parts`` stands for an image."""

    def control_tokens(self) -> list[str]:
        """Token texts that must not come from a row: they would be read as structure."""

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """The size in pixels that the model sees of a ``width`` x ``height`` image.

        Args:
            max_tokens: tokens that the image should take at most

        Raises:
            ValueError: no size fits the pixel limits
        """

    def count_image_tokens(self, view: ImageView) -> int: ...

    def count_text_tokens(self, text: str) -> int:
        """Tokens of a rendered prompt, each image counted as its one placeholder."""

    def encode(self, text: str, images: Sequence[Image], views: Sequence[ImageView]) -> Encoded:
        """A rendered prompt and its images as the model's forward takes them."""

    # --- tokens ---

    @property
    def pad_token_id(self) -> int: ...

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a completion."""

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Tokens that no completion may hold, as those that stand for an image."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens kept, without the end token."""

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Token ids of a written completion, an end token appended."""

    # --- running ---

    @property
    def device(self) -> torch.device: ...

    @property
    def head_weight(self) -> Tensor:
        """[V, H] weight of the language head."""

    def autocast(self) -> AbstractContextManager[Any]: ...

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """The vision inputs of several prompts as those of one forward, in the order of their tokens."""

    def run_body(
        self,
        *,
        input_ids: Tensor,
        token_types: Tensor,
        position_ids: Tensor,
        vision: VisionInputs | None = None,
        features: ImageFeatures | None = None,
        visible: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The transformer without its head.

        Args:
            input_ids: [R, S] tokens
            token_types: [R, S], 1 where an image token stands
            position_ids: [A, R, S]
            vision: of all images, in the order of their tokens
            features: what ``encode_images`` made of them, instead
            visible: [R, S, keys] bool, which key each query may see; None for every earlier one, which is faster
            segment_ids: [R, S] of packed rows (``MicroBatch``), instead of ``visible``
            cache: earlier keys and values, extended in place

        Returns:
            hidden states [R, S, H] after the last norm
        """

    def run_plain(self, encoded: Encoded, completion_ids: Sequence[int]) -> Tensor:
        """Hidden states [P + T, H] of one ordinary row, by the model's own masks and positions."""

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        """Vision tower and projector on all images."""

    def has_frozen_tower(self) -> bool:
        """Whether images always turn into the same features: neither vision nor projector is trained."""

    # --- training and saving ---

    def part_of(self, parameter_name: str) -> str:
        """``vision``, ``projector`` or ``text``."""

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def num_parameters(self) -> tuple[int, int]:
        """All weights of the model, and those of them that are trained."""

    def without_lora(self) -> AbstractContextManager[None]:
        """Within, the model runs as if it had no LoRA adapter."""

    def to(self, device: torch.device | str) -> None:
        """Moves the model."""

    def save(self, folder: Path) -> None:
        """Writes a complete model folder: weights, config, generation config, processor, chat template."""
