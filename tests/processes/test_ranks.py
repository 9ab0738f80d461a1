"""Whole runs on two CPU ranks with real DeepSpeed: layouts that agree, ranks with nothing to do, faults of one rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_tools.generate import draw_samples
from gpg_vl.data.sources import write_parquet
from gpg_vl.records import Sample
from gpg_vl.run.run_log import read_metrics
from tests.support.messages import lines_naming

REPOSITORY = Path(__file__).parents[2]
SECONDS = 200  # of a run that ought to take 20, on a busy machine

NOISE = """
def noise(completions, **kwargs):
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]

def silence(completions, **kwargs):
    return [0.5 for _ in completions]
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, model_folders: dict[str, Path]) -> Run:
    """``run("zero3", ["--run.steps", 2], fault="nan once", name="folder")``: a run of a few small steps."""
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "rewards.py").write_text(NOISE)
    rows = draw_samples("counting", 12, seed=0)
    texts = [Sample(f"text-{n}", "counting", (), f"What is {n} and {n}?", str(2 * n)) for n in range(12)]
    write_parquet([*rows, *texts], folder / "rows.parquet")
    recipe = {
        "model": {"path": str(model_folders["qwen2_vl"]), "dtype": "float32", "min_pixels": 784, "max_pixels": 50176},
        "data": {"train": ["rows.parquet"]},
        "prompt": {"template": "{question}"},
        "rewards": {"functions": ["rewards.py:noise"], "on_error": "abort"},
        "rollout": {"prompts_per_step": 3, "group_size": 3, "max_new_tokens": 6},
        "objective": {"beta_th": 0.0},
        "update": {"learning_rate": 1e-3, "tokens_per_micro_batch": 512},
        "run": {"steps": 3, "eval_every": 0, "save_every": 100, "trackers": []},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))

    def start(
        deepspeed: str,
        words: list[object] | None = None,
        num: int = 2,
        fault: str = "none",
        name: str = "run",
        faulty_rank: int = 1,
    ) -> subprocess.CompletedProcess[str]:
        words = ["recipe.yaml", "--run.output_dir", name, *(words or [])]
        environment = {
            **os.environ,
            "SHARDING" if deepspeed in ("fsdp", "hsdp", "fsdp_offload") else "DEEPSPEED": deepspeed,
            "NUM_PROCESSES": str(num),
            "PYTHON": sys.executable,
            "FAULT": fault,
            "FAULTY_RANK": str(faulty_rank),
            "OMP_NUM_THREADS": "1",
        }
        launcher = REPOSITORY / "scripts/train.sh"
        command = ["bash", str(launcher), *map(str, words)]
        if fault != "none":  # the launcher's own command, with the module replaced
            text = launcher.read_text().replace(
                "-m gpg_vl train", f'"{REPOSITORY}/tests/support/faulty_rank.py" "$FAULT" train'
            )
            text = text.replace('$(dirname "${BASH_SOURCE[0]}")/..', str(REPOSITORY))
            command = ["bash", "-c", text, "train.sh", *map(str, words)]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )

    return start


def weights(tmp_path: Path, name: str = "run", step: int = 3) -> dict[str, torch.Tensor]:
    return load_file(tmp_path / "with space" / name / f"checkpoint-{step}/model.safetensors")


def seconds_since_fault(done: subprocess.CompletedProcess[str]) -> float:
    """To be asked as soon as the run has ended."""
    [struck] = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("struck at")]
    return time.time() - struck


def ids(tmp_path: Path, name: str) -> list[list[tuple[str, list[str]]]]:
    """What each step sampled, in no order: the log goes rank by rank."""
    files = sorted((tmp_path / "with space" / name / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [sorted((row["id"], [c["text"] for c in row["completions"]]) for row in step) for step in rows]


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(SECONDS)
def test_two_ranks_under_zero_3(run: Run, tmp_path: Path) -> None:
    """Three prompts on two ranks, half of them without an image; from another folder, with a space in its path."""
    done = run("zero3")
    assert done.returncode == 0, done.stderr
    assert "+ DEEPSPEED=zero3" in done.stderr
    assert lines_naming(done.stderr, "2 ranks", "ZeRO-3", "ShardedGradients")
    size = 4 * sum(weight.numel() for weight in weights(tmp_path).values()) / 2**30
    assert lines_naming(done.stderr, "ZeRO-3", f"{size:.2f} GiB", "rank")
    assert done.stderr.count("step 3/3") == 1, "one rank prints"
    assert done.stdout.count("done: run/checkpoint-3") == 1
    rows = read_metrics(tmp_path / "with space/run")
    assert [row["groups"] for row in rows] == [3, 3, 3]
    assert [len(step) for step in ids(tmp_path, "run")] == [3, 3, 3]


@pytest.mark.faults
@pytest.mark.timeout(3 * SECONDS)
def test_validation_of_shared_weights_is_that_of_one_process(run: Run, tmp_path: Path) -> None:
    """Of the weights as they are after each step, which no rank has whole: the rewards follow the sampled texts."""
    words: list[object] = ["--data.eval", '["rows.parquet"]', "--run.steps", 2, "--run.eval_every", 1]
    found = []
    for name, deepspeed, num in (("one", "zero0", 1), ("two", "zero3", 2), ("three", "fsdp", 2)):
        done = run(deepspeed, words, num=num, name=name)
        assert done.returncode == 0, done.stderr
        rows = read_metrics(tmp_path / "with space" / name)
        found.append([row["eval"]["counting"]["reward"] for row in rows if "eval" in row])
    assert len(found[0]) >= 2 and len(set(found[0])) > 1
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])


@pytest.mark.faults
@pytest.mark.timeout(8 * SECONDS)
def test_layouts_make_the_same_update(run: Run, tmp_path: Path) -> None:
    """One step of plain descent at rate 1: same samples, loss and norm, and weights to 1e-6, in every layout."""
    words: list[object] = ["--run.steps", 1, "--update.learning_rate", 1.0, "--rollout.prompts_per_step", 5]
    words += ["--update.learning_rates", '{"vision": 0.3}']
    assert run("zero0", words, num=1, name="one", fault="plain descent").returncode == 0
    cases = {"zero0": 512, "fsdp": 64, "hsdp": 512, "fsdp_offload": 64}
    cases |= {"zero1": 64, "zero2": 512, "zero3": 64, "zero3_offload": 512}
    one, [metrics] = weights(tmp_path, "one", 1), read_metrics(tmp_path / "with space/one")
    for deepspeed, budget in cases.items():
        done = run(
            deepspeed, [*words, "--update.tokens_per_micro_batch", budget], name=deepspeed, fault="plain descent"
        )
        assert done.returncode == 0, done.stderr
        title = {"fsdp": "FSDP2", "hsdp": "HSDP", "fsdp_offload": "FSDP2 with CPU offload"}.get(
            deepspeed, f"ZeRO-{deepspeed[4:5]}"
        )
        assert lines_naming(done.stderr, "2 ranks", title)
        assert ids(tmp_path, deepspeed) == ids(tmp_path, "one")
        [other] = read_metrics(tmp_path / "with space" / deepspeed)
        for key in ("loss", "grad_norm"):
            assert other["update"][key] == pytest.approx(metrics["update"][key], rel=1e-5, abs=1e-6), deepspeed
        difference = max(float((w - one[n]).abs().max()) for n, w in weights(tmp_path, deepspeed, 1).items())
        assert difference < 1e-6, deepspeed


@pytest.mark.faults
@pytest.mark.timeout(5 * SECONDS)
def test_bfloat16_steps_of_two_ranks_are_those_of_one(run: Run, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Gold completions, so that nothing is sampled; one step of plain descent. Rows lie in other batches: rounding.

    Without DeepSpeed the weights are bfloat16, also where FSDP2 gathers them; with it they are float32, which each call
    casts.
    """
    words: list[object] = ["--model.dtype", "bfloat16", "--objective.name", "supervised", "--rollout.group_size", 1]
    words += ["--run.steps", 1, "--update.learning_rate", 1.0, "--rollout.prompts_per_step", 6]
    start = load_file(model_folders["qwen2_vl"] / "model.safetensors")
    moves = {}
    layouts = [("zero0", 1), ("zero0", 2), ("fsdp", 2), ("zero1", 1), ("zero1", 2), ("zero2", 2), ("zero3", 2)]
    for deepspeed, num in layouts:
        name = f"{deepspeed}-{num}"
        done = run(deepspeed, words, num=num, name=name, fault="plain descent")
        assert done.returncode == 0, done.stderr
        after = weights(tmp_path, name, 1)
        moves[name] = torch.cat([(after[each] - start[each]).flatten() for each in after])
    alike = [("zero0-1", "zero0-2"), ("zero0-1", "fsdp-2")]
    for one, other in (*alike, *(("zero1-1", f"zero{stage}-2") for stage in (1, 2, 3))):
        error = float((moves[other] - moves[one]).norm() / moves[one].norm())
        print(other, error)
        assert error < 0.02, other


@pytest.mark.faults
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("deepspeed", ["zero0", "fsdp", "zero3"])
@pytest.mark.parametrize("lora", ["null", '{"r": 4}'], ids=["full", "lora"])
def test_grpo_with_kl_is_that_of_one_process(run: Run, tmp_path: Path, deepspeed: str, lora: str) -> None:
    """The reference is a copy, or the policy without its adapter; the second step has a KL."""
    words: list[object] = ["--objective.name", "grpo", "--objective.kl_coefficient", 0.5, "--model.lora", lora]
    words += ["--objective.f_norm", "std", "--objective.alpha", "false", "--objective.reduction", "sequence"]
    words += ["--run.steps", 2, "--update.learning_rate", 0.1, "--update.schedule", "constant"]
    rows = {}
    for name, num in (("one", 1), ("two", 2)):
        done = run(deepspeed if num == 2 else "zero0", words, num=num, name=name, fault="plain descent")
        assert done.returncode == 0, done.stderr
        rows[name] = read_metrics(tmp_path / "with space" / name)
    assert ids(tmp_path, "one") == ids(tmp_path, "two")
    assert rows["one"][1]["update"]["kl"] > 1e-6
    for one, two in zip(rows["one"], rows["two"], strict=True):
        for key in ("loss", "grad_norm", "kl"):
            assert two["update"][key] == pytest.approx(one["update"][key], rel=1e-3, abs=1e-7), key


@pytest.mark.faults
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("deepspeed", ["zero0", "fsdp", "zero2", "zero3"])
def test_one_prompt_for_two_ranks_and_silence(run: Run, tmp_path: Path, deepspeed: str) -> None:
    """A rank without any group; then 50 steps of which none has signal."""
    done = run(deepspeed, ["--rollout.prompts_per_step", 1, "--run.steps", 2])
    assert done.returncode == 0, done.stderr
    words = ["--run.steps", 50, "--rewards.functions", '["rewards.py:silence"]', "--rollout.max_new_tokens", 2]
    words += ["--rewards.weights", '{"format": 0.0, "correct": 0.0}', "--rollout.prompts_per_step", 2]
    done = run(deepspeed, words, name="silent")
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "with space/silent")[-1]["silent_steps"] == 50


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("deepspeed", ["zero0", "fsdp", "zero1", "zero2", "zero3"])
def test_nan_on_one_rank_is_skipped_by_all(run: Run, tmp_path: Path, deepspeed: str) -> None:
    """The second of two steps is skipped: the weights are those after the first."""
    assert run(deepspeed, ["--run.steps", 1, "--update.schedule", "constant"], name="short").returncode == 0
    done = run(deepspeed, ["--run.steps", 2, "--update.schedule", "constant"], fault="nan once")
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "with space/run")
    assert [row["skipped_steps"] for row in rows] == [0, 1]
    short, skipped = weights(tmp_path, "short", 1), weights(tmp_path, "run", 2)
    assert all(torch.equal(short[name], skipped[name]) for name in short)
    names = {path.name for path in (tmp_path / "with space/run/skipped").iterdir()}
    assert names == {"000002-rank-0.jsonl", "000002-rank-1.jsonl"}


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
def test_nan_for_ever_stops_the_run(run: Run, tmp_path: Path) -> None:
    done = run("zero2", ["--run.steps", 9], fault="nan for ever")
    assert done.returncode != 0
    assert lines_naming(done.stderr, "gpg-vl train", "3 steps", "gradient")
    assert len(read_metrics(tmp_path / "with space/run")) == 4


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("deepspeed", ["zero0", "zero1"])
def test_out_of_memory_halves_the_budget_on_all_ranks(run: Run, tmp_path: Path, deepspeed: str) -> None:
    """The second pass of rank 1 runs out of memory; the weights become those of a run in which it does not."""
    words: list[object] = ["--run.steps", 1, "--rollout.prompts_per_step", 12, "--update.learning_rate", 1e-5]
    words += ["--update.tokens_per_micro_batch", 128]
    assert run(deepspeed, words, name="whole").returncode == 0
    done = run(deepspeed, words, fault="out of memory in update")
    assert done.returncode == 0, done.stderr
    assert lines_naming(done.stderr, "memory", "update.tokens_per_micro_batch", 64)
    whole, restarted = weights(tmp_path, "whole", 1), weights(tmp_path, "run", 1)
    assert max(float((whole[name] - restarted[name]).abs().max()) for name in whole) < 1e-6


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("deepspeed", ["fsdp", "zero2", "zero3"])
def test_out_of_memory_under_sharding_ends_all_ranks(run: Run, deepspeed: str) -> None:
    done = run(deepspeed, fault="out of memory in update")
    assert seconds_since_fault(done) < 30
    assert done.returncode == 2
    assert lines_naming(done.stderr, "memory", "update.tokens_per_micro_batch", 512)


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("deepspeed", ["zero0", "zero3"])
@pytest.mark.parametrize("phase", ["rollout", "scoring", "update", "save"])
def test_a_rank_that_dies_takes_the_others_along(run: Run, deepspeed: str, phase: str) -> None:
    rank = 0 if phase == "save" else 1
    done = run(deepspeed, fault=f"kill in {phase}", faulty_rank=rank)
    assert seconds_since_fault(done) < 30
    assert lines_naming(done.stderr, f"rank {rank}", "SIGKILL")
    assert done.returncode == 128 + 9


@pytest.mark.faults
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("deepspeed", "fault"),
    [
        ("zero0", "SIGTERM to all in rollout"),
        ("zero0", "SIGINT in scoring"),
        ("zero0", "SIGTERM in update"),
        ("zero3", "SIGTERM in rollout"),
        pytest.param("zero3", "SIGTERM to all in rollout", marks=pytest.mark.faults_ci),
        ("zero3", "SIGINT in update"),
    ],
)
def test_a_signal_to_one_rank_or_all_stops_all_after_the_same_step(
    run: Run, tmp_path: Path, deepspeed: str, fault: str
) -> None:
    """The step before is saved; ZeRO-3, whose passes need all ranks, ends the step in which a pass was under way."""
    done = run(deepspeed, ["--run.steps", 9], fault=fault)
    assert done.returncode == (130 if "SIGINT" in fault else 143), done.stderr
    last = 2 if (deepspeed, fault) == ("zero3", "SIGINT in update") else 1
    assert [row["step"] for row in read_metrics(tmp_path / "with space/run")] == list(range(1, last + 1))
    assert lines_naming(done.stderr, f"run/checkpoint-{last}")
    assert weights(tmp_path, step=last)
    if deepspeed == "zero0":
        done = run(deepspeed, ["--run.steps", last + 1])
        assert lines_naming(done.stderr, "run", f"step {last}", "resuming")
        assert done.returncode == 0, done.stderr


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
def test_a_signal_while_the_first_rank_saves_waits_for_the_end_of_the_save(run: Run, tmp_path: Path) -> None:
    done = run("zero3", ["--run.steps", 9, "--run.save_every", 2], fault="SIGTERM in save", faulty_rank=0)
    assert done.returncode == 143, done.stderr
    assert weights(tmp_path, step=2)


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("fault", "rank", "exit_code", "named"),
    [
        ("error in rollout", 1, 2, ["ZeroDivisionError"]),
        ("error in scoring", 1, 2, ["ZeroDivisionError"]),
        ("full disk in save", 0, 1, ["run/checkpoint-2", "no space left"]),
    ],
)
def test_an_error_on_one_rank_is_that_of_all(
    run: Run, tmp_path: Path, fault: str, rank: int, exit_code: int, named: list[str]
) -> None:
    done = run("zero3", ["--run.save_every", 2], fault=fault, faulty_rank=rank)
    assert len(lines_naming(done.stderr, "gpg-vl train", f"rank {rank}", *named)) == 1, "one rank says it"
    assert done.returncode == exit_code
    saved = [path.name for path in (tmp_path / "with space/run").glob("checkpoint-*")]
    assert saved == ([] if "disk" in fault else ["checkpoint-1"])


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
def test_a_log_that_one_rank_cannot_write_ends_nothing(run: Run, tmp_path: Path) -> None:
    done = run("zero3", ["--run.steps", 3], fault="full disk in log", faulty_rank=0)
    assert done.returncode == 0, done.stderr
    assert len(lines_naming(done.stderr, "rollouts", "no space left")) == 1
    assert [path.name for path in sorted((tmp_path / "with space/run/rollouts").iterdir())] == [
        "000001.jsonl",
        "000003.jsonl",
    ]
