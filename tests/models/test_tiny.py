"""The tiny models are ordinary model folders: transformers' own classes load them and run on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from gpg_vl.models.tiny import (
    DEMO_TEXT,
    SPECIAL_TOKENS,
    TAG_TOKENS,
    TINY_FAMILIES,
    ModelType,
    build_tokenizer,
    write_tiny_model,
)
from tests.support.messages import naming

FAMILIES: tuple[ModelType, ...] = ("qwen2_vl", "qwen2_5_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def user_turn(*items: str | None) -> dict[str, object]:
    """A user message; None stands for an image."""
    return {
        "role": "user",
        "content": [{"type": "image"} if item is None else {"type": "text", "text": item} for item in items],
    }


def test_config_names_the_tokens(folder: Path) -> None:
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    named = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "vision_token_id": "<|vision_pad|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    assert config.model_type == folder.name
    assert {key: getattr(config, key) for key in named} == {
        key: tokenizer.convert_tokens_to_ids(token) for key, token in named.items()
    }
    assert config.text_config.vocab_size == len(tokenizer)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_processor_and_model_are_those_of_the_family(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    classes = {
        "qwen2_vl": (Qwen2VLProcessor, Qwen2VLForConditionalGeneration),
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2_5_VLForConditionalGeneration),
    }
    assert (type(processor), type(model)) == classes[folder.name]
    assert not any(loading.values()), loading
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 1_300_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_500_000


def test_forward_and_generate_on_several_images(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    messages = [user_turn(None, "How many shapes?", None)]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = [Image.new("RGB", (84, 84), "red"), Image.new("RGB", (56, 112), "blue")]
    batch = processor(text=[text], images=images, return_tensors="pt")
    num_image_tokens = int((batch["input_ids"] == model.config.image_token_id).sum())
    assert batch["image_grid_thw"].tolist() == [[1, 6, 6], [1, 8, 4]]
    assert num_image_tokens == 9 + 8
    assert int((batch["mm_token_type_ids"] == 1).sum()) == num_image_tokens
    logits = model(**batch).logits
    assert logits.shape == (1, batch["input_ids"].shape[1], model.config.text_config.vocab_size)
    assert torch.isfinite(logits).all()
    assert model.generate(**batch, max_new_tokens=3).shape[1] <= logits.shape[1] + 3


def test_image_moves_the_logits(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    text = processor.apply_chat_template([user_turn(None, "Hi")], add_generation_prompt=True, tokenize=False)
    red, blue = (
        model(**processor(text=[text], images=[Image.new("RGB", (84, 84), colour)], return_tensors="pt")).logits[0, -1]
        for colour in ("red", "blue")
    )
    assert (red - blue).abs().max() > 0.05


def test_chat_template(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "Be brief."},
        user_turn(None, None, "Which?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Both."}]},
    ]
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{vision}{vision}Which?<|im_end|>\n"
        "<|im_start|>assistant\nBoth.<|im_end|>\n"
    )
    assert processor.apply_chat_template(messages, tokenize=False) == expected
    assert AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False) == expected
    opened = processor.apply_chat_template([user_turn("Hi")], add_generation_prompt=True, tokenize=False)
    assert opened == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_tied_and_untied_embeddings(family: ModelType, tie: bool, tmp_path: Path) -> None:
    if family == "smolvlm":
        pytest.importorskip("num2words")
    if family == "molmo2" and tie:
        pytest.skip("its embedding has more rows than its head")
    model = AutoModelForImageTextToText.from_pretrained(write_tiny_model(tmp_path, family, tie_word_embeddings=tie))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tie


def test_seed_decides_weights_and_leaves_random_state(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    folders = [write_tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert torch.equal(torch.rand(3), expected)
    weights = [(path / "model.safetensors").read_bytes() for path in folders]
    assert weights[0] == weights[1] != weights[2]
    assert (folders[0] / "tokenizer.json").read_bytes() == (folders[2] / "tokenizer.json").read_bytes()


def test_special_tokens_and_tags_are_single_tokens() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *TAG_TOKENS]) == list(range(12))
    text = "<think>3 by 2</think><answer>[100, 300, 500, 700]</answer><|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text.removesuffix("<|im_end|>")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("How many shapes?", ["How", " many", " shapes", "?"]),
        ("What is the perimeter?", ["What", " is", " the", " perimeter", "?"]),
        ("Where is the red shape?", ["Where", " is", " the", " red", " shape", "?"]),
        ("3 by 2", ["3", " by", " ", "2"]),
        ("[0, 300]", ["[", "0", ", ", "3", "0", "0", "]"]),
    ],
)
def test_demo_words_are_single_tokens(text: str, pieces: list[str]) -> None:
    tokenizer = build_tokenizer()
    assert [tokenizer.decode([token]) for token in tokenizer(text).input_ids] == pieces


def test_every_demo_text_is_made_of_whole_words() -> None:
    tokenizer = build_tokenizer()
    for text in DEMO_TEXT:
        words = text.replace("?", " ?").replace("[", "[ ").replace("]", " ]").split()
        assert len(tokenizer(text).input_ids) <= len(words) + 1, text
    assert len(tokenizer) < 340


@pytest.mark.parametrize(
    "text", ["", "Ünïcode 漢字 🙂", "$\\frac{16\\sqrt{3}}{2}$ cm", " \n\t two  spaces ", "<answer >"]
)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_words_of_another_text() -> None:
    tokenizer = build_tokenizer(["a jolly zebra"])
    assert [tokenizer.decode([token]) for token in tokenizer("a jolly zebra").input_ids] == ["a", " jolly", " zebra"]


def test_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("llava", "qwen2_vl", "qwen2_5_vl")):
        write_tiny_model(tmp_path / "model", "llava")  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=naming(tmp_path / "file")):
        write_tiny_model(tmp_path / "file")
