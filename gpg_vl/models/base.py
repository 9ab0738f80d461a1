"""What the adapters of transformers' vision-language models share: loading, text, tokens, attention, saving.

A family's own file says how its images become text and tensors, and where its parts are; see ``adapter.py``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from gpg_vl.config import ModelConfig
from gpg_vl.errors import ModelMistake, first_line
from gpg_vl.files import follow_umask
from gpg_vl.models.deadline import Deadline
from gpg_vl.models.loading import load_processor, load_weights
from gpg_vl.models.lora import attach, attach_saved, find_base, merge_saved
from gpg_vl.models.packed_attention import PackedAttention
from gpg_vl.models.tokenizing import read_tokens
from gpg_vl.models.vision import join_vision
from gpg_vl.records import Encoded, Frame, ImageFeatures, ImageView, VisionInputs

_TEMPLATE_DEADLINE = Deadline(5.0)


@dataclass(frozen=True, slots=True)
class Family:
    """An entry of ``FAMILIES``."""

    adapter: type[BaseAdapter]
    model: type[PreTrainedModel]
    frame: Frame


class BaseAdapter(ABC):
    """An ``Adapter`` except for the abstract methods and the class variables, which the family supplies."""

    image_token: ClassVar[str]
    """The token that stands for an image in the tokenizer; its id is the config's ``image_token_id``."""
    part_prefixes: ClassVar[tuple[tuple[str, str], ...]]
    """Prefixes of parameter names and their part; the first match counts, every other parameter is ``text``."""
    lora_layers: ClassVar[Mapping[str, str]]
    """Regular expression of the linear layers that LoRA adapts, by part."""

    def __init__(self, model: PreTrainedModel, processor: Any, config: ModelConfig, frame: Frame):
        self.model: Any = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.config = config
        self.frame = frame
        self.refuse_inexact(model.config)
        if config.lora is None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(self.part_of(name) not in config.freeze)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.autocast_dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
        # with bfloat16 the float32 head may use TF32, which is more precise; set in both cases: it is process-wide
        torch.set_float32_matmul_precision("highest" if self.autocast_dtype is None else "high")
        self._attention = PackedAttention(self.model.config.get_text_config(), config)

    @classmethod
    def load(cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, family: Family) -> BaseAdapter:
        """Loads float32 weights. bfloat16 is used through autocast, so that small steps are not rounded away.

        Raises:
            ValueError: the folder is incomplete, or its tokenizer does not match its config
        """
        processor = load_processor(path, model_config)
        base = find_base(path)
        model = load_weights(base or path, family.model, config)
        if config.lora is not None and base is not None:
            attach_saved(model, path, config.lora, cls.lora_layers, base)
        elif config.lora is not None:
            attach(model, config.lora, cls.lora_layers, path)
        elif base is not None:
            model = merge_saved(model, path)
        if processor.tokenizer.convert_tokens_to_ids(cls.image_token) != model_config.image_token_id:
            raise ValueError(f"model.path: the tokenizer in {path} does not know the config's image token; restore it")
        return cls(model, processor, config, family.frame)

    @classmethod
    def load_without_weights(
        cls, path: str, model_config: PreTrainedConfig, config: ModelConfig, family: Family
    ) -> BaseAdapter:
        """An adapter that can only render prompts, count tokens and size images. Its weights have no values."""
        with torch.device("meta"):
            model = family.model(model_config)
        return cls(model, load_processor(path, model_config), config, family.frame)

    @staticmethod
    def refuse_inexact(config: PreTrainedConfig) -> None:
        """Refuses configs under which packed and plain log-probs would differ.

        Raises:
            ValueError: the config has sliding windows or dropout
        """
        text: Any = config.get_text_config()
        if "sliding_attention" in (getattr(text, "layer_types", None) or []):
            raise ValueError(
                "model.path: the config uses sliding-window attention; set use_sliding_window to false in it"
            )
        if text.attention_dropout:
            raise ValueError("model.path: the config has attention_dropout above 0; set it to 0 in config.json")

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        return int(self.model.config.get_text_config().max_position_embeddings)

    def has_chat_template(self) -> bool:
        return self.processor.chat_template is not None

    def is_chat(self) -> bool:
        if not self.has_chat_template():
            return False
        content = [{"type": "text", "text": "probe"}]
        return bool(self._render([{"role": "user", "content": content}]).strip() != "probe")

    def opens_answer(self) -> bool:
        messages = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        return self._render(messages) != self._render(messages, opens_answer=False)

    def _render(self, messages: list[dict[str, Any]], *, opens_answer: bool = True) -> str:
        """
        Raises:
            ModelMistake: the chat template fails, or takes too long
        """
        render = self.processor.apply_chat_template
        try:
            with _TEMPLATE_DEADLINE.within():
                return str(render(messages, tokenize=False, add_generation_prompt=opens_answer))
        except TimeoutError as error:
            lack = f"takes over {_TEMPLATE_DEADLINE.seconds:g} s for one prompt"
            raise ModelMistake(f"model.path: the chat template of {self.config.path} {lack}; correct it") from error
        except Exception as error:  # a template is a program
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelMistake(
                f"model.path: the chat template of {self.config.path} fails ({reason[:160]}); correct it, "
                "leave prompt.system out, or set prompt.style to base"
            ) from error

    def render_chat(self, parts: Sequence[str | None], system: str | None) -> str:
        content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        text = self._render(messages)
        wanted, found = parts.count(None), text.count(self.image_token)
        if found != wanted:
            raise ModelMistake(
                f"model.path: the chat template of {self.config.path} shows {found} of {wanted} images; take another "
                "template, or set prompt.style to base"
            )
        return text

    def control_tokens(self) -> list[str]:
        return [str(token) for token in self.tokenizer.all_special_tokens]

    def count_text_tokens(self, text: str) -> int:
        return len(self._token_ids(text))

    def _token_ids(self, text: str) -> list[int]:
        return read_tokens(self.tokenizer, text, self.config.path)

    @abstractmethod
    def render_plain(self, parts: Sequence[str | None]) -> str: ...

    @abstractmethod
    def view(self, width: int, height: int, max_tokens: int | None = None) -> ImageView: ...

    @abstractmethod
    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]: ...

    @abstractmethod
    def encode(self, text: str, images: Sequence[Image], views: Sequence[ImageView]) -> Encoded: ...

    # --- tokens ------------------------------------------------------------------------------------------------------

    @property
    def pad_token_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """From the model's generation config, or else from the tokenizer."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)

    @property
    @abstractmethod
    def banned_token_ids(self) -> tuple[int, ...]: ...

    def decode(self, token_ids: Sequence[int]) -> str:
        body = token_ids[:-1] if token_ids and token_ids[-1] in self.end_token_ids else token_ids
        return str(self.tokenizer.decode(list(body), skip_special_tokens=False))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        return (*self._token_ids(text), self.end_token_ids[0])

    # --- running -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def head_weight(self) -> Tensor:
        return self.model.lm_head.weight  # type: ignore[no-any-return]

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
        cache: Cache | None = None,
    ) -> Tensor:
        """See ``Adapter.run_body``."""
        # with gradient checkpointing, transformers drops the cache in training mode: tokens would not see their prompt
        assert cache is None or not (self.model.training and self.model.is_gradient_checkpointing)
        tokens: dict[str, Any] = {"input_ids": input_ids}
        if features is not None:
            tokens = self._embed(input_ids, token_types, features)
        output = self.model.model(
            **tokens,
            **self._forward_arguments(token_types, vision),
            position_ids=position_ids if len(position_ids) > 1 else position_ids[0],
            attention_mask=self._attention.mask(visible, segment_ids, self.autocast_dtype or self.model.dtype),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _forward_arguments(self, token_types: Tensor, vision: VisionInputs | None) -> dict[str, Any]:
        """Arguments of the forward other than tokens, positions and mask."""
        return {} if vision is None else dict(vision.tensors)

    def _embed(self, input_ids: Tensor, token_types: Tensor, features: ImageFeatures) -> dict[str, Tensor]:
        """``inputs_embeds`` [R, S, H] with the features at the image tokens."""
        embedded = self.model.get_input_embeddings()(input_ids)
        is_image = token_types.bool()[..., None].expand_as(embedded)
        return {"inputs_embeds": embedded.masked_scatter(is_image, features.levels[0].to(embedded.dtype))}

    def run_plain(self, encoded: Encoded, completion_ids: Sequence[int]) -> Tensor:
        """See ``Adapter.run_plain``."""
        device = self.device
        ids = torch.tensor([[*encoded.token_ids, *completion_ids]], device=device)
        types = torch.tensor([[*encoded.token_types, *(0 for _ in completion_ids)]], device=device)
        vision = {} if encoded.vision is None else {n: t.to(device) for n, t in encoded.vision.tensors.items()}
        output = self.model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            **self._plain_arguments(ids, types, vision),
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def _plain_arguments(self, ids: Tensor, token_types: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments of the forward for an ordinary row [1, S], as ``generate`` passes them."""
        return dict(vision)

    @abstractmethod
    def encode_images(self, vision: VisionInputs) -> ImageFeatures: ...

    def has_frozen_tower(self) -> bool:
        return not any(p.requires_grad for name, p in self.model.named_parameters() if self.part_of(name) != "text")

    # --- training and saving -----------------------------------------------------------------------------------------

    def part_of(self, parameter_name: str) -> str:
        for prefix, part in self.part_prefixes:
            if parameter_name.startswith(prefix):
                return part
        return "text"

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def num_parameters(self) -> tuple[int, int]:
        counts = [(p.numel(), p.numel() * p.requires_grad) for p in self.model.parameters()]
        return sum(each for each, _ in counts), sum(trained for _, trained in counts)

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        self.model.disable_adapters()
        try:
            yield
        finally:
            self.model.enable_adapters()

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)

    def save(self, folder: Path) -> None:
        """See ``Adapter.save``. The end tokens are those of the run, for whoever only has the folder."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        generation = copy.deepcopy(self.model.generation_config)
        generation.eos_token_id, generation.pad_token_id = list(self.end_token_ids), self.pad_token_id
        generation.save_pretrained(folder)
        follow_umask(folder)
