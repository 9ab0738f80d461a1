"""Any other image-text-to-text model of transformers: ordinary rows, read by its own processor, with its own masks.

The images of a prompt become features once, each prompt's by itself; how a family joins the pictures of several is not
known here. Nothing is known of positions beyond what the model says, so a run trains only if its self-check passes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL.Image import Image, new
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from gpg_vl.config import ModelConfig
from gpg_vl.models.base import BaseAdapter, Family
from gpg_vl.models.dropout import refuse_dropout
from gpg_vl.models.folder.loading import load_processor
from gpg_vl.models.inputs.images_to_tensors import resized
from gpg_vl.models.inputs.parts import Medium, Part
from gpg_vl.records import Encoded, Frame, ImageFeatures, ImageView, VisionInputs

_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_PARTS = (
    ("projector", re.compile(r"projector|connector|merger|embed_vision|image_newline")),
    ("vision", re.compile(r"vision|visual|image_tower")),
)
_PROBE = "probe"
_PIXELS_PER_PATCH = 3 * 14 * 14


def generic_family(model_config: PreTrainedConfig) -> Family | None:
    """None if transformers has no class of this kind for the config."""
    if type(model_config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(model_config)]
    return Family(GenericAdapter, model_class, None)


class GenericAdapter(BaseAdapter):
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": r"model\.(language_model|text_model)\..*\.(q|k|v|o|gate|up|down)_proj",
        "vision": r"model\.(visual|vision_\w+)\..*\.((q|k|v|out|o)_proj|fc[12])",
    }

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame | None):
        """
        Raises:
            ValueError: body, head or features have no usual names, or no token for images is known
        """
        parts = {"model": model, "lm_head": model, "get_image_features": getattr(model, "model", None)}
        for part, owner in parts.items():
            if not hasattr(owner, part):
                raise ValueError(f"model.family: generic cannot run {config.path}: its class has no {part}")
        self._image_token_id = _image_token_id(model.config)
        if self._image_token_id is None:
            raise ValueError(f"model.family: generic cannot run {config.path}: its config names no image token")
        self.image_token = processor.tokenizer.convert_ids_to_tokens(self._image_token_id)  # type: ignore[misc]
        shown = [getattr(processor, name, None) for name in ("boi_token", "image_token")]
        self.placeholder = next((t for t in shown if t and t in str(processor.chat_template)), self.image_token)  # type: ignore[misc]
        super().__init__(model, processor, config, frame)
        self._counts: dict[tuple[tuple[int, int], ...], int] = {}

    def lent_layers(self, *, with_trained: bool = False) -> list[nn.Linear]:
        """None: a class that nobody has read may compute with a layer's weight without calling the layer."""
        return []

    @staticmethod
    def refuse_inexact(config: PreTrainedConfig) -> None:
        refuse_dropout(config)
        text: Any = config.get_text_config()
        others = sorted({*(getattr(text, "layer_types", None) or ())} - {"full_attention", "sliding_attention"})
        if others:
            raise ValueError(f"model.family: generic cannot run layers of the type {others[0]}: they keep no keys")

    @staticmethod
    def read_processor(path: str, config: PreTrainedConfig) -> Any:
        """Of whatever class the folder names: it writes the prompt itself."""
        return load_processor(path, config, is_named=True)

    @staticmethod
    def refuse_other_tokenizer(path: str, processor: Any, config: PreTrainedConfig) -> None:
        """Nothing: the token's text is that of the config's id."""

    @property
    def logit_cap(self) -> float | None:
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return None if cap is None else float(cap)

    # --- reading ---

    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView:
        """The image within the pixel limits, before the processor gives it its own size."""
        pixels = min(max(width * height, self.config.min_pixels), self.config.max_pixels)
        scale = (pixels / (width * height)) ** 0.5
        return ImageView(width, height, max(1, round(width * scale)), max(1, round(height * scale)), self.frame)

    def image_texts(self, views: Sequence[ImageView]) -> list[str]:
        raise AssertionError("the processor writes the whole prompt")

    def _encode_vision(self, images: Sequence[Image], views: Sequence[ImageView]) -> VisionInputs:
        raise AssertionError("the processor reads images and text together")

    plain_start = ""  # type: ignore[assignment]
    """The tokenizer puts it there when the processor reads the prompt."""

    @cached_property
    def plain_image(self) -> str:  # type: ignore[override]
        """What the chat template writes for an image, with whatever stands around its placeholder."""
        if not self.is_chat():
            return self._placeholder
        prompts: list[list[Part]] = [[Medium.IMAGE, _PROBE], [_PROBE]]
        shown, bare = (self.render_chat(parts, None).partition(_PROBE)[0] for parts in prompts)
        return shown.removeprefix(bare)

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        """Of all images together, in equal parts: which image a token belongs to is not known."""
        if not views:
            return []
        sizes = tuple((view.model_width, view.model_height) for view in views)
        if sizes not in self._counts:
            text = self.render_plain([Medium.IMAGE] * len(views))
            self._counts[sizes] = sum(self.encode(text, _blanks(views), views).token_types)
        whole, rest = divmod(self._counts[sizes], len(views))
        return [whole + (number < rest) for number in range(len(views))]

    def count_tokens(self, text: str, views: Sequence[ImageView]) -> int:
        return len(self.encode(text, _blanks(views), views).token_ids)

    def encode_media(
        self, images: Sequence[Image], views: Sequence[ImageView], videos: Sequence[Sequence[Image]] = ()
    ) -> VisionInputs | None:
        """None: the processor reads images and text together."""
        return None

    def encode(
        self,
        text: str,
        images: Sequence[Image],
        views: Sequence[ImageView],
        videos: Sequence[Sequence[Image]] = (),
        vision: VisionInputs | None = None,
    ) -> Encoded:
        """See ``Adapter.encode``; the tensors are those that the processor makes."""
        shown = {"images": [resized(images, views)]} if images else {}
        inputs = self.processor(text=[text], **shown, **self._of_start(text), return_tensors="pt")
        token_ids = tuple(inputs["input_ids"][0].tolist())
        types = tuple(int(token == self._image_token_id) for token in token_ids)
        if images:
            tensors = {name: inputs[name] for name in inputs if name not in _OF_TEXT}
            patches = max(1, tensors["pixel_values"].numel() // _PIXELS_PER_PATCH)
            vision = VisionInputs(tensors, patches, sum(types))
        positions = self._positions(token_ids, types, vision)
        return Encoded(token_ids, types, positions, int(positions.max()) + 1, vision)

    def _of_start(self, text: str) -> dict[str, bool]:
        """The rule of ``apply_chat_template``: the processor adds tokens as it does by default, but no second start."""
        start = self.tokenizer.bos_token
        return {"add_special_tokens": False} if start is not None and text.startswith(start) else {}

    def _positions(self, token_ids: Sequence[int], token_types: Sequence[int], vision: VisionInputs | None) -> Tensor:
        """As the model counts them where it has a way of its own, else one after the other."""
        count = getattr(self.model.model, "get_rope_index", None)
        if count is None:
            return super()._positions(token_ids, token_types, vision)
        known = {} if vision is None else _taken_by([count], vision.tensors)
        positions, _ = count(torch.tensor([token_ids]), torch.tensor([token_types]), **known)
        return positions[:, 0]  # type: ignore[no-any-return]

    # --- tokens ---

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        config = self.model.config
        named = {
            getattr(config, name, None) for name in vars(config) if re.match(r"(image|video|boi|eoi)\w*_token", name)
        }
        named |= {*getattr(self.processor, "image_token_ids", ())}
        found = {i for i in named if isinstance(i, int) and 0 <= i < self._num_logits} - set(self.end_token_ids)
        return tuple(sorted({*super().banned_token_ids, *found}))

    # --- running ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """The inputs of each prompt beside the others, under names of their own."""
        tensors = {f"{n}.{name}": t for n, part in enumerate(parts) for name, t in part.tensors.items()}
        return VisionInputs(tensors, sum(part.num_patches for part in parts), sum(part.num_tokens for part in parts))

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        prompts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in vision.tensors.items():
            number, _, name = key.rpartition(".")
            prompts.setdefault(number, {})[name] = tensor
        return ImageFeatures((torch.cat([self._features(tensors) for tensors in prompts.values()]),))

    def _features(self, tensors: Mapping[str, Tensor]) -> Tensor:
        body = self.model.model
        found = body.get_image_features(**_taken_by([body.get_image_features, body.forward], tensors))
        found = getattr(found, "pooler_output", found)
        whole = torch.cat([each.flatten(0, -2) for each in found]) if isinstance(found, list | tuple) else found
        return whole.flatten(0, -2)  # type: ignore[no-any-return]

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
        """See ``Adapter.run_body``. The last token of a row is real and sees all others that are.

        Raises:
            ValueError: rows are packed
        """
        assert cache is None or not (self.model.training and self.model.is_gradient_checkpointing)
        if segment_ids is not None:
            raise ValueError("model.family: generic has no packed rows; set update.pack to false")
        if vision is not None:
            features = self.encode_images(vision)
        embedded = self.model.get_input_embeddings()(input_ids.masked_fill(token_types.bool(), self.pad_token_id))
        if features is not None:
            embedded = embedded.masked_scatter(
                token_types.bool()[..., None].expand_as(embedded), features.levels[0].to(embedded.dtype)
            )
        keys = input_ids.shape[1] + (0 if cache is None else cache.get_seq_length())
        seen = torch.ones(len(input_ids), keys, device=input_ids.device) if visible is None else visible[:, -1]
        output = self.model.model(
            inputs_embeds=embedded,
            attention_mask=seen.long(),
            position_ids=position_ids if len(position_ids) > 1 else position_ids[0],
            past_key_values=cache,
            use_cache=cache is not None,
            **self._types(token_types),
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _types(self, token_types: Tensor) -> dict[str, Tensor]:
        return _taken_by(
            [self.model.model.forward], dict.fromkeys(("token_type_ids", "mm_token_type_ids"), token_types)
        )

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        return {**vision, **self._types(token_types)}

    def plain_logits(self, encoded: Encoded, completion_ids: Sequence[int], count: int) -> Tensor:
        """See ``Adapter.plain_logits``: a class may do more behind its head than is known of any."""
        named = inspect.signature(self.model.forward).parameters
        last = {"logits_to_keep": count} if "logits_to_keep" in named else {}
        output = self.model(**self._plain_row(encoded, completion_ids), **last)
        return output.logits[0, -count:].float()  # type: ignore[no-any-return]

    def part_of(self, parameter_name: str) -> str:
        return next((part for part, pattern in _PARTS if pattern.search(parameter_name)), "text")


def _image_token_id(config: PreTrainedConfig) -> int | None:
    return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)


def _taken_by(functions: Sequence[Any], arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the arguments that one of the functions names: a model's forward may name what it hands on."""
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return {name: value for name, value in arguments.items() if name in names}


def _blanks(views: Sequence[ImageView]) -> list[Image]:
    return [new("RGB", (view.model_width, view.model_height)) for view in views]
