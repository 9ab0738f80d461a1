"""Tiny models of families whose images are patches of any number: GLM-4.xV and Mistral 3; 28 pixels are a token."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from gpg_vl.models.tiny.family import INITIALIZER_RANGE, TinyFamily, text_config
from gpg_vl.models.tiny.tokenizer import build_tokenizer, token_id

# --- GLM-4.1V to GLM-4.6V ---

_GLM_TOKENS = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_BORDERS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
_GLM_ROLES = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_GLM_TEMPLATE = """\
[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}\
{% for item in message['content'] %}\
{{ '<|begin_of_image|><|image|><|end_of_image|>' if item['type'] == 'image' else item['text'] }}\
{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

_glm_tokenizer = partial(
    build_tokenizer,
    special=(*_GLM_ROLES, *_GLM_TOKENS.values(), *_GLM_BORDERS),
    named=_GLM_TOKENS,
    template=_GLM_TEMPLATE,
    eos="<|user|>",
)


_GLM_BIASED = {"model_type": "glm4v_text", "attention_bias": True}
_GLM_EXPERTS = {
    "model_type": "glm4v_moe_text", "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "attention_bias": True, "head_dim": 32, "use_qk_norm": False,
}  # fmt: skip


def _glm_config(config: type[Any], text: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    rope = {
        "rope_type": "default", "rope_theta": 1.0e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3],
    }  # fmt: skip
    vision = {
        "model_type": text["model_type"].replace("_text", "_vision"), "depth": 2,
        "hidden_size": 128, "out_hidden_size": 128, "num_heads": 4,
        "intermediate_size": 256, "patch_size": 14, "image_size": 112, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "initializer_range": INITIALIZER_RANGE,
    }  # fmt: skip
    starts = ("image_start", "image_end", "video_start", "video_end")
    ids = {f"{name}_token_id": token_id(tokenizer, token) for name, token in zip(starts, _GLM_BORDERS, strict=True)}
    return config(
        text_config=text_config(tokenizer, rope_parameters=rope, **text),
        vision_config=vision,
        image_token_id=token_id(tokenizer, "<|image|>"),
        video_token_id=token_id(tokenizer, "<|video|>"),
        **ids,
    )


def _glm_processor(
    processor: type[Any], images: type[Any], videos: type[Any], tokenizer: PreTrainedTokenizerFast
) -> ProcessorMixin:
    size = {"shortest_edge": 2 * 784, "longest_edge": 2 * 784 * 64}  # pixels of two frames
    made: ProcessorMixin = processor(
        images(size=size), tokenizer, videos(size=size), chat_template=tokenizer.chat_template
    )
    return made


# --- Mistral 3 ---

_MISTRAL_TOKENS = ("<pad>", "<s>", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
_MISTRAL_IMAGE = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
_MISTRAL_TEMPLATE = """\
<s>{% for message in messages %}\
{{ {'system': '[SYSTEM_PROMPT]', 'user': '[INST]', 'assistant': ''}[message['role']] }}\
{% for item in message['content'] %}{{ '[IMG]' if item['type'] == 'image' else item['text'] }}{% endfor %}\
{{ {'system': '[/SYSTEM_PROMPT]', 'user': '[/INST]', 'assistant': '</s>'}[message['role']] }}\
{% endfor %}"""

_mistral_tokenizer = partial(
    build_tokenizer, special=(*_MISTRAL_TOKENS, *_MISTRAL_IMAGE), template=_MISTRAL_TEMPLATE, eos="</s>", pad="<pad>"
)


def _mistral_config(tokenizer: PreTrainedTokenizerFast) -> Mistral3Config:
    return Mistral3Config(
        text_config=text_config(tokenizer, model_type="mistral", head_dim=32, sliding_window=None, rms_norm_eps=1e-5),
        vision_config={
            "model_type": "pixtral", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 448, "patch_size": 14, "initializer_range": INITIALIZER_RANGE,
        },
        image_token_index=token_id(tokenizer, "[IMG]"),
        spatial_merge_size=2,
    )  # fmt: skip


def _mistral_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    return PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 448}, patch_size={"height": 14, "width": 14}),
        tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=tokenizer.chat_template,
    )


PATCHED_FAMILIES = {
    "glm4v": TinyFamily(
        Glm4vForConditionalGeneration,
        partial(_glm_config, Glm4vConfig, _GLM_BIASED),
        partial(_glm_processor, Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor),
        _glm_tokenizer,
    ),
    "glm4v_moe": TinyFamily(
        Glm4vMoeForConditionalGeneration,
        partial(_glm_config, Glm4vMoeConfig, _GLM_EXPERTS),
        partial(_glm_processor, Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor),
        _glm_tokenizer,
    ),
    "glm46v": TinyFamily(
        Glm46VForConditionalGeneration,
        partial(_glm_config, Glm46VConfig, _GLM_BIASED),
        partial(_glm_processor, Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor),
        _glm_tokenizer,
    ),
    "mistral3": TinyFamily(Mistral3ForConditionalGeneration, _mistral_config, _mistral_processor, _mistral_tokenizer),
}
