"""The model that ``eval/lmms.sh`` gives lmms-eval: how it decodes and where an answer ends.

lmms-eval is not in this environment: small classes stand for its base class and its messages. The checkpoint is real.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

QUESTION = "How many shapes?"
NUM_NEW = 8


class Base:
    """``lmms_eval.api.model.lmms``."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


class Messages:
    """``lmms_eval.protocol.ChatMessages``: pictures stand under ``url`` before and under ``image`` after."""

    def __init__(self, messages: list[dict[str, Any]]):
        self._messages = messages

    def to_hf_messages(self) -> list[dict[str, Any]]:
        return [{"role": each["role"], "content": list(map(self._part, each["content"]))} for each in self._messages]

    @staticmethod
    def _part(part: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image", "image": part["url"]} if part["type"] == "image" else part


@pytest.fixture
def lmms_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, imported beside the stand-ins."""
    parts: dict[str, dict[str, Any]] = {
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.protocol": {"ChatMessages": Messages},
    }
    for name in ("lmms_eval", "lmms_eval.api", *parts):
        module = ModuleType(name)
        vars(module).update(parts.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    yield import_module("eval.lmms_model")
    del sys.modules["eval.lmms_model"]


def messages_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": Image.new("RGB", row["size"], "red")}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def answers(checkpoint: Any, **settings: Any) -> list[str]:
    rows = [{"size": (84, 56)}, {"size": (56, 84)}]
    checkpoint.task_dict = {"shapes": {"test": rows}}
    settings = {"max_new_tokens": NUM_NEW, **settings}
    args = [("", messages_of, settings, row, "shapes", "test") for row in range(len(rows))]
    found: list[str] = checkpoint.generate_until([SimpleNamespace(args=each) for each in args])
    return found


def greedy_tokens(checkpoint: Any) -> list[int]:
    """Of the first row, with no end."""
    inputs = checkpoint._processor.apply_chat_template(
        Messages(messages_of({"size": (84, 56)})).to_hf_messages(),
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip
    [row] = checkpoint._model.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None)
    tokens: list[int] = row[inputs["input_ids"].shape[1] :].tolist()
    return tokens


def folder_with(source: Path, folder: Path, **generation: Any) -> Path:
    shutil.copytree(source, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
    return folder


def test_an_answer_is_greedy_and_ends_before_any_end_token(
    lmms_model: Any, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The checkpoint's own end tokens, of which it may have several; its settings for sampling do not count."""
    own = model_folders["qwen2_vl"]
    plain = lmms_model.Checkpoint(str(own), "cpu", "float32")
    tokens, decode = greedy_tokens(plain), plain._processor.tokenizer.decode
    assert plain._ends.isdisjoint(tokens), "nothing ends the answer below"
    folder = folder_with(own, tmp_path / "samples", do_sample=True, temperature=50.0)
    assert answers(lmms_model.Checkpoint(str(folder), "cpu", "float32"), temperature=0)[0] == decode(tokens)
    last = next(n for n in range(2, NUM_NEW) if tokens[n] not in tokens[:n])
    folder = folder_with(own, tmp_path / "ends", eos_token_id=[*plain._ends, tokens[last]])
    ending = lmms_model.Checkpoint(str(folder), "cpu", "float32")
    assert ending._ends == {*plain._ends, tokens[last]}
    assert answers(ending, until=["\n"])[0] == decode(tokens[:last])


def test_a_task_says_how_to_sample(lmms_model: Any, model_folders: dict[str, Path]) -> None:
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    for settings, expected in (
        ({}, greedy),
        ({"temperature": 0, "top_p": 0.9, "do_sample": True, "until": ["\n"]}, greedy),
        ({"temperature": None, "max_new_tokens": 4, "num_beams": 2}, {**greedy, "max_new_tokens": 4, "num_beams": 2}),
        ({"temperature": 0.7, "top_p": None, "max_new_tokens": 4},
         {"temperature": 0.7, "max_new_tokens": 4, "do_sample": True}),
        ({"temperature": 1.0, "top_p": 0.9, "do_sample": False},
         {"temperature": 1.0, "top_p": 0.9, "do_sample": True}),
    ):  # fmt: skip
        assert lmms_model._decoding(settings) == expected
    checkpoint = lmms_model.Checkpoint(str(model_folders["qwen2_vl"]), "cpu", "float32")
    assert len({*answers(checkpoint, temperature=50.0), *answers(checkpoint, temperature=50.0)}) > 2


def test_what_it_cannot_do_is_said(lmms_model: Any, model_folders: dict[str, Path]) -> None:
    checkpoint = lmms_model.Checkpoint(str(model_folders["qwen2_vl"]), "cpu", "float32", batch_size=1)
    for refused in (checkpoint.loglikelihood, checkpoint.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="gpg_vl"):
            refused([])
