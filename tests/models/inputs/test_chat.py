"""What a chat template is asked before the first prompt; templates that do not work at all are in test_base.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.tasks import TASKS
from gpg_vl.verifiers.reasoning import completion_text
from tests.support.builders import SMALL_IMAGES, make_sample
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]
THINKING = {
    True: "<think>\\n",
    False: "<think>\\n\\n</think>\\n\\n",
}


def thinks(by_default: bool) -> str:
    """The end of a template that knows ``enable_thinking``, as newer families write it."""
    on, off = THINKING[True], THINKING[False]
    chosen = "enable_thinking is defined and not enable_thinking" if by_default else "not enable_thinking | default(0)"
    return "{%- if " + chosen + f" -%}}{{{{- '{off}' -}}}}{{%- else -%}}{{{{- '{on}' -}}}}{{%- endif -%}}"


@pytest.fixture
def load_thinking(load: LoadModel) -> LoadModel:
    def load_it(by_default: bool = True) -> QwenVLAdapter:
        adapter = load()
        adapter.processor.chat_template += thinks(by_default)
        return adapter

    return load_it


@pytest.mark.parametrize("by_default", [True, False])
@pytest.mark.parametrize("said", ["auto", "on", "off"])
def test_thinking_is_asked_for_as_the_recipe_says(load_thinking: LoadModel, said: str, by_default: bool) -> None:
    adapter = load_thinking(by_default)
    config = PromptConfig(template="{question}", thinking=said)  # type: ignore[arg-type]
    prompt = PromptBuilder(adapter, TASKS, config).build(make_sample())
    wants = {"auto": by_default, "on": True, "off": False}[said]
    ending = THINKING[wants].replace("\\n", "\n")
    assert prompt.text.endswith(f"assistant\n{ending}")
    answer = "4</think><answer>4</answer>" if wants else "<answer>4</answer>"
    assert completion_text(prompt, answer) == ending + answer
    gold = GoldCompletions(adapter, TASKS).write(prompt.sample, prompt.text, prompt.views)
    assert gold.text == ("</think><answer>4</answer>" if wants else "<answer>4</answer>")


def test_tags_that_a_tokenizer_calls_special_are_no_control_tokens(load: LoadModel) -> None:
    """Every prompt asks for them, and every gold completion holds them."""
    adapter = load()
    special = [*adapter.tokenizer.extra_special_tokens, "<think>", "</think>", "<answer>"]
    adapter.tokenizer.add_special_tokens({"extra_special_tokens": special})
    assert "<think>" in adapter.tokenizer.all_special_tokens
    prompt = PromptBuilder(adapter, TASKS, PromptConfig()).build(make_sample())
    assert GoldCompletions(adapter, TASKS).write(prompt.sample, prompt.text, prompt.views).text.startswith("<think>")
    with pytest.raises(ValueError, match=naming("<|im_end|>")):
        PromptBuilder(adapter, TASKS, PromptConfig()).build(make_sample(question="How many <|im_end|>?"))


def test_thinking_that_the_template_does_not_know_is_refused(load: LoadModel, load_thinking: LoadModel) -> None:
    for said in ("on", "off"):
        config = PromptConfig(thinking=said)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=naming("prompt.thinking", "enable_thinking", load().config.path)):
            PromptBuilder(load(), TASKS, config)
        with pytest.raises(ValueError, match=naming("prompt.thinking", "prompt.style")):
            PromptBuilder(load_thinking(), TASKS, PromptConfig(style="base", thinking=said))  # type: ignore[arg-type]


def test_a_template_that_shows_no_image_is_refused_before_the_first_prompt(load: LoadModel) -> None:
    adapter = load()
    adapter.processor.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}{% endfor %}"
    with pytest.raises(ModelMistake, match=naming("model.path", adapter.config.path, "images")):
        PromptBuilder(adapter, TASKS, PromptConfig())
    PromptBuilder(adapter, TASKS, PromptConfig(style="base"))


@pytest.mark.parametrize(
    ("ends", "is_written"), [([0], False), ([2], True), ([0, 2], True), (0, False), ([1], True)], ids=str
)
def test_an_end_that_the_template_never_writes_is_refused(
    model_folders: dict[str, Path], tmp_path: Path, ends: object, is_written: bool
) -> None:
    """Of several one is enough, as of published models; one may open the next turn, as that of GLM."""
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    config = ModelConfig(path=str(folder), **SMALL_IMAGES)  # type: ignore[arg-type]
    for with_weights in (True, False):
        adapter = load_adapter(config, with_weights)
        PromptBuilder(adapter, TASKS, PromptConfig(style="base"))
        if is_written:
            PromptBuilder(adapter, TASKS, PromptConfig())
            continue
        told = naming("model.path", folder, "<|endoftext|>", "<|im_end|>", "generation_config.json")
        with pytest.raises(ModelMistake, match=told):
            PromptBuilder(adapter, TASKS, PromptConfig())
