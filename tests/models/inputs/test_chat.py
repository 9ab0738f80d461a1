"""What a chat template is asked before the first prompt; templates that do not work at all are in test_base.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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


@pytest.mark.parametrize("shown", ["m.content", "m.content | tojson", "m.content + ''"])
def test_a_template_that_writes_no_parts_of_a_system_message_gets_its_text(load: LoadModel, shown: str) -> None:
    """As the published one of GLM-4.1V does; the row's message is given as the recipe's is."""
    system = "Be brief.\nAnswer in {'words'}."
    usual = load()
    as_parts = usual.render_chat(["?"], system)
    adapter = load()
    own = adapter.processor.chat_template
    opening = "{%- for m in messages if m.role == 'system' -%}<|im_start|>system\n{{ " + shown + " }}<|im_end|>\n"
    others = own.replace("for message in messages", "for message in messages if message['role'] != 'system'")
    adapter.processor.chat_template = opening + "{% endfor %}" + others
    written = json.dumps(system) if "tojson" in shown else system
    assert adapter.render_chat(["?"], system) == as_parts.replace(system, written)
    assert adapter.render_chat(["?"], None) == usual.render_chat(["?"], None)
    sample = replace(make_sample(), meta={"system": system})
    for config, given in ((PromptConfig(system=system), make_sample()), (PromptConfig(), sample)):
        text = PromptBuilder(adapter, TASKS, config).build(given).text
        assert f"system\n{written}<|im_end|>" in text


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


def test_a_gold_completion_ends_as_the_template_ends_an_answer(load: LoadModel) -> None:
    """Published models name the end of a text before that of a turn; without a template the first one is taken."""
    end_of_text, end_of_turn = 0, 2
    for first, second in ((end_of_text, end_of_turn), (end_of_turn, end_of_text)):
        adapter = load()
        adapter.model.generation_config.eos_token_id = [first, second]
        assert adapter.encode_completion("4")[-1] == end_of_turn
        bare = load()
        bare.model.generation_config.eos_token_id = [first, second]
        bare.processor.chat_template = None
        assert bare.encode_completion("4")[-1] == first
