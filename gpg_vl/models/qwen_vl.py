"""The Qwen2-VL families: everything that is particular to them, as plain data for the stages above.

The adapter renders and encodes prompts, says where positions, end tokens and vision tokens are, runs the model's body
and its head, and saves an ordinary model folder. It knows nothing of tasks, groups, packing or training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from qwen_vl_utils import smart_resize
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import (
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.models.attention import GROUPED_ATTENTION, visible_blocks, visible_keys
from gpg_vl.models.lora import attach, attach_saved, find_base, merge_saved
from gpg_vl.records import Frame, ImageView

_MODEL_CLASSES: dict[str, type[PreTrainedModel]] = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
FLEX_ROW_LENGTH = 2048
"""Tokens of a row from which ``model.attention: auto`` takes FlexAttention on CUDA: a dense mask is quadratic."""
_IMAGE_PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
_PART_PREFIXES = (("model.visual.merger.", "projector"), ("model.visual.", "vision"))


class QwenVLAdapter:
    """A Qwen2-VL or Qwen2.5-VL model with its processor."""

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame):
        self.model: Any = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.config = config
        self.frame = frame
        _refuse_inexact(model.config)
        if config.lora is None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(self.part_of(name) not in config.freeze)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.autocast_dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
        # beside bfloat16 the float32 head may take TF32, which keeps more; set both ways, for it holds for the process
        torch.set_float32_matmul_precision("highest" if self.autocast_dtype is None else "high")
        self._dense_attention = model.config.text_config._attn_implementation

    @classmethod
    def load(cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, frame: Frame) -> QwenVLAdapter:
        """Loads float32 weights: compute in bfloat16 is autocast, so that small steps are not rounded away."""
        processor = _load_processor(path)
        attention = {f"{name}_config": _dense_attention(config, name) for name in ("text", "vision")}
        base = find_base(path)
        model = _load_weights(base or path, model_config.model_type, attention)
        if config.lora is not None and base is not None:
            attach_saved(model, path, config.lora, base)
        elif config.lora is not None:
            attach(model, config.lora, path)
        elif base is not None:
            model = merge_saved(model, path)
        if processor.tokenizer.convert_tokens_to_ids("<|image_pad|>") != model_config.image_token_id:
            raise ValueError(f"model.path: the tokenizer in {path} does not know the image token of the config")
        return cls(model, processor, config, frame)

    @classmethod
    def load_without_weights(
        cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, frame: Frame
    ) -> QwenVLAdapter:
        """An adapter that can render, count and size, in a moment: its model has no values."""
        with torch.device("meta"):
            model = _MODEL_CLASSES[model_config.model_type](model_config)
        return cls(model, _load_processor(path), config, frame)

    # --- prompts -----------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        """Most tokens that the model can read, prompt and completion together."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def _resize_factor(self) -> int:
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def is_chat(self) -> bool:
        """Whether the model's chat template marks roles; that of the base models only joins the contents."""
        if self.processor.chat_template is None:
            return False
        content = [{"type": "text", "text": "probe"}]
        return bool(self._render([{"role": "user", "content": content}]).strip() != "probe")

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def render_chat(self, parts: Sequence[str | None], system: str | None) -> str:
        """One user turn as prompt text; None in ``parts`` stands for an image."""
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        return self._render(messages)

    def render_plain(self, parts: Sequence[str | None]) -> str:
        """Prompt text without any template; None in ``parts`` stands for an image."""
        return "".join(_IMAGE_PLACEHOLDER if part is None else part for part in parts)

    def control_tokens(self) -> list[str]:
        """Token texts that must not come from a row: they would be read as structure."""
        return [str(token) for token in self.tokenizer.all_special_tokens]

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """The size in pixels that the model sees of a ``width`` x ``height`` image.

        Args:
            max_tokens: tokens that the image should take at most; a floor is model.min_pixels, and a token on each side

        Raises:
            ValueError: no size fits the pixel limits
        """
        c, factor = self.config, self._resize_factor
        max_pixels = c.max_pixels if max_tokens is None else min(c.max_pixels, max_tokens * factor**2)
        model_height, model_width = smart_resize(height, width, factor, c.min_pixels, max(c.min_pixels, max_pixels))
        if max_tokens is not None:
            model_height, model_width = max(factor, model_height), max(factor, model_width)
        if min(model_height, model_width) < factor:
            raise ValueError(
                f"a {width} x {height} image yields no token under model.max_pixels={c.max_pixels}; raise it"
            )
        return ImageView(width, height, model_width, model_height, self.frame)

    def count_image_tokens(self, view: ImageView) -> int:
        return view.model_width * view.model_height // self._resize_factor**2

    def count_text_tokens(self, text: str) -> int:
        """Tokens of a rendered prompt, each image counted as its one placeholder."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def encode(self, text: str, images: Sequence[Image], views: Sequence[ImageView]) -> dict[str, Any]:
        """Token ids and vision tensors of one prompt.

        Returns:
            ``token_ids`` [P] and ``token_types`` [P] as tuples, ``pixel_values`` [K, D] and ``image_grid_thw`` [N, 3]
            as tensors or None, ``position_ids`` [3, P]
        """
        pixel_values = image_grid_thw = None
        if images:
            sized = [i.resize((v.model_width, v.model_height)) for i, v in zip(images, views, strict=True)]
            vision = self.processor.image_processor(images=sized, do_resize=False, return_tensors="pt")
            pixel_values, image_grid_thw = vision["pixel_values"], vision["image_grid_thw"]
        token_ids, token_types = self._expand(self.tokenizer(text, add_special_tokens=False).input_ids, image_grid_thw)
        position_ids, _ = self.model.model.get_rope_index(
            torch.tensor([token_ids]), torch.tensor([token_types]), image_grid_thw=image_grid_thw
        )
        return {
            "token_ids": token_ids,
            "token_types": token_types,
            "position_ids": position_ids[:, 0],
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
        }

    def _expand(self, ids: list[int], image_grid_thw: Tensor | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Repeats each image placeholder once per token of its image."""
        image_token = self.model.config.image_token_id
        merged = self.model.config.vision_config.spatial_merge_size**2
        counts = [] if image_grid_thw is None else (image_grid_thw.prod(dim=1) // merged).tolist()
        placeholders = ids.count(image_token)
        assert placeholders == len(counts), f"{placeholders} placeholders for {len(counts)} images"
        remaining = iter(counts)
        token_ids: list[int] = []
        for token in ids:
            token_ids.extend([token] * (next(remaining) if token == image_token else 1))
        return tuple(token_ids), tuple(int(token == image_token) for token in token_ids)

    # --- tokens ------------------------------------------------------------------------------------------------------

    @property
    def pad_token_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a completion, by the model's generation config, else the tokenizer's."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Vision tokens: one of them in a completion would ask the next forward for an image that is not there."""
        config = self.model.config
        ids = {config.vision_start_token_id, config.vision_end_token_id, config.image_token_id, config.video_token_id}
        ids.add(self.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
        return tuple(sorted(i for i in ids if i is not None and i not in self.end_token_ids))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, special tokens kept, without the end token."""
        body = token_ids[:-1] if token_ids and token_ids[-1] in self.end_token_ids else token_ids
        return str(self.tokenizer.decode(list(body), skip_special_tokens=False))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Token ids of a written completion, the first end token appended."""
        return (*self.tokenizer(text, add_special_tokens=False).input_ids, self.end_token_ids[0])

    # --- the model ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def run_body(
        self,
        *,
        input_ids: Tensor,
        token_types: Tensor,
        position_ids: Tensor,
        visible: Tensor | None = None,
        segment_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        image_features: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The transformer without its head.

        Args:
            input_ids: [R, S] tokens
            token_types: [R, S], 1 where an image token stands
            position_ids: [3, R, S]
            visible: [R, S, keys] bool, which key each query may see; None for every earlier one, which is faster
            segment_ids: [R, S] of packed rows (``MicroBatch``), instead of ``visible``
            pixel_values: [K, D] patches of all images, in the order of their tokens
            image_grid_thw: [N, 3]
            image_features: [I, H] what ``encode_images`` made of all images, instead of their pixels
            cache: earlier keys and values, extended in place

        Returns:
            hidden states [R, S, H] after the last norm
        """
        # with gradient checkpointing transformers drops the cache in training, and tokens would not see their prompt
        assert cache is None or not (self.model.training and self.model.is_gradient_checkpointing)
        tokens: dict[str, Tensor] = {"input_ids": input_ids}
        if image_features is not None:
            tokens = {"inputs_embeds": self._embed(input_ids, image_features)}
        output = self.model.model(
            **tokens,
            mm_token_type_ids=token_types,
            position_ids=position_ids,
            attention_mask=self._attention_mask(visible, segment_ids),
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw if image_features is None else None,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def has_frozen_tower(self) -> bool:
        """Whether images always turn into the same features: neither vision nor projector is trained."""
        return not any(parameter.requires_grad for parameter in self.model.model.visual.parameters())

    def encode_images(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        """Features [I, H] of all images, one per image token: vision tower and projector."""
        return torch.cat(self.model.model.get_image_features(pixel_values, image_grid_thw).pooler_output)

    def _embed(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """[R, S, H] input embeddings with the features in the image tokens' places."""
        embedded = self.model.get_input_embeddings()(input_ids)
        is_image = (input_ids == self.model.config.image_token_id)[..., None].expand_as(embedded)
        return embedded.masked_scatter(is_image, image_features.to(embedded.dtype))

    def _packed_attention(self, row_length: int) -> str:
        """The attention code for packed rows of so many tokens."""
        attention = self.config.attention_of("text")
        if attention != "auto":
            return attention
        if self.device.type == "cpu":
            return GROUPED_ATTENTION
        return "flex_attention" if self.device.type == "cuda" and row_length >= FLEX_ROW_LENGTH else "sdpa"

    def _attention_mask(self, visible: Tensor | None, segment_ids: Tensor | None) -> Tensor | BlockMask | None:
        """What stands for the mask; the text model's attention is set to the code that it is for."""
        attention = self._dense_attention if segment_ids is None else self._packed_attention(segment_ids.shape[1])
        self.model.config.text_config._attn_implementation = attention
        if segment_ids is not None and attention == GROUPED_ATTENTION:
            return segment_ids[:, None, None]
        if segment_ids is not None and attention == "flex_attention":
            return visible_blocks(segment_ids)
        if segment_ids is not None:
            visible = visible_keys(segment_ids)
        return None if visible is None else self._dense_mask(visible)

    def _dense_mask(self, visible: Tensor) -> Tensor:
        """[R, 1, S, keys]: a bool mask for sdpa; an added one for eager, which would add a bool as 0 and 1."""
        if self._dense_attention == "sdpa":
            return visible[:, None]
        dtype = self.autocast_dtype or self.model.dtype
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
            ~visible, torch.finfo(dtype).min
        )[:, None]

    @property
    def head_weight(self) -> Tensor:
        """[V, H] weight of the language head."""
        return self.model.lm_head.weight  # type: ignore[no-any-return]

    @staticmethod
    def part_of(parameter_name: str) -> str:
        """``vision``, ``projector`` or ``text``."""
        for prefix, part in _PART_PREFIXES:
            if parameter_name.startswith(prefix):
                return part
        return "text"

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def num_parameters(self) -> tuple[int, int]:
        """All weights of the model, and those of them that are trained."""
        counts = [(p.numel(), p.numel() * p.requires_grad) for p in self.model.parameters()]
        return sum(each for each, _ in counts), sum(trained for _, trained in counts)

    def to(self, device: torch.device | str) -> None:
        """Moves the model."""
        self.model.to(device)

    def save(self, folder: Path) -> None:
        """Writes a complete model folder: weights, config, generation config, processor, chat template."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _load_weights(path: str, model_type: str, attention: Any) -> PreTrainedModel:
    """
    Raises:
        ValueError: a weight is missing or not as the config has it
    """
    model_class: Any = _MODEL_CLASSES[model_type]
    try:
        model, info = model_class.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model.path: the weights in {path} cannot be loaded: {reason}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"model.path: {len(missing)} weights are missing in {path}, the first is {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded


def _dense_attention(config: ModelConfig, sub_model: Literal["text", "vision"]) -> str:
    """The attention code of a sub-model where rows are not packed.

    Raises:
        ValueError: FlexAttention is asked for on a CPU, where it has no backward pass
    """
    attention = config.attention_of(sub_model)
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise ValueError("model.attention: flex_attention has no backward pass on a CPU; use auto, sdpa or eager")
    return "eager" if attention == "eager" else "sdpa"


def _refuse_inexact(config: PreTrainedConfig) -> None:
    """Refuses configs under which packed and plain log-probs would differ."""
    text: Any = config.text_config  # type: ignore[attr-defined]
    if "sliding_attention" in (text.layer_types or []):
        raise ValueError("model.path: the config uses sliding-window attention; set use_sliding_window to false in it")
    if text.attention_dropout:
        raise ValueError("model.path: the config has attention_dropout above 0; set it to 0 in config.json")


def _load_processor(path: str) -> Any:
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model.path: {path} has no complete processor (tokenizer and preprocessor_config.json): {reason}"
        ) from error
