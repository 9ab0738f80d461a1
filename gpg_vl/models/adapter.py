"""What the kit asks of a model family. ``FAMILIES`` lists the known ones; docs/add-a-model.md adds one.

An adapter renders and encodes prompts, knows positions, end tokens and vision tokens, runs the model's body and head,
and saves an ordinary model folder. It knows nothing of tasks, groups or training. ``base.py`` has the shared code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.models.inputs.parts import Part
from gpg_vl.models.weights.snapshot import WeightsSnapshot
from gpg_vl.records import Encoded, Frame, FrameTimes, ImageFeatures, ImageView, VideoView, VisionInputs


class Adapter(Protocol):
    """A vision-language model with its processor."""

    model: Any
    """The transformers model, head included."""
    config: ModelConfig
    frame: Frame | None
    """How the model writes coordinates; None if neither its family nor the recipe says it."""
    sees_whole_prompts: bool
    """Whether tokens of a prompt see later ones of it that are no image: ordinary rows, too, then say where it ends."""
    takes_sized_images: bool
    """Whether the family's own processor, told not to resize, takes an image in the size of its view as it is."""
    lora_layers: ClassVar[Mapping[str, str]]
    """By part of the model, a regular expression of the layers that an adapter changes by default."""
    autocast_dtype: torch.dtype | None
    """The type that each call casts weights to; None if everything is computed in the precision of the weights."""

    # --- reading ---

    @property
    def context_length(self) -> int:
        """Maximum number of tokens that the model can read, prompt and completion together."""

    def has_chat_template(self) -> bool: ...

    def is_chat(self) -> bool:
        """Whether the chat template marks roles; a base model's template only joins the contents."""

    def opens_answer(self) -> bool:
        """Whether the chat template ends a prompt with the beginning of the model's own turn."""

    def check_chat(self, thinking: bool | None) -> None:
        """Tries the chat template before the first prompt.

        Args:
            thinking: as in ``render_chat``

        Raises:
            ValueError: it shows no image, cannot set ``thinking``, or writes none of the end tokens; one line
        """

    def render_chat(self, parts: Sequence[Part], system: str | None, thinking: bool | None = None) -> str:
        """One user turn as prompt text.

        Args:
            thinking: whether a template that can ask for reasoning does; None: what it does by default
        """

    def render_plain(self, parts: Sequence[Part]) -> str:
        """Prompt text without a template."""

    @property
    def plain_image(self) -> str:
        """Text of an image in a prompt, before the image's own text replaces it."""

    def control_tokens(self) -> list[str]:
        """Token texts that a row must not contain: the model would read them as structure."""

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """The size in pixels at which the model sees a ``width`` x ``height`` image.

        Args:
            max_tokens: maximum number of tokens the image should take

        Raises:
            ValueError: no size fits the pixel limits
        """

    def view_video(self, width: int, height: int, times: FrameTimes, max_tokens: int | None = None) -> VideoView:
        """As ``view``, of the frames of a video.

        Raises:
            ValueError: the kit gives a model of this family no videos
        """

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        """Tokens of each image of one prompt, [N], then of each video; a family may give an image fewer where there are
        several.
        """

    def count_tokens(self, text: str, views: Sequence[ImageView]) -> int:
        """Number of tokens of a rendered prompt with its images and videos."""

    def encode(
        self,
        text: str,
        images: Sequence[Image],
        views: Sequence[ImageView],
        videos: Sequence[Sequence[Image]] = (),
        vision: VisionInputs | None = None,
    ) -> Encoded:
        """A rendered prompt with its images and videos, as inputs of the model's forward.

        Args:
            views: of the images, then of the videos
            videos: the frames of each
            vision: the result of ``encode_media``, in place of images and videos
        """

    def encode_media(
        self, images: Sequence[Image], views: Sequence[ImageView], videos: Sequence[Sequence[Image]] = ()
    ) -> VisionInputs | None:
        """What the vision tower is given of a prompt. Several threads may call it at once, and beside ``encode``.

        Args:
            views, videos: as in ``encode``

        Returns:
            None if nothing is shown, or if it depends on the text around it
        """

    # --- tokens ---

    @property
    def pad_token_id(self) -> int: ...

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a completion."""

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Tokens that a completion must not contain, such as those that stand for an image."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion with its special tokens but without the end token."""

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Token ids of a written completion, followed by an end token."""

    # --- running ---

    @property
    def device(self) -> torch.device: ...

    @property
    def head_weight(self) -> Tensor:
        """[V, H] weight of the language head."""

    @property
    def logit_cap(self) -> float | None:
        """c of the cap c * tanh(logit / c) behind the head, before temperature and bans; None: there is none."""

    def autocast(self) -> AbstractContextManager[Any]: ...

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """Joins the vision inputs of several prompts for one forward, in the order of their tokens."""

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
        real: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The transformer without its head.

        Args:
            input_ids: [R, S] tokens
            token_types: [R, S], 0 at text
            position_ids: [A, R, S]
            vision: inputs of all images, in the order of their tokens
            features: the result of ``encode_images``, in place of ``vision``
            visible: [R, S, keys] bool, which keys each query may see; None: all earlier ones, which is faster
            segment_ids: [R, keys] of packed rows (``MicroBatch``), in place of ``visible``; of ordinary ones too where
                ``sees_whole_prompts``
            real: [R, keys] bool, which tokens of a padded prefill are real
            cache: earlier keys, values and states, extended in place

        Returns:
            hidden states [R, S, H] after the last norm
        """

    def new_cache(self) -> Cache:
        """An empty cache for a rollout, whose rows can be repeated and selected in every layer."""

    @property
    def joins_groups(self) -> bool:
        """Whether a packed row may hold several groups, which see nothing of each other.

        Not where a layer reads its row from left to right, or counts places in it, nor under a dense mask.
        """

    def row_block(self, num_tokens: int) -> int:
        """What the length of a packed row of about that many tokens is padded to a multiple of; 1: it is not padded."""

    @property
    def keeps_prompts(self) -> bool:
        """Whether packed completions may run behind their prompt's keys and values, as ``KeptKeys`` has them.

        Not where a layer keeps anything else of a prompt, or counts places in a row; nor with gradient checkpointing.
        """

    def run_plain(self, encoded: Encoded, completion_ids: Sequence[int]) -> Tensor:
        """Hidden states [P + T, H] of one ordinary row, with the model's own masks and positions."""

    def plain_logits(self, encoded: Encoded, completion_ids: Sequence[int], count: int) -> Tensor:
        """Logits [count, V] of the last tokens of such a row; by the model's own head, where nobody has read it."""

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        """Vision tower and projector on all images."""

    def has_frozen_tower(self) -> bool:
        """Whether an image always has the same features, because neither vision nor projector is trained."""

    # --- training and saving ---

    def part_of(self, parameter_name: str) -> str:
        """``vision``, ``projector`` or ``text``."""

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer trains, float32: the weights, or their masters."""

    def quantize(self) -> None:
        """With ``model.lora.quantize``, turns the base's linear layers into layers of 4 bits for good.

        Raises:
            ValueError: the model has no such layer
        """

    def quantized_layers(self) -> list[nn.Linear]:
        """Those of ``lent_layers`` that ``quantize`` turns: not routers of a mixture, nor what has a single row."""

    def round_weights(self) -> None:
        """With ``model.dtype: bfloat16``, turns the weights into bfloat16 for good; trained ones get float32 masters.

        Gradients then add up in the masters, and ``follow_masters`` has to come after each step. Without this, the
        float32 weights stay and are cast in each call (``autocast``).
        """

    def leave_rounding(self) -> torch.dtype | None:
        """Leaves ``model.dtype`` to a layout, which has float32 weights and gathers them in that type for each call.

        Returns:
            the type; None if everything is computed in the precision of the weights
        """

    def compute_on(self, device: torch.device) -> None:
        """Leaves the weights' place to a layout, which has them on that device whenever the model runs."""

    def follow_masters(self) -> None:
        """Brings rounded weights to where a step has moved their masters."""

    def in_float32(self, *, only_trained: bool = False) -> AbstractContextManager[None]:
        """Inside the context, rounded weights are float32: their masters, or the same values where there is none.

        Args:
            only_trained: weights without a master stay rounded
        """

    def running_in_float32(self) -> AbstractContextManager[None]:
        """The same for what runs inside: of ``lent_layers`` one at a time is widened, so that memory holds them."""

    def lent_layers(self, *, with_trained: bool = False) -> list[nn.Linear]:
        """Frozen linear layers of the text model, of which most of an adapter's base consists.

        Args:
            with_trained: those that are trained too, where there is no LoRA adapter
        """

    def num_parameters(self) -> tuple[int, int]:
        """Number of all weights of the model, and of the trained ones."""

    def num_by_part(self) -> dict[str, tuple[int, int]]:
        """The same of each part."""

    def without_lora(self) -> AbstractContextManager[None]:
        """Inside the context, the model runs as if it had no LoRA adapter."""

    def to(self, device: torch.device | str) -> None:
        """Moves the model, and its masters."""

    def save(self, folder: Path) -> None:
        """Writes a complete model folder: weights, config, generation config, processor, chat template."""

    def save_processor(self, folder: Path) -> None:
        """Writes the processor and the chat template alone. Not while another thread encodes text."""

    def take_snapshot(self, *, is_copy: bool = False) -> WeightsSnapshot:
        """Copies, in the host's memory, of what ``save`` writes beside the processor, to be written later.

        Args:
            is_copy: the model's weights are copies already, which nothing else changes
        """
