"""One question about images to a model: the first thing to try. Prints each sample with its answer and reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpg_vl.config import PromptConfig, Recipe
from gpg_vl.models import load_adapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Prompt, Reward, RolloutGroup, Sample, completion_text
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import BOXED_REQUEST, FORMAT_REQUEST
from gpg_vl.verifiers.answers import find_answer

ANY_TASK = "any"


@dataclass(frozen=True, slots=True)
class Answered:
    completion: Completion
    answer: str | None  # content of the answer tag
    reward: Reward | None  # None without a task and a gold answer


def ask(
    recipe: Recipe,
    images: Sequence[str],
    question: str,
    task: str | None,
    answer: str | None,
    num_samples: int,
    temperature: float,
) -> tuple[Prompt, list[Answered]]:
    """Samples ``num_samples`` completions, and scores them if a task and the gold answer are given.

    Raises:
        ValueError: no such image, task or model; ``answer`` without ``task``
    """
    if answer is not None and task is None:
        raise ValueError("--answer needs --task: the task knows how to score it")
    missing = [image for image in images if not Path(image).is_file()]
    if missing:
        raise ValueError(f"--image: no file {missing[0]}")
    paths = tuple(str(Path(image).resolve()) for image in images)
    sample = Sample("ask", task or ANY_TASK, paths, question, answer or "")
    tasks = {} if task is None else {task: load_task(task)}
    if answer is not None and task is not None:
        tasks[task].check(sample)
    prompt_config = recipe.prompt if task or recipe.prompt.template else _plain_question(recipe.prompt)
    adapter = load_adapter(recipe.model)
    prompt = PromptBuilder(adapter, tasks, prompt_config).build(sample)
    rollout = recipe.rollout
    sampling = Sampling(rollout.max_new_tokens, temperature, rollout.top_p, rollout.top_k)
    engine = build_engine(rollout, adapter)
    with engine.sync_weights():
        [group] = engine.generate([prompt], num_samples, sampling, [("ask", recipe.run.seed)])
    rewards = _score(group, recipe) if answer is not None else [None] * num_samples
    return prompt, [
        Answered(completion, find_answer(completion_text(prompt, completion.text), prompt.answer_in), reward)
        for completion, reward in zip(group.completions, rewards, strict=True)
    ]


def _plain_question(config: PromptConfig) -> PromptConfig:
    request = FORMAT_REQUEST if config.answer_in == "tags" else BOXED_REQUEST
    return replace(config, template="{question} " + request)


def _score(group: RolloutGroup, recipe: Recipe) -> list[Reward]:
    with Scorer(recipe.rewards) as scorer:
        return list(scorer.score([group])[0].rewards)
