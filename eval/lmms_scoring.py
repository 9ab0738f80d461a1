"""What lmms-eval calls for a task of kit rows that ``eval.lmms_task`` wrote: the request, and the kit's own score.

It runs in lmms-eval's environment, so it imports no more than the kit's tasks do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import score_completion
from gpg_vl.verifiers.reasoning import with_template_opening

THINKING = "enable_thinking"
"""What chat templates that know it, and the settings of the task, call ``prompt.thinking``."""


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The pictures of a row."""
    return [image.convert("RGB") for image in doc["images"]]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The request without its pictures, for models of lmms-eval that know no conversations."""
    return "".join(part for part in json.loads(doc["parts"]) if part is not None)


def doc_to_messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation that the kit shows the model, each picture in its place."""
    images = iter(doc_to_visual(doc))
    content = [
        {"type": "image", "url": next(images)} if part is None else {"type": "text", "text": part}
        for part in json.loads(doc["parts"])
    ]
    system = [{"role": "system", "content": [{"type": "text", "text": doc["system"]}]}] if doc["system"] else []
    return [*system, {"role": "user", "content": content}]


def encode_conversation(processor: Any, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Any:
    """What the checkpoint's own processor makes of a conversation, as tensors.

    Args:
        settings: of the task, for the decoding; one of them may say whether the model is to think
    """
    said = {} if settings.get(THINKING) is None else {THINKING: settings[THINKING]}
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **said
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The part that the kit reports and the whole reward, by the task, the weights and the place of the answer that
    the model's recipe has."""
    task, rules = load_task(doc["task"]), json.loads(doc["rules"])
    sample = Sample(doc["id"], doc["task"], (), doc["question"], doc["answer"], json.loads(doc["meta"]))
    views = tuple(ImageView(**view) for view in rules["views"])
    text = with_template_opening(rules["opening"], results[0])
    reward = score_completion(task, sample, text, views, rules["weights"], "strict", rules["answer_in"])
    return {"score": reward.parts[task.main_part], "reward": reward.total}
