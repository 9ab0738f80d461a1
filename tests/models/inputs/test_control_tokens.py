"""Tokens of structure that a tokenizer only marks as special, without a name for them, as published ones of Gemma 3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import AddedToken

from gpg_vl.config import PromptConfig
from gpg_vl.errors import ModelMistake
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.inputs.control_tokens import find_control_tokens
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.tasks import TASKS
from tests.support.builders import make_sample
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]
TURN, PLAIN = "<end_of_turn>", "<table>"
ASKED_FOR = ["<loc0000>", "<loc1023>", "<box>", "</box>", "<think>", "</answer>"]


@pytest.fixture
def adapter(load: LoadModel) -> QwenVLAdapter:
    adapter = load()
    special = [AddedToken(text, special=True, normalized=False) for text in (TURN, *ASKED_FOR)]
    adapter.tokenizer.add_tokens(special, special_tokens=True)
    adapter.tokenizer.add_tokens([AddedToken(PLAIN, special=False, normalized=False)])
    assert not {TURN, *ASKED_FOR} & set(adapter.tokenizer.all_special_tokens)
    return adapter


def test_a_token_without_a_name_is_refused_in_a_row(adapter: QwenVLAdapter) -> None:
    build = PromptBuilder(adapter, TASKS, PromptConfig()).build
    with pytest.raises(ValueError, match=naming("counting-0", "question", TURN)):
        build(make_sample(question=f"How {TURN}?"))
    build(make_sample(question=f"How many {PLAIN}?"))
    found = find_control_tokens(adapter.tokenizer)
    assert found[TURN] == adapter.tokenizer.convert_tokens_to_ids(TURN) and "<|im_end|>" in found
    assert not found.keys() & {PLAIN, *ASKED_FOR}, "a prompt asks for these"


def test_a_token_without_a_name_may_be_the_end_of_a_turn(adapter: QwenVLAdapter) -> None:
    adapter.processor.chat_template = adapter.processor.chat_template.replace("<|im_end|>\\n", f"{TURN}\\n")
    with pytest.raises(ModelMistake, match=naming("model.path", TURN, "generation_config.json")):
        PromptBuilder(adapter, TASKS, PromptConfig())
