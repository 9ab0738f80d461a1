"""One question about images and videos to a model: the first thing to try. Shows each answer with its reward."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpg_vl.config import PromptConfig, Recipe
from gpg_vl.data.videos import FrameSampling
from gpg_vl.models import load_adapter
from gpg_vl.models.device import choose_device, describe_device
from gpg_vl.processes.ranks import note
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Completion, Prompt, Reward, RolloutGroup, Sample
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout import build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import BOXED_REQUEST, FORMAT_REQUEST
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.reasoning import completion_text


@dataclass(frozen=True, slots=True)
class Answer:
    completion: Completion
    answer: str | None  # content of the answer tag
    reward: Reward | None  # None without a task and a gold answer


def ask(
    recipe: Recipe, sample: Sample, task: str | None, num_samples: int, temperature: float
) -> tuple[Prompt, list[Answer]]:
    """Samples ``num_samples`` completions, and scores them if the sample has a gold answer.

    Args:
        sample: as ``read_question`` makes it
        task: name or FILE.py:CLASS; None: the question is asked as it is

    Raises:
        ValueError: no such model, or one that reads no videos where the sample has one
    """
    tasks = {} if task is None else {task: load_task(task)}
    prompt_config = recipe.prompt if task or recipe.prompt.template else _plain_question(recipe.prompt)
    device = choose_device(recipe.model)
    note(describe_device(device, recipe.model))
    adapter = load_adapter(recipe.model)
    adapter.round_weights()
    adapter.to(device)
    frames = FrameSampling(recipe.data.fps, recipe.data.max_frames)
    rollout = recipe.rollout
    builder = PromptBuilder(adapter, tasks, prompt_config, sampling=frames, keep_pictures=rollout.sends_pictures)
    prompt = builder.build(sample)
    sampling = Sampling(rollout.max_new_tokens, temperature, rollout.top_p, rollout.top_k)
    engine = build_engine(rollout, adapter)
    with engine.sync_weights():
        [group] = engine.generate([prompt], num_samples, sampling, [("ask", recipe.run.seed)])
    rewards = _score(group, recipe) if sample.answer else [None] * num_samples
    return prompt, [
        Answer(completion, find_answer(completion_text(prompt, completion.text), prompt.answer_in), reward)
        for completion, reward in zip(group.completions, rewards, strict=True)
    ]


def describe_answer(answered: Answer) -> str:
    """The answer that was read and, if it was scored, its reward with the parts."""
    reward = answered.reward
    if reward is None:
        return f"answer: {answered.answer!r}"
    parts = ", ".join(f"{name} {value:.3f}" for name, value in reward.parts.items())
    return f"answer: {answered.answer!r}   reward {reward.total:.3f} ({parts}) {reward.status}"


def _plain_question(config: PromptConfig) -> PromptConfig:
    request = FORMAT_REQUEST if config.answer_in == "tags" else BOXED_REQUEST
    return replace(config, template="{question} " + request)


def _score(group: RolloutGroup, recipe: Recipe) -> list[Reward]:
    with Scorer(recipe.rewards) as scorer:
        return list(scorer.score([group])[0].rewards)
