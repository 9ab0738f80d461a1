"""Groups whose completions say how the task misbehaves."""

from __future__ import annotations

from pathlib import Path

from gpg_vl.records import Completion, Prompt, RolloutGroup, Sample
from tests.support.builders import make_encoded

FILE = Path(__file__).with_name("hostile_rewards.py")


HOSTILE = f"{FILE}:Hostile"


def group(
    *texts: str,
    task: str = "counting",
    prompt_text: str = "How many?",
    chat: bool = False,
    sample_id: str = "s1",
    sample: Sample | None = None,
) -> RolloutGroup:
    sample = sample or Sample(sample_id, task, (), "How many?", "4", {"colour": "red"})
    messages = (("system", "Be brief."), ("user", "How many?")) if chat else ()
    prompt = Prompt(sample, prompt_text, make_encoded(), (), messages)
    return RolloutGroup(prompt, tuple(Completion((1,), text, finished=True) for text in texts))


def hostile(*answers: str, sample_id: str = "s1") -> RolloutGroup:
    texts = [f"<think></think><answer>{answer}</answer>" for answer in answers]
    return group(*texts, task=HOSTILE, sample_id=sample_id)
