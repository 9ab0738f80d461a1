"""What the adapters of transformers' vision-language models share: loading, text, tokens, attention, saving.

A family's own file says how its images become text and tensors, and where its parts are; see ``adapter.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.models.decoding.kv_cache import GrowingCache
from gpg_vl.models.dropout import refuse_dropout
from gpg_vl.models.folder.carried_weights import CarriedWeights
from gpg_vl.models.folder.loading import build_without_values, load_processor, load_weights
from gpg_vl.models.folder.saved_folder import SavedFolder
from gpg_vl.models.folder.stored_form import store_as_in
from gpg_vl.models.inputs.chat import ChatTemplate
from gpg_vl.models.inputs.end_tokens import find_end_tokens, find_pad_token, read_generation_config, refuse_wrong_ends
from gpg_vl.models.inputs.images_to_tensors import ImagesToTensors
from gpg_vl.models.inputs.parts import Part
from gpg_vl.models.inputs.vision_records import join_vision
from gpg_vl.models.log_probs import head_logits
from gpg_vl.models.packed.attention_choice import PackedAttention
from gpg_vl.models.weights.lora import attach, attach_saved, check_targets, find_base, merge_saved
from gpg_vl.records import Encoded, Frame, ImageFeatures, VisionInputs


@dataclass(frozen=True, slots=True)
class Family:
    """An entry of ``FAMILIES``."""

    adapter: type[BaseAdapter]
    model: type[PreTrainedModel]
    frame: Frame | None
    """None where the family documents none: ``model.frame`` says it then."""


class BaseAdapter(SavedFolder, ImagesToTensors):
    """An ``Adapter`` except for the abstract methods and the class variables, which the family supplies."""

    vision_tokens: ClassVar[Sequence[str]] = ()
    """Tokens that only stand at images and videos, besides those that the config names; no completion holds them."""
    knows_windows: ClassVar[bool] = False
    """Whether the family's masks have the windows of the layers that the config names ``sliding_attention``."""
    has_tiles: ClassVar[bool] = False
    """Whether an image may be cut into tiles, each of which the vision tower sees alone (``tiled.py``)."""
    sees_whole_prompts = takes_sized_images = False
    """See ``Adapter``."""
    lora_layers: ClassVar[Mapping[str, str]]
    """Regular expression of the linear layers that LoRA adapts, by part."""

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame | None):
        self.model: Any = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.config = config
        self.frame = config.frame or frame
        if config.max_tiles is not None and not self.has_tiles:
            raise ValueError(
                f"model.max_tiles: a {model.config.model_type} model cuts no image into tiles; use model.max_pixels"
            )
        self.refuse_inexact(model.config)
        self._chat = ChatTemplate(processor, config.path, self._placeholders)
        self._carried: CarriedWeights | None = None
        self._computes_on: torch.device | None = None
        self._num_logits = len(self.head_weight)
        refuse_wrong_ends(config.path, self.end_token_ids, self._num_logits)
        self._choose_weights(config)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # with bfloat16 the float32 head may use TF32, which is more precise; set in both cases: it is process-wide
        torch.set_float32_matmul_precision("highest" if self.autocast_dtype is None else "high")
        torch.backends.cudnn.allow_tf32 = self.autocast_dtype is not None  # the patch embedding is a convolution
        self._attention = PackedAttention(self.model.config.get_text_config(), config)

    @classmethod
    def load(
        cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, family: Family, *, with_values: bool = True
    ) -> BaseAdapter:
        """Loads float32 weights; with ``model.dtype: bfloat16`` they are cast in each call until ``round_weights``.

        Args:
            with_values: False leaves the weights on the meta device

        Raises:
            ValueError: the folder is incomplete, or its tokenizer does not match its config
        """
        processor = cls.read_processor(path, model_config)
        base = find_base(path)
        if with_values:
            model, unexpected = load_weights(base or path, family.model, config)
            carried: CarriedWeights | None = CarriedWeights(base or path, model, unexpected)
        else:
            model, carried = build_without_values(base or path, family.model, config), None
            model.generation_config = read_generation_config(base or path) or model.generation_config
        store_as_in(base or path, model)
        if config.lora is not None and base is not None:
            attach_saved(model, path, config.lora, cls.lora_layers, base)
        elif config.lora is not None:
            attach(model, config.lora, cls.lora_layers, path)
        elif base is not None and with_values:
            model = merge_saved(model, path)
        cls.refuse_other_tokenizer(path, processor, model_config)
        adapter = cls(model, processor, config, family.frame)
        adapter._carried = carried
        return adapter

    @classmethod
    def load_without_weights(
        cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, family: Family
    ) -> BaseAdapter:
        """An adapter that can only render prompts, count tokens and size images. Its weights have no values."""
        with torch.device("meta"):
            model = family.model(model_config)
        if config.lora is not None:
            check_targets(model, config.lora, cls.lora_layers)
        model.generation_config = read_generation_config(find_base(path) or path) or model.generation_config
        return cls(model, cls.read_processor(path, model_config), config, family.frame)

    @classmethod
    def read_processor(cls, path: str, config: PreTrainedConfig) -> Any:
        """
        Raises:
            ValueError: see ``load_processor``
        """
        return load_processor(path, config)

    @classmethod
    def refuse_other_tokenizer(cls, path: str, processor: Any, config: PreTrainedConfig) -> None:
        """
        Raises:
            ValueError: the tokenizer is not the one that the config counts on
        """
        if processor.tokenizer.convert_tokens_to_ids(cls.image_token) != config.image_token_id:
            raise ValueError(f"model.path: the tokenizer in {path} does not know the config's image token; restore it")

    @classmethod
    def refuse_inexact(cls, config: PreTrainedConfig) -> None:
        """Refuses configs under which packed and plain log-probs would differ.

        Raises:
            ValueError: the config has dropout, or windows that the family's masks do not have
        """
        text: Any = config.get_text_config()
        if not cls.knows_windows and "sliding_attention" in (getattr(text, "layer_types", None) or []):
            raise ValueError(
                "model.path: the config uses sliding-window attention; set use_sliding_window to false in it"
            )
        refuse_dropout(config)

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        return int(self.model.config.get_text_config().max_position_embeddings)

    def has_chat_template(self) -> bool:
        return self._chat.exists

    def is_chat(self) -> bool:
        return self._chat.marks_roles()

    def opens_answer(self) -> bool:
        return self._chat.opens_answer()

    def check_chat(self, thinking: bool | None) -> None:
        self._chat.check(thinking, self.end_token_ids)

    def render_chat(self, parts: Sequence[Part], system: str | None, thinking: bool | None = None) -> str:
        return self._chat.render(parts, system, thinking)

    def control_tokens(self) -> list[str]:
        return list(self._chat.control_tokens)

    # --- tokens ------------------------------------------------------------------------------------------------------

    @property
    def pad_token_id(self) -> int:
        return find_pad_token(self.model, self.tokenizer, self.end_token_ids, self._num_logits)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        return find_end_tokens(self.model, self.tokenizer)

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Vision tokens: with one in a completion, the next forward would expect an image that does not exist.

        A head may have fewer rows than the tokenizer has tokens; what lies above them is never sampled.
        """
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        named = {getattr(self.model.config, name, None) for name in names}
        ids: set[int | None] = named | {self.tokenizer.convert_tokens_to_ids(token) for token in self.vision_tokens}
        ids -= {self.tokenizer.unk_token_id, *self.end_token_ids}
        return tuple(sorted(i for i in ids if i is not None and i < self._num_logits))

    def decode(self, token_ids: Sequence[int]) -> str:
        body = token_ids[:-1] if token_ids and token_ids[-1] in self.end_token_ids else token_ids
        return str(self.tokenizer.decode(list(body), skip_special_tokens=False))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        return (*self._token_ids(text), self._chat.closing_token(self.end_token_ids))

    # --- running -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self._computes_on or torch.device(self.model.device)

    def compute_on(self, device: torch.device) -> None:
        """See ``Adapter.compute_on``."""
        self._computes_on = device

    @property
    def head_weight(self) -> Tensor:
        return self.model.lm_head.weight  # type: ignore[no-any-return]

    @property
    def logit_cap(self) -> float | None:
        """See ``Adapter.logit_cap``."""
        return None

    def autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        return join_vision(parts)

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
        """See ``Adapter.run_body``."""
        # with gradient checkpointing, transformers drops the cache in training mode: tokens would not see their prompt
        assert cache is None or not (self.model.training and self.config.gradient_checkpointing)
        body, tokens = self._inputs(input_ids, token_types, vision, features)
        mask = self._attention_mask(
            token_types=token_types, position_ids=position_ids, visible=visible, segment_ids=segment_ids, real=real,
            cache=cache,
        )  # fmt: skip
        output = body(
            **tokens,
            position_ids=position_ids if len(position_ids) > 1 else position_ids[0],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def new_cache(self) -> Cache:
        return GrowingCache()

    @property
    def joins_groups(self) -> bool:
        return self._attention.skips_groups(self.device)

    def row_block(self, num_tokens: int) -> int:
        return self._attention.row_block(num_tokens, self.device) if self.joins_groups else 1

    @property
    def keeps_prompts(self) -> bool:
        return not self.config.gradient_checkpointing

    def _inputs(
        self, input_ids: Tensor, token_types: Tensor, vision: VisionInputs | None, features: ImageFeatures | None
    ) -> tuple[Any, dict[str, Any]]:
        """What runs, with its tokens and images: the text model where the features are known, or else the whole."""
        if features is None:
            return self.model.model, {"input_ids": input_ids, **self._forward_arguments(token_types, vision)}
        return self._text_model, self._embed(input_ids, token_types, features)

    @property
    def _text_model(self) -> Any:
        return self.model.model.language_model

    def _attention_mask(
        self,
        *,
        token_types: Tensor,
        position_ids: Tensor,
        visible: Tensor | None,
        segment_ids: Tensor | None,
        real: Tensor | None,
        cache: Cache | None,
    ) -> Any:
        """The mask argument of the forward: one for all layers, or a dict by the type of layer."""
        num_earlier = 0 if cache is None else cache.get_seq_length()
        return self._attention.mask(visible, segment_ids, self.autocast_dtype or self.model.dtype, num_earlier)

    def _forward_arguments(self, token_types: Tensor, vision: VisionInputs | None) -> dict[str, Any]:
        """Arguments of the forward other than tokens, positions and mask."""
        return {} if vision is None else dict(vision.tensors)

    def _embed(self, input_ids: Tensor, token_types: Tensor, features: ImageFeatures) -> dict[str, Any]:
        """Tokens as arguments of the text model: ``inputs_embeds`` [R, S, H] with the features at the image tokens."""
        embedded = self.model.get_input_embeddings()(input_ids)
        is_image = token_types.bool()[..., None].expand_as(embedded)
        return {"inputs_embeds": embedded.masked_scatter(is_image, features.levels[0].to(embedded.dtype))}

    def run_plain(self, encoded: Encoded, completion_ids: Sequence[int]) -> Tensor:
        """See ``Adapter.run_plain``."""
        output = self.model.model(**self._plain_row(encoded, completion_ids))
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def plain_logits(self, encoded: Encoded, completion_ids: Sequence[int], count: int) -> Tensor:
        """See ``Adapter.plain_logits``."""
        return head_logits(self.run_plain(encoded, completion_ids)[-count:], self.head_weight, self.logit_cap)

    def _plain_row(self, encoded: Encoded, completion_ids: Sequence[int]) -> dict[str, Any]:
        """Arguments of the forward for an ordinary row."""
        device = self.device
        ids = torch.tensor([[*encoded.token_ids, *completion_ids]], device=device)
        types = torch.tensor([self._plain_types(encoded, len(completion_ids))], device=device)
        vision = {} if encoded.vision is None else {n: t.to(device) for n, t in encoded.vision.tensors.items()}
        row = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        return row | self._plain_arguments(ids, types, vision)

    def _plain_types(self, encoded: Encoded, num_completion: int) -> list[int]:
        """Types of the tokens of an ordinary row, in the words of the model's own processor."""
        return [*encoded.token_types, *[0] * num_completion]

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments of the forward for an ordinary row [1, S], as ``generate`` passes them."""
        return dict(vision)

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        """By default those of all images, or of all tiles, one after the other."""
        found = self.model.model.get_image_features(**vision.tensors).pooler_output
        return ImageFeatures((found.flatten(0, 1) if isinstance(found, Tensor) else torch.cat(found),))
