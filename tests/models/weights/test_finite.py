"""A NaN or an infinity in the weights or the logits ends what the model is loaded for, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpg_vl import cli
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.weights.finite import NotFinite, refuse_not_finite
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.sampled_rows import SampledRows
from gpg_vl.rollout.token_choice import TokenChooser
from tests.support.builders import make_prompt, make_sample, png
from tests.support.messages import lines_naming, naming

NAME = "model.language_model.layers.0.mlp.up_proj.weight"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_number_anywhere_is_found(value: float, dtype: torch.dtype, place: int) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 5)).to(dtype)
    refuse_not_finite(model, "the weights", "mend them")
    model.register_buffer("empty", torch.empty(0))
    model.register_buffer("counts", torch.tensor([2**40]))
    refuse_not_finite(model, "the weights", "mend them")
    with torch.no_grad():
        model[2].weight.view(-1)[place] = value  # type: ignore[operator, union-attr]
        model[1].running_var[1] = value  # type: ignore[index, union-attr]
    with pytest.raises(NotFinite, match=naming("the weights", "2 of 11", "1.running_var", "mend them")):
        refuse_not_finite(model, "the weights", "mend them")


def test_a_bound_may_be_infinite_and_is_a_number() -> None:
    """That of a clipped linear layer, in a buffer of its own; no parameter, and no buffer of several numbers."""
    model = nn.Linear(4, 3)
    model.register_buffer("input_max", torch.tensor(INF))
    refuse_not_finite(model, "the weights", "mend them")
    model.register_buffer("scales", torch.tensor([1.0, INF]))
    with pytest.raises(NotFinite, match=naming("1 of 4", "scales")):
        refuse_not_finite(model, "the weights", "mend them")
    model.scales, model.input_max = torch.ones(2), torch.tensor(NAN)
    with pytest.raises(NotFinite, match=naming("1 of 4", "input_max")):
        refuse_not_finite(model, "the weights", "mend them")
    model.input_max, model.temperature = torch.tensor(INF), nn.Parameter(torch.tensor(-INF))
    with pytest.raises(NotFinite, match=naming("1 of 5", "temperature")):
        refuse_not_finite(model, "the weights", "mend them")


@pytest.fixture
def bad_folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "bad")
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if "layers.0.mlp.up_proj" in name)][3, 5] = NAN
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("command", ["train", "eval", "ask", "doctor"])
def test_every_command_that_runs_a_model_refuses_it(
    bad_folder: Path, tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.png").write_bytes(png(84, 84))
    row = {"id": "r", "task": "counting", "images": ["1.png"], "question": "How many?", "answer": "4"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "recipe.yaml").write_text(
        f"{{model: {{path: {bad_folder}, dtype: float32}}, data: {{train: {tmp_path}/rows.jsonl}},"
        f" run: {{output_dir: {tmp_path}/run}}}}"
    )
    words = {
        "train": [tmp_path / "recipe.yaml"],
        "eval": [bad_folder, "--data", tmp_path / "rows.jsonl"],
        "ask": [bad_folder, "--question", "How many?"],
        "doctor": ["--checkpoint", bad_folder],
    }[command]
    assert cli.main([command, *map(str, words)]) == 2
    said = capfd.readouterr()
    assert lines_naming(said.err, f"gpg-vl {command}", "model.path", bad_folder, NAME)
    assert "Traceback" not in said.err and "done" not in said.out


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("sampling", [Sampling(4, 0.0), Sampling(4, 1.0), Sampling(4, 0.7, 0.9, 20)], ids=str)
def test_logits_of_a_live_row(value: float, sampling: Sampling) -> None:
    scores = torch.randn(3, 50)
    assert sample(sampling, scores) == [0, 1, 2]
    scores[1, 7] = value
    with pytest.raises(NotFinite, match="logits"):
        sample(sampling, scores)
    scores[1] = -INF
    with pytest.raises(NotFinite, match="logits"):
        sample(sampling, scores)


def sample(sampling: Sampling, scores: torch.Tensor) -> list[int]:
    """The rows that go on after one token."""
    choose = TokenChooser(sampling, [(n,) for n in range(len(scores))], scores.device)
    rows = SampledRows(len(scores), ())
    warped = choose.warp(scores)
    tokens = choose(warped, 0)
    rows.add(tokens, warped.amax(dim=-1), None)
    return rows.look()


def test_logits_behind_the_end_of_a_row_do_not_count() -> None:
    """Between two looks a row that has ended goes on; what it would read there is nobody's."""
    rows = SampledRows(2, [2])
    rows.add(torch.tensor([2, 5]), torch.tensor([1.0, 1.0]), None)
    rows.add(torch.tensor([6, 7]), torch.tensor([NAN, 1.0]), None)
    assert rows.look() == [1]
    assert [tokens for tokens, _ in rows.finish()] == [(2,), (5, 7)]
    rows.keep([1])
    rows.add(torch.tensor([8]), torch.tensor([NAN]), None)
    with pytest.raises(NotFinite, match="logits"):
        rows.look()


def test_banned_tokens_are_infinite_and_no_obstacle() -> None:
    scores = torch.randn(2, 50)
    scores[:, 10:40] = -INF
    choose = TokenChooser(Sampling(4, 1.0, 0.9, 45), [(0,), (1,)], scores.device)
    assert all(token < 10 or token >= 40 for token in choose(choose.warp(scores), 0).tolist())


def test_activations_that_overflow_end_the_rollout(load: Callable[..., QwenVLAdapter]) -> None:
    adapter = load()
    with torch.no_grad():
        adapter.model.model.language_model.norm.weight.mul_(1e30)
        adapter.head_weight.mul_(1e15)
    prompt = make_prompt(adapter, make_sample())
    with pytest.raises(NotFinite, match=naming("logits", "model.dtype")):
        HfEngine(adapter, 4096).generate([prompt], 2, Sampling(4, 1.0), [("s",)])
