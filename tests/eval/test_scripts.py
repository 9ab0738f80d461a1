"""eval/all.sh and eval/lmms.sh from a folder that is not the checkout, as a user types them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.benchmark_rows import LIMITS, write_rows
from tests.support.messages import lines_naming

EVAL = Path(__file__).parents[2] / "eval"


def run_script(
    name: str, folder: Path, *words: object, python: object = sys.executable
) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHON": str(python)}
    command = [str(EVAL / name), *map(str, words)]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=250, check=False)


def test_all_evaluates_what_is_there_and_prints_the_table(model_folders: dict[str, Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "data/superclevr/test.jsonl", 2, [{}], task="counting")
    shutil.copytree(model_folders["qwen2_vl"], tmp_path / "model")
    ended = run_script("all.sh", tmp_path, "model", "data", "out", *LIMITS)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^== geoqa: not run.*data/geoqa", ended.stdout, re.MULTILINE)
    assert "== superclevr\n" in ended.stdout
    table = (tmp_path / "out/table.md").read_text()
    assert "| Accuracy | gpg | none | 0.00 [0.0, 65.8] | none | 0.00 [0.0, 65.8] | 2 of 200 | out/superclevr |" in table
    assert "| Total | gpg | 76.15 | not run | not run | not run | not run | not run |" in table
    assert (tmp_path / "out/superclevr/results.json").is_file()


def test_all_needs_rows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ended = run_script("all.sh", tmp_path, "model", "data", "out")
    assert (ended.returncode, lines_naming(ended.stderr, "eval/all.sh", "data")) == (2, ended.stderr.splitlines())
    assert run_script("all.sh", tmp_path, "model").returncode == 2
    assert not (tmp_path / "out").exists()


def test_lmms_smoke_prints_and_checks(model_folders: dict[str, Path], tmp_path: Path) -> None:
    model = model_folders["qwen2_5_vl"]
    ended = run_script("lmms.sh", tmp_path, "--smoke", model, "mmmu_val,mme", "out", "--limit", "8")
    assert ended.returncode == 0, ended.stderr
    assert f"-m eval.lmms_model --model gpg_vl --model_args pretrained={model}" in ended.stdout
    assert "--tasks mmmu_val\\,mme --batch_size 1 --log_samples --output_path out --limit 8" in ended.stdout
    lora = tmp_path / "lora"  # as a run saves an adapter: with the processor, without the model's config
    lora.mkdir()
    for name in ("adapter_config.json", "processor_config.json"):
        (lora / name).write_text("{}")
    for words, named in (
        ([], ["usage", "eval/lmms.sh"]),
        ([tmp_path / "none", "mme", "out"], ["eval/lmms.sh", tmp_path / "none"]),
        ([lora, "mme", "out"], ["eval/lmms.sh", lora, "config.json", "gpg-vl merge"]),
    ):
        ended = run_script("lmms.sh", tmp_path, "--smoke", *words)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
        assert lines_naming(ended.stderr, *named)
    (tmp_path / "other").mkdir()
    for name, content in (("config.json", '{"model_type": "llama"}'), ("processor_config.json", "{}")):
        (tmp_path / "other" / name).write_text(content)
    ended = run_script("lmms.sh", tmp_path, "--smoke", "other", "mme", "out")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert lines_naming(ended.stderr, "eval/lmms.sh", "other", "vision_config")
    ended = run_script("lmms.sh", tmp_path, model, "mme", "out", python=tmp_path / "none")
    assert ended.returncode == 2 and lines_naming(ended.stderr, "eval/lmms.sh", tmp_path / "none", "make setup-lmms")
