"""Everything that determines a prediction, for ``settings.json``: rows, weights, prompt, rewards, sampling, versions.

An earlier process's predictions are only kept if its settings were the same. What may differ (path of the model, ranks,
batch size) is not included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config import ModelConfig, PromptConfig, Recipe, RewardsConfig
from gpg_vl.data.file_digests import digest_file
from gpg_vl.evaluation.rows import EvaluationRow
from gpg_vl.models.versions import read_versions
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import FrameList
from gpg_vl.rollout.engine import Sampling

_MODEL_KEYS = ("family", "dtype", "attention", "min_pixels", "max_pixels", "max_tiles", "frame")


Settings = dict[str, Any]


def evaluation_sampling(recipe: Recipe) -> Sampling:
    """How validation and evaluation sample."""
    config = recipe.evaluation
    return Sampling(config.max_new_tokens or recipe.rollout.max_new_tokens, config.temperature)


def settings_without_model(
    recipe: Recipe, benchmark: str | None, rows: Sequence[EvaluationRow], tasks: Iterable[str]
) -> Settings:
    """What is known before the model is loaded.

    Args:
        benchmark: name of the benchmark that the predictions belong to
        tasks: names of the rows' tasks
    """
    return {
        "benchmark": benchmark,
        "rows": {"num": len(rows), "sha256": hash_rows(rows)},
        "model": {key: getattr(recipe.model, key) for key in _MODEL_KEYS},
        "prompt": asdict(recipe.prompt),
        "rewards": {**asdict(recipe.rewards), "code": _hash_own_code([*tasks, *recipe.rewards.functions])},
        "sampling": {
            "engine": recipe.rollout.engine,
            "num_samples": recipe.evaluation.num_samples,
            **asdict(evaluation_sampling(recipe)),
            "seed": recipe.run.seed,
        },
        "versions": scoring_versions(),
        **_video_settings(recipe, rows),
    }


def _video_settings(recipe: Recipe, rows: Sequence[EvaluationRow]) -> Settings:
    """What decides which frames are seen; empty where no row has a video, as in an evaluation of an earlier version."""
    if not any(row.sample.videos for row in rows):
        return {}
    sampling = {"fps": recipe.data.fps, "max_frames": recipe.data.max_frames}
    return {"videos": {**sampling, "max_video_pixels": recipe.model.max_video_pixels}}


def add_model(
    settings: Settings, model: torch.nn.Module, prompts: PromptBuilder, rows: Sequence[EvaluationRow]
) -> Settings:
    """``settings_without_model`` and what needs the model: its weights, and a prompt as it reads it."""
    return {
        **settings,
        "model": {"weights_sha256": hash_weights(model), **settings["model"]},
        "prompt": {**settings["prompt"], "first_row": _first_prompt(prompts, rows)},
    }


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings with the keys that an earlier version did not have; their defaults change no prediction."""
    sections = {
        "model": {key: getattr(ModelConfig(), key) for key in _MODEL_KEYS},
        "prompt": asdict(PromptConfig()),
        "rewards": asdict(RewardsConfig()),
        "sampling": {each.name: each.default for each in fields(Sampling) if each.default is not MISSING},
    }
    as_saved: dict[str, dict[str, Any]] = json.loads(json.dumps(sections))
    filled = {name: {**keys, **saved[name]} for name, keys in as_saved.items() if isinstance(saved.get(name), dict)}
    return {**saved, **filled}


def scoring_versions() -> dict[str, str]:
    """Versions of the libraries that a prediction and its score depend on."""
    return read_versions(["math-verify"])


def hash_weights(model: torch.nn.Module) -> str:
    """Hash of every saved parameter and buffer by name; equal for equal weights in any file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_rows(rows: Iterable[EvaluationRow]) -> str:
    """Hash of what is asked, shown and expected, other columns included; an image file counts by name and content."""
    digest = hashlib.sha256()
    for row in rows:
        sample = row.sample
        told = (row.split, row.category, sample.task, sample.question, sample.answer)
        others = (sample.meta,) if sample.meta else ()  # an earlier version left them out
        digest.update(repr((*told, *others)).encode(errors="surrogatepass"))
        for image in sample.images:
            digest.update(image if isinstance(image, bytes) else _describe_file(Path(image)))
        for video in sample.videos:
            digest.update(_describe_video(video))
    return digest.hexdigest()


def _describe_video(video: str | bytes | FrameList) -> bytes:
    if isinstance(video, bytes):
        return video
    if isinstance(video, str):
        return _describe_file(Path(video))
    frames = (image if isinstance(image, bytes) else _describe_file(Path(image)) for image in video.images)
    return repr((video.fps, *frames)).encode()


def _describe_file(path: Path) -> bytes:
    return f"{path.name} {digest_file(path) if path.is_file() else None}".encode()


def _first_prompt(prompts: PromptBuilder, rows: Sequence[EvaluationRow]) -> str | None:
    """The first prompt that can be built, as the model reads it."""
    for row in rows:
        try:
            return prompts.build(row.sample).text
        except ValueError:
            continue
    return None


def _hash_own_code(specs: Iterable[str]) -> dict[str, str]:
    """Hashes of the tasks and reward functions in the user's own files."""
    files = {spec: Path(spec.rpartition(":")[0]) for spec in specs}
    return {spec: hashlib.sha256(file.read_bytes()).hexdigest() for spec, file in files.items() if file.suffix == ".py"}
