"""The paper's experiments: every recipe under every variant is read, and every variant of every task trains a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_tools import clevr, geoqa, lisa, sat, virft_cls, virft_det
from data_tools.published_files import write_image_rows
from data_tools.published_sources import write_source
from gpg_vl.config import Recipe
from gpg_vl.objectives import resolve_config
from gpg_vl.recipes import load_recipe
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "scripts/recipes"
VARIANTS = ("gpg", "gpg-official", "grpo", "sft")
# rows, epochs, prompts per step, longest completion: what is published of each experiment
PUBLISHED = {
    "geoqa": (8031, 1, 16, 256),
    "sat": (12000, 2, 8, 700),
    "lisa": (1327, 6, 16, 256),
    "flowers": (408, 8, 16, 256),
    "pets": (148, 24, 16, 256),
    "aircraft": (400, 8, 16, 256),
    "cars": (784, 8, 16, 256),
    "detection": (6000, 2, 16, 256),
}
FEW_SHOT = ("pets", "aircraft", "cars")  # their recipes are that of flowers but for rows and steps
OBJECTIVES: dict[str, dict[str, Any]] = {
    "gpg": {"name": "gpg", "f_norm": "one", "alpha": True, "alpha_eps": 0.0, "reduction": "group", "beta_th": 0.6},
    "gpg-official": {"name": "gpg", "f_norm": "one", "alpha_eps": 1e-5, "reduction": "sequence", "beta_th": 0.4},
    "grpo": {"name": "grpo", "f_norm": "std", "f_norm_eps": 1e-4, "alpha": False, "reduction": "sequence",
             "kl_coefficient": 0.04, "beta_th": 0.0},
    "sft": {"name": "supervised", "reduction": "token", "beta_th": 0.0},
}  # fmt: skip


def read(experiment: str, variant: str, overrides: Sequence[str] = ()) -> Recipe:
    files = [RECIPES / f"{experiment}.yaml"]
    if variant != "gpg":
        files.append(RECIPES / f"variants/{variant}.yaml")
    return load_recipe([str(file) for file in files], overrides)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("experiment", [*PUBLISHED, "clevr"])
def test_recipe_holds_the_published_values(experiment: str, variant: str) -> None:
    recipe = read(experiment, variant)
    resolved = resolve_config(recipe.objective)
    objective = {key: getattr(resolved, key) for key in OBJECTIVES[variant]}
    assert objective == OBJECTIVES[variant]
    assert recipe.rollout.group_size == (1 if variant == "sft" else 8)
    assert recipe.rollout.top_k == (50 if variant == "gpg-official" else 0)
    assert recipe.rewards.scorer == ("legacy" if variant == "gpg-official" else "strict")
    assert recipe.update.learning_rate == (2e-5 if variant == "sft" else 1e-6)
    assert (recipe.rollout.temperature, recipe.rollout.top_p, recipe.model.max_pixels) == (1, 1, 401408)
    if experiment in PUBLISHED:
        rows, epochs, prompts, tokens = PUBLISHED[experiment]
        assert (recipe.rollout.prompts_per_step, recipe.rollout.max_new_tokens) == (prompts, tokens)
        # whole steps an epoch, the last one cut short, as the published trainer counts them: 502 for GEOQA
        assert recipe.run.steps in (epochs * (rows // prompts), epochs * math.ceil(rows / prompts))
    else:
        assert (recipe.rollout.max_new_tokens, recipe.run.steps) == (512, 100)


def convert(main: Callable[[list[str]], int], out: Path, *words: object) -> Path:
    assert main(["--out", str(out), *map(str, words)]) == 0
    return out


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training rows of each kind of experiment, from the published format through its converter."""
    root = tmp_path_factory.mktemp("published")
    for name in ("geoqa", "clevr", "sat", "lisa", "fine_grained"):
        write_source(name, root / name)
    published, made = root, root / "rows"
    flowers = published / "fine_grained/ViRFT_CLS_flower_4_shot"
    train_folder = published / "lisa/ReasonSeg/train"
    boxes = "<answer>[{'Position': [100, 200, 300, 400], 'Confidence': 1}]</answer>"
    problem = "Detect all objects belonging to the category 'cat' in the image."
    pictures = [{"image": n, "problem": problem, "solution": boxes} for n in range(4)]
    detection = write_image_rows(published / "detection/train.parquet", pictures)
    return {
        "geoqa": convert(geoqa.main, made / "geoqa.parquet", "--source", published / "geoqa/GEOQA_R1V_Train_8K"),
        "clevr": convert(clevr.main, made / "clevr.parquet", "--source", published / "clevr/clevr_cogen_a_train"),
        "sat": convert(sat.main, made / "sat.parquet", "--source", published / "sat/SAT"),
        "lisa": convert(lisa.main, made / "lisa.parquet", "--source", train_folder, "--box", "published"),
        "detection": convert(virft_det.main, made / "detection.parquet", "--source", detection),
        "flowers": convert(virft_cls.main, made / "flowers.parquet", "--source", flowers, "--set", "flowers"),
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "experiment",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in FEW_SHOT)) for each in (*PUBLISHED, "clevr")],
)
def test_variant_trains_a_step(
    experiment: str, variant: str, rows: dict[str, Path], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    family = "qwen2_5_vl" if experiment == "geoqa" else "qwen2_vl"
    smoke_reward = f"{ROOT / 'scripts/reproduce/smoke_reward.py'}:spread"
    data = json.dumps([str(rows.get(experiment, rows["flowers"]))])  # the 4-shot sets have one format
    overrides = {
        "model.path": str(model_folders[family]), "model.dtype": "float32", "model.max_pixels": "50176",
        "data.train": data, "rewards.functions": json.dumps([smoke_reward]),
        "rollout.prompts_per_step": "2", "rollout.max_new_tokens": "8",
        "rollout.group_size": "1" if variant == "sft" else "3",
        "run.steps": "1", "run.trackers": "[]", "run.output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    words = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    train(read(experiment, variant, words))
    [row] = read_metrics(tmp_path / "run")
    assert row["update"]["grad_norm"] > 0
    assert math.isfinite(row["update"]["loss"])
    assert (row["update"]["kl"] is not None) == (variant == "grpo")
    if variant == "grpo":
        assert row["trained_groups"] == row["groups"] == 2
