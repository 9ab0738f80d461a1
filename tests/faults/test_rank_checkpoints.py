"""Checkpoints of several CPU ranks with real FSDP2 and DeepSpeed: bit for bit on as many ranks, good for others."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpg_vl.cli import main
from gpg_vl.models.folder.manifest import MANIFEST_FILE, find_damage
from gpg_vl.recipes import load_recipe
from gpg_vl.run.moments import open_moments
from gpg_vl.run.output_dir import find_resume_point
from gpg_vl.run.sealing import seal_folder
from tests.support.messages import lines_naming
from tests.support.tiny_runs import (
    assert_equal_checkpoints,
    assert_equal_runs,
    fork_ranks,
    join_ranks,
    kill_ranks,
    last_saved_step,
    last_step,
    sampled,
    train_words,
    wait_for,
    write_recipe_folder,
)

SECONDS = 200  # of a run on two ranks that ought to take 20, on a busy machine

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    """Runs of four steps that are saved after each second one."""
    return write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], {"run": {"steps": 4, "save_every": 2}})


def run_ranks(
    folder: Path, name: str, deepspeed: str, num: int = 2, words: Sequence[str] = (), fault: str | None = None
) -> None:
    faults = {} if fault is None else dict.fromkeys(range(num), f"tests.support.run_faults:{fault}")
    ranks = fork_ranks(folder, [*train_words(name), *words], deepspeed, num, faults)
    assert join_ranks(ranks, SECONDS) == [0] * num, (folder / "log.txt").read_text()


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize(
    "deepspeed",
    [
        "zero2",
        pytest.param("zero3", marks=pytest.mark.faults_ci),
        pytest.param("fsdp", marks=pytest.mark.faults_ci),
    ],
)
def test_ten_steps_equal_five_a_kill_and_five(
    tmp_path: Path, model_folders: dict[str, Path], deepspeed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, optimizer, each rank's random states, samples, tokens, rewards and losses, bit for bit."""
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"])
    run_ranks(folder, "whole", deepspeed)
    ranks = fork_ranks(folder, train_words("cut"), deepspeed)
    wait_for(lambda: last_step(folder / "cut") >= 7, SECONDS)
    kill_ranks(ranks)
    assert last_saved_step(folder / "cut") == 5
    run_ranks(folder, "cut", deepspeed)
    assert lines_naming((folder / "log.txt").read_text(), "resuming", "cut", "step 5")
    assert_equal_runs(folder / "whole", folder / "cut")
    state = {path.name for path in (folder / "cut/checkpoint-10/training_state").iterdir()}
    moments = {"optimizer-1.safetensors", "optimizer-1-of-rank-1.safetensors"}
    assert state == {*moments, "random-0.json", "random-1.json", "state.json", "versions.json"}
    assert main(["doctor", "--checkpoint", str(folder / "cut/checkpoint-10")]) == 0
    assert lines_naming(capsys.readouterr().out, MANIFEST_FILE)


@pytest.mark.timeout(16 * SECONDS)
@pytest.mark.parametrize("deepspeed", ["fsdp", "zero1", "zero3"])
def test_any_layout_goes_on(folder: Path, deepspeed: str) -> None:
    """Other layouts get the same moments, bit for bit; their next step differs by rounding, and not as with lost ones.

    Three ranks cut weights where two do not, and some shares end in padding.
    """
    others = [("zero0", 1), ("zero0", 2), ("zero1", 3), ("zero2", 2), ("zero3", 3), ("zero3_offload", 2)]
    others += [("fsdp", 1), ("fsdp", 2), ("fsdp", 3), ("hsdp", 4), ("fsdp_offload", 2)]
    go_on(folder, deepspeed, 2, others)
    shutil.copytree(folder / "start", folder / "lost")
    forget_moments(folder / "lost/checkpoint-2")
    run_ranks(folder, "lost", deepspeed, words=[*WORDS, "--run.steps", "3"])
    assert difference(folder, "lost") > 1e-4
    assert lines_naming((folder / "log.txt").read_text(), "random", "rank 2")


@pytest.mark.timeout(6 * SECONDS)
@pytest.mark.parametrize(
    ("deepspeed", "num"),
    [
        ("zero0", 1),
        ("fsdp", 1),
        ("fsdp", 3),
        ("hsdp", 4),
        ("fsdp_offload", 2),
        ("zero2", 3),
        ("zero3", 3),
        ("zero3_offload", 2),
    ],
)
def test_more_layouts_are_taken_up(folder: Path, deepspeed: str, num: int) -> None:
    """By one layout of each kind: whole, sharded by torch, sharded by DeepSpeed; on fewer ranks, and on more."""
    go_on(folder, deepspeed, num, [("zero0", 1), ("fsdp", 2 if num == 3 else 3), ("zero3", 2)])


WORDS = ["--task", "counting"]  # questions that are the same on any number of ranks


def go_on(folder: Path, deepspeed: str, num: int, others: Sequence[tuple[str, int]]) -> None:
    """Saves after two steps. Each of the others reads the same moments, and takes the same third step."""
    run_ranks(folder, "start", deepspeed, num, [*WORDS, "--run.steps", "2"])
    shutil.copytree(folder / "start", folder / "same")
    run_ranks(folder, "same", deepspeed, num, [*WORDS, "--run.steps", "3"])
    again = folder / "again"
    for layout, num_ranks in others:
        name = f"{layout}-{num_ranks}"
        shutil.copytree(folder / "start", folder / name)
        run_ranks(folder, name, layout, num_ranks, [*WORDS, "--run.steps", "3"], "save_moments_again")
        expected, found = moments_in(folder / "start/checkpoint-2/training_state"), moments_in(again)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        shutil.rmtree(again)
        assert difference(folder, name) < 2e-5, name


def moments_in(folder: Path) -> dict[str, Tensor]:
    with open_moments(folder) as stored:
        return {
            f"{name}/{entry}": each.read(0, each.shape.numel()).view(each.shape)
            for name, entries in stored.items()
            for entry, each in entries.items()
        }


def difference(folder: Path, name: str) -> float:
    """Of the weights after the third step from those of the layout that saved."""
    weights, expected = (load_file(folder / each / "checkpoint-3/model.safetensors") for each in (name, "same"))
    return max(float((weights[key] - expected[key]).abs().max()) for key in expected)


@pytest.mark.timeout(5 * SECONDS)
@pytest.mark.parametrize("sharded", ["zero3", "fsdp"])
def test_there_and_back(folder: Path, sharded: str) -> None:
    """1 rank, 2 that share weights, 2 under ZeRO-2, 1 again: one process' samples, and its weights but for rounding."""
    words = ["--task", "counting", "--update.schedule", "constant"]
    run_ranks(folder, "whole", "zero0", 1, [*words, "--run.steps", "8"])
    for steps, (layout, num) in zip("2468", [("zero0", 1), (sharded, 2), ("zero2", 2), ("zero0", 1)], strict=True):
        run_ranks(folder, "hops", layout, num, [*words, "--run.steps", steps])
    assert len(lines_naming((folder / "log.txt").read_text(), "resuming", "hops")) == 3
    assert [sorted(step.splitlines()) for step in sampled(folder / "hops")] == [
        sorted(step.splitlines()) for step in sampled(folder / "whole")
    ]
    whole, hops = (load_file(folder / name / "checkpoint-8/model.safetensors") for name in ("whole", "hops"))
    assert max(float((whole[name] - hops[name]).abs().max()) for name in whole) < 1e-4, "an AdamW step is 1e-3"


def forget_moments(checkpoint: Path) -> None:
    for path in (checkpoint / "training_state").glob("optimizer-*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file({name: each if each.ndim == 0 else each.zero_() for name, each in tensors.items()}, path, metadata)
    seal_folder(checkpoint)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "corrupt": flip_a_bit,
    "truncated": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.faults_ci
@pytest.mark.timeout(3 * SECONDS)
def test_a_damaged_file_of_any_rank_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each damage of each file; with the last one the run goes on from the older checkpoint, to the same end."""
    run_ranks(folder, "whole", "zero2")
    monkeypatch.chdir(folder)
    moments = ("optimizer-1.safetensors", "optimizer-1-of-rank-1.safetensors")
    for file in (*moments, "random-1.json", "random-0.json", "state.json"):
        for what, damage in DAMAGES.items():
            shutil.copytree("whole", "cut")
            damage(Path("cut/checkpoint-4/training_state", file))
            recipe = load_recipe("recipe.yaml", ["--run.output_dir", "cut"])
            assert find_resume_point(recipe) == Path("cut/checkpoint-2"), (file, what)
            assert Path("cut/checkpoint-4.damaged").is_dir()
            shutil.rmtree("cut")
    shutil.copytree("whole", "cut")
    flip_a_bit(Path("cut/checkpoint-4/training_state/random-1.json"))
    run_ranks(folder, "cut", "zero2")
    said = (folder / "log.txt").read_text()
    assert len(lines_naming(said, "checkpoint-4", "training_state/random-1.json")) == 1
    assert_equal_runs(folder / "whole", folder / "cut")


@pytest.mark.timeout(4 * SECONDS)
@pytest.mark.parametrize("deepspeed", ["fsdp", "zero2", "zero3"])
def test_a_save_killed_on_one_of_two_ranks(folder: Path, deepspeed: str) -> None:
    """While it writes, or reads what it has to write: the checkpoint before is whole, and the run goes on from it."""
    run_ranks(folder, "whole", deepspeed)
    for rank, fault in [(0, "die_in_second_save"), (1, "die_in_second_save"), (1, "die_in_second_reading")]:
        name = f"{fault}-{rank}"
        ranks = fork_ranks(folder, train_words(name), deepspeed, faults={rank: f"tests.support.run_faults:{fault}"})
        assert -signal.SIGKILL in join_ranks(ranks, SECONDS)
        assert (folder / name / "checkpoint-4.partial").is_dir()
        assert last_saved_step(folder / name) == 2
        assert find_damage(folder / name / "checkpoint-2") is None
        run_ranks(folder, name, deepspeed)
        assert_equal_runs(folder / "whole", folder / name)


MORE = ["--run.steps", "6"]  # of a run whose second save is neither the first nor the last, and is not waited for


@pytest.mark.timeout(4 * SECONDS)
@pytest.mark.parametrize("layout", ["zero0", pytest.param("fsdp", marks=pytest.mark.faults_ci)])
def test_saves_behind_a_run_change_nothing(folder: Path, layout: str) -> None:
    """Every checkpoint is that of a run that waits; where a rank is killed that writes, the one before is whole."""
    run_ranks(folder, "waits", layout, words=MORE, fault="wait_for_saves")
    run_ranks(folder, "goes-on", layout, words=MORE)
    for step in (2, 4, 6):
        assert_equal_checkpoints(folder / f"waits/checkpoint-{step}", folder / f"goes-on/checkpoint-{step}")
    assert_equal_runs(folder / "waits", folder / "goes-on")
    for rank in (0, 1) if layout == "fsdp" else (0,):
        name, fault = f"cut-{rank}", "tests.support.run_faults:die_in_second_save"
        ranks = fork_ranks(folder, [*train_words(name), *MORE], layout, faults={rank: fault})
        assert -signal.SIGKILL in join_ranks(ranks, SECONDS)
        assert last_saved_step(folder / name) == 2
        run_ranks(folder, name, layout, words=MORE)
        assert_equal_runs(folder / "waits", folder / name)


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("layout", "more", "rank"),
    [("zero3", [], 0), ("zero3", [], 1), ("fsdp", MORE, 0), ("fsdp", MORE, 1), ("zero0", MORE, 0)],
)
def test_a_full_disk_ends_all_ranks_in_one_line(folder: Path, layout: str, more: list[str], rank: int) -> None:
    words, fault = [*train_words("run"), *more], "tests.support.run_faults:full_disk_in_second_save"
    ranks = fork_ranks(folder, words, layout, faults={rank: fault})
    assert join_ranks(ranks, SECONDS) == [1, 1]
    said = (folder / "log.txt").read_text()
    assert len(lines_naming(said, "gpg-vl train", "run/checkpoint-4", "No space left")) == 1, "one rank says it"
    assert "Traceback" not in said
    assert {path.name for path in (folder / "run").glob("checkpoint-*")} == {"checkpoint-2"}
    assert find_damage(folder / "run/checkpoint-2") is None


@pytest.mark.timeout(4 * SECONDS)
def test_sigterm_while_a_checkpoint_is_written_ends_both_together(folder: Path) -> None:
    """That one is completed, and the last finished step is saved behind it."""
    run_ranks(folder, "whole", "fsdp", words=MORE)
    words = [*train_words("cut"), *MORE]
    ranks = fork_ranks(folder, words, "fsdp", faults={0: "tests.support.run_faults:sigterm_in_writing"})
    assert join_ranks(ranks, SECONDS) == [143, 143]
    assert find_damage(folder / "cut/checkpoint-4") is None
    assert 4 <= last_saved_step(folder / "cut") == last_step(folder / "cut") <= 6
    run_ranks(folder, "cut", "fsdp", words=MORE)
    assert_equal_runs(folder / "whole", folder / "cut")


@pytest.mark.timeout(2 * SECONDS)
def test_sigterm_while_a_rank_takes_long_for_its_share(folder: Path) -> None:
    """All wait for it, and save what came after."""
    faults = {0: "tests.support.run_faults:lose_patience", 1: "tests.support.run_faults:sigterm_in_slow_share"}
    ranks = fork_ranks(folder, [*train_words("cut"), "--run.steps", "8"], "fsdp", faults=faults)
    assert join_ranks(ranks, SECONDS) == [143, 143]
    assert "do not answer" not in (folder / "log.txt").read_text()
    assert find_damage(folder / "cut/checkpoint-4") is None
    assert 4 <= last_saved_step(folder / "cut") == last_step(folder / "cut") < 8


@pytest.mark.timeout(4 * SECONDS)
@pytest.mark.parametrize("phase", ["rollout", "backward", "save"])
def test_sigterm_to_one_rank_ends_both_together(folder: Path, phase: str) -> None:
    """The last finished step is saved by both; started again they end as ever."""
    run_ranks(folder, "whole", "zero3")
    ranks = fork_ranks(folder, train_words("cut"), "zero3", faults={0: f"tests.support.run_faults:sigterm_in_{phase}"})
    assert join_ranks(ranks, SECONDS) == [143, 143]
    assert last_saved_step(folder / "cut") == last_step(folder / "cut") == {"rollout": 1}.get(phase, 2)
    run_ranks(folder, "cut", "zero3")
    assert_equal_runs(folder / "whole", folder / "cut")
