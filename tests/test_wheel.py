"""The wheel, made as ``python -m build`` makes it, installed in an empty environment and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

Run = Callable[..., str]


def build(kind: str, project: Path, out: Path) -> Path:
    ran = subprocess.run([sys.executable, "-c", BUILD, kind, str(out)], cwd=project, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return out / ran.stdout.splitlines()[-1]


def copy_of_the_checkout(folder: Path) -> Path:
    """What a wheel is made from: building leaves files behind."""
    for name in ("gpg_vl", "data_tools", "eval", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has this wheel, and the libraries of this interpreter but no gpg_vl of theirs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = build("build_sdist", copy_of_the_checkout(folder / "checkout"), folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    [project] = (folder / "source").iterdir()
    wheel = build("build_wheel", project, folder)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([*map(str, install), "--disable-pip-version-check"], check=True, stdin=subprocess.DEVNULL)
    [site] = (folder / "env/lib").glob("*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # an editable gpg_vl is not found by it
    return folder / "env/bin"


@pytest.fixture
def run(bin_folder: Path, tmp_path: Path) -> Run:
    """Runs a command of the environment in an empty folder; what it prints."""

    def run_command(*words: str, **environment: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        ran = subprocess.run(words, cwd=tmp_path, env={**kept, **path, **environment}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run_command


def test_the_installed_kit_has_its_files(run: Run, bin_folder: Path, tmp_path: Path) -> None:
    places = run(
        "python", "-c", "import gpg_vl, data_tools, eval; print(gpg_vl.__file__, data_tools.__file__, eval.__file__)"
    )
    assert all(Path(place).is_relative_to(bin_folder.parent) for place in places.split())
    names = [line.split()[0] for line in run("gpg-vl", "recipes").splitlines()]
    assert {"geoqa", "quickstart", "variants/grpo", "launcher"} <= set(names)
    for name in names:
        run("gpg-vl", "recipes", name)
    for kind, path in (("recipes", "."), ("deepspeed", "scripts/deepspeed")):
        there = sorted(each.relative_to(ROOT / "scripts" / kind) for each in (ROOT / "scripts" / kind).rglob("*.*"))
        assert there and all((tmp_path / path / each).is_file() for each in there)
    assert "path: Qwen/Qwen2.5-VL-3B-Instruct" in run(
        "gpg-vl", "train", "geoqa.yaml", "variants/grpo.yaml", "--print_config"
    )


@pytest.mark.slow
def test_the_installed_kit_trains_and_shows_the_run(run: Run, tmp_path: Path) -> None:
    run("gpg-vl", "recipes", "quickstart")
    run("gpg-vl", "recipes", "launcher")
    for task in ("counting", "geometry", "grounding"):
        for seed, split in enumerate(("train", "validation")):
            words = ["--task", task, "--num", "8", "--seed", str(seed)]
            run("python", "-m", "data_tools.generate", *words, "--out", f"runs/quickstart/data/{task}-{split}.parquet")
    run("gpg-vl", "tiny-model", "runs/quickstart/warm-start")
    small = [
        "--run.steps",
        "1",
        "--run.eval_every",
        "0",
        "--rollout.prompts_per_step",
        "2",
        "--rollout.group_size",
        "2",
    ]
    printed = run("scripts/train.sh", "quickstart.yaml", *small, NUM_PROCESSES="2", DEEPSPEED="zero2")
    assert "done: runs/quickstart/gpg/checkpoint-1" in printed
    run("gpg-vl", "report", "runs/quickstart/gpg")
    assert (tmp_path / "runs/quickstart/gpg/report.html").stat().st_size > 10_000
