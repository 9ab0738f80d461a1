"""Rows with videos, from the file to the optimizer's step, on Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.generate import main as generate
from gpg_vl.config import PromptConfig
from gpg_vl.data.videos import FrameSampling
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_video import QwenVideoAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.recipes import load_recipe
from gpg_vl.records import FrameTimes, VideoView
from gpg_vl.run.run_log import read_metrics
from gpg_vl.tasks import TASKS
from gpg_vl.train import train
from tests.support.builders import FAMILIES
from tests.support.messages import naming
from tests.support.videos import Clip, make_video_sample

LoadModel = Callable[..., QwenVideoAdapter]

OWN = '''
from gpg_vl.tasks.counting import Counting

class Timed(Counting):
    """Asks about the time of the last frame, and scores what was written, so that there is something to learn."""

    def ask(self, sample, views):
        return f"{sample.question} {views[0].times.seconds[-1]:.1f} of {sample.meta['seconds'][0]}"

def length(completions, videos, **kwargs):
    assert all(path.endswith(".mp4") for [path] in videos)
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    command = ["--task", "counting-video", "--num", "6", "--seed", "0", "--size", "56", "--out", "rows.jsonl"]
    assert generate(command) == 0
    return tmp_path


def run(folder: Path, **sections: Mapping[str, Any]) -> Path:
    recipe: dict[str, Any] = {
        "task": "own.py:Timed",
        "model": {"path": str(folder), "dtype": "float32", "min_pixels": 784},
        "data": {"train": ["rows.jsonl"], "eval": ["rows.jsonl"], "fps": 2, "max_frames": 4},
        "rewards": {"functions": ["own.py:length"]},
        "rollout": {"prompts_per_step": 2, "group_size": 3, "max_new_tokens": 4},
        "update": {"learning_rate": 1e-3},
        "run": {"steps": 2, "output_dir": "run", "save_every": 1, "eval_every": 2, "trackers": []},
    }
    for section, keys in sections.items():
        recipe[section] = recipe.get(section, {}) | dict(keys)
    Path("recipe.json").write_text(json.dumps(recipe))
    return train(load_recipe("recipe.json"))


@pytest.mark.parametrize(("family", "freeze"), [("qwen2_vl", []), ("qwen2_5_vl", ["vision", "projector"])], ids=str)
def test_rows_with_videos_train(
    folder: Path, model_folders: Mapping[str, Path], family: str, freeze: list[str]
) -> None:
    """With a frozen tower, the update takes the features of the rollout."""
    checkpoint = run(model_folders[family], model={"freeze": freeze})
    steps = [row for row in read_metrics(Path("run")) if "update" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(math.isfinite(row["update"]["loss"]) and row["update"]["grad_norm"] > 0 for row in steps)
    prompts = [json.loads(line)["prompt"] for line in next(Path("run/rollouts").glob("*.jsonl")).open()]
    assert all("3.5 of" in prompt for prompt in prompts), "tasks see the times of frames"
    assert json.loads((checkpoint / "processor_config.json").read_text())["video_processor"]["size"]


def test_a_rollout_with_videos_is_resumed(folder: Path, model_folders: Mapping[str, Path]) -> None:
    """A checkpoint between the two updates of a rollout keeps the views of its videos."""
    keys: dict[str, Any] = {"update": {"learning_rate": 1e-3, "epochs_per_rollout": 2}, "objective": {"name": "grpo"}}
    run(model_folders["qwen2_vl"], run={"steps": 1, "eval_every": 0}, **keys)
    checkpoint = run(model_folders["qwen2_vl"], run={"eval_every": 0}, **keys)
    whole = run(model_folders["qwen2_vl"], run={"eval_every": 0, "output_dir": "whole"}, **keys)
    assert (checkpoint / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_rows_that_name_another_video_are_other_rows(folder: Path, model_folders: Mapping[str, Path]) -> None:
    run(model_folders["qwen2_vl"], run={"steps": 1, "eval_every": 0})
    Path("rows_images/1-v0.mp4").write_bytes(Path("rows_images/2-v0.mp4").read_bytes())
    with pytest.raises(ValueError, match=naming("data.train", "images", "run.output_dir")):
        run(model_folders["qwen2_vl"], run={"eval_every": 0})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_video_is_scaled_down_to_fit(load: LoadModel, family: str) -> None:
    adapter = load(family)
    sample = make_video_sample([(200, 110)], [Clip(280, 168, 8)])
    config = PromptConfig(template="{question}")
    whole = PromptBuilder(adapter, TASKS, config).build(sample)
    small = PromptBuilder(adapter, TASKS, config, shrink_to=90).build(sample)
    assert len(whole.encoded.token_ids) > 200 > 90 >= len(small.encoded.token_ids) > 50
    assert small.views[1].model_width < whole.views[1].model_width
    assert isinstance(small.views[1], VideoView) and len(small.views[1].times.numbers) == 8, "no frame is left out"


def test_frames_share_the_pixels_of_a_video(load: LoadModel) -> None:
    adapter = load("qwen2_vl", max_pixels=50176, max_video_pixels=8 * 12_544)
    times = FrameTimes(tuple(range(8)), 8, 2.0)
    view = adapter.view_video(1000, 1000, times)
    assert view.model_width * view.model_height == 12_544
    assert adapter.count_image_tokens([view]) == [4 * 12_544 // 784]
    few = adapter.view_video(1000, 1000, FrameTimes((0, 7), 8, 2.0))
    assert few.model_width * few.model_height == 50176, "a frame is no larger than an image"


def test_a_row_of_a_family_without_videos_is_refused(tmp_path: Path) -> None:
    from gpg_vl.config import ModelConfig
    from gpg_vl.models.tiny import write_tiny_model

    adapter = load_adapter(ModelConfig(path=str(write_tiny_model(tmp_path, "glm4v"))), with_weights=False)
    with pytest.raises(ValueError, match=naming("sample video-0", "glm4v", "docs/models.md")) as caught:
        PromptBuilder(adapter, TASKS, PromptConfig()).build(make_video_sample([], [Clip(56, 56, 4)]))
    assert "\n" not in str(caught.value)


def test_sampling_decides_how_many_frames_are_read(load: LoadModel) -> None:
    adapter, sample = load("qwen2_vl"), make_video_sample([], [Clip(56, 56, 12, 4)])
    counts = {}
    for sampling in (FrameSampling(2, 32), FrameSampling(4, 32), FrameSampling(4, 5)):
        builder = PromptBuilder(adapter, TASKS, PromptConfig(), sampling=sampling)
        prompt = builder.build(sample)
        assert builder.measure(sample).num_tokens == len(prompt.encoded.token_ids)
        vision = prompt.encoded.vision
        assert vision is not None
        counts[sampling] = vision.tensors["video_grid_thw"].tolist()
    assert list(counts.values()) == [[[3, 4, 4]], [[6, 4, 4]], [[3, 4, 4]]]


def test_the_order_in_the_prompt_decides(load: LoadModel) -> None:
    """A video before an image: features are in the order of their tokens, as the model's own forward puts them."""
    adapter = load("qwen2_5_vl")
    sample = make_video_sample([(56, 56)], [Clip(84, 56, 4)])
    builder = PromptBuilder(adapter, TASKS, PromptConfig(template="<video> {question} <image>"))
    prompt = builder.build(sample).encoded
    assert prompt.vision is not None and prompt.vision.order == ((True, 12), (False, 4))
    inputs = {
        "input_ids": torch.tensor([prompt.token_ids]),
        "token_types": torch.tensor([prompt.token_types]),
        "position_ids": prompt.position_ids[:, None],
    }
    with torch.no_grad():
        plain = adapter.run_plain(prompt, ())
        of_pixels = adapter.run_body(**inputs, vision=prompt.vision)
        of_features = adapter.run_body(**inputs, features=adapter.encode_images(prompt.vision))
    assert torch.allclose(of_pixels[0], plain, atol=1e-5)
    assert torch.allclose(of_features[0], plain, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_runs_once_for_images_and_videos(load: LoadModel, family: str) -> None:
    """Where its weights are sharded, ranks with an image alone run it once, too."""
    adapter = load(family)
    sample = make_video_sample([(56, 56), (84, 28)], [Clip(84, 56, 5), Clip(28, 56, 4)])
    vision = PromptBuilder(adapter, TASKS, PromptConfig()).build(sample).encoded.vision
    assert vision is not None
    calls: list[Any] = []
    handle = adapter.model.model.visual.register_forward_hook(lambda *words: calls.append(words))
    found = adapter.encode_images(vision)
    handle.remove()
    assert len(calls) == 1
    model, tensors = adapter.model.model, vision.tensors
    images = model.get_image_features(tensors["pixel_values"], tensors["image_grid_thw"]).pooler_output
    videos = model.get_video_features(tensors["pixel_values_videos"], tensors["video_grid_thw"]).pooler_output
    assert torch.allclose(found.levels[0], torch.cat([*images, *videos]), atol=1e-5)
