"""The script for a GPU: every section on tiny models, and what is left of a run in which sections go wrong."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from benchmarks import gpu, update_step
from benchmarks.gpu_sections import SECTIONS, exactness, kit, plain
from benchmarks.gpu_sections.child import is_out_of_memory
from benchmarks.gpu_sections.records import Section, Setting
from benchmarks.gpu_sections.tower import VARLEN, tower_attention
from benchmarks.gpu_sections.trial import NotHere, measured, require_seconds
from benchmarks.models import TINY_QWEN2_5_VL, TINY_QWEN2_VL

ROOT = Path(__file__).parents[2]
RESULTS = {"results.json", "rows.jsonl", "table.txt", "log.txt"}


def row_fields(section: str) -> set[str]:
    [row_class] = get_args(get_type_hints(importlib.import_module(SECTIONS[section].module).run)["return"])
    return {field.name for field in fields(row_class)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A whole run as a user starts it, with a home folder and a folder of temporary files of its own."""
    place = tmp_path_factory.mktemp("gpu")
    out, home, temporary = place / "out", place / "home", place / "tmp"
    home.mkdir()
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), "--minutes", "60"],
        cwd=ROOT, env=os.environ | {"HOME": str(home), "TMPDIR": str(temporary)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{(out / 'log.txt').read_text()[-5000:]}"
    results = {each["name"]: each for each in json.loads((out / "results.json").read_text())["sections"]}
    rows = {name: result["rows"] for name, result in results.items()}
    left = [path for folder in (home, temporary) for path in folder.rglob("*")]
    return SimpleNamespace(out=out, results=results, rows=rows, table=done.stdout, left=left)


@pytest.mark.timeout(1800)
def test_every_section_runs_on_tiny_models(tiny: SimpleNamespace) -> None:
    assert list(tiny.results) == list(SECTIONS)
    for name, result in tiny.results.items():
        assert result["outcome"] == "ok", result["error"]
        assert result["rows"], name
        for row in result["rows"]:
            assert set(row) == row_fields(name)
            assert row["status"] == "ok" or "FlexAttention has no backward pass" in row["status"], row
    for name in SECTIONS:
        assert name in tiny.table
    assert tiny.table.strip() == (tiny.out / "table.txt").read_text().strip()


@pytest.mark.timeout(1800)
def test_nothing_is_left_but_the_results(tiny: SimpleNamespace) -> None:
    assert {path.name for path in tiny.out.iterdir()} == RESULTS
    assert tiny.left == []
    lines = [json.loads(line) for line in (tiny.out / "rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [row for rows in tiny.rows.values() for row in rows]


@pytest.mark.timeout(1800)
def test_packed_rows_are_exact_and_wrong_masks_are_caught(tiny: SimpleNamespace) -> None:
    rows = tiny.rows["exactness"]
    packed = [row for row in rows if row["name"].startswith("packed")]
    assert len(packed) == 2 * 2 * 3 * 2, "families, precisions, attention codes, right and wrong"
    for row in packed:
        is_wrong = "wrong mask" in row["name"]
        assert row["verdict"] == ("caught" if is_wrong else "exact"), row
        assert (row["log_prob_ratio"] > exactness.BOUND) == is_wrong
        has_gradient = not is_wrong and "flex" not in row["name"]
        assert (row["gradient_ratio"] is not None) == (has_gradient or (torch.cuda.is_available() and not is_wrong))
    floors = {row["precision"]: row["log_prob_error"] for row in rows if row["name"] == "plain, row by row"}
    assert 0 < floors["float32"] < 1e-5 < 1e-4 < floors["bfloat16"], "both are against float64"
    assert len([row for row in rows if row["share_equal"] is not None]) == 6


@pytest.mark.timeout(1800)
def test_sections_measure_what_they_are_for(tiny: SimpleNamespace) -> None:
    assert {row["verdict"] for row in tiny.rows["ranks"]} == {"equal"}
    assert sum(row["graphs"] for row in tiny.rows["flex"]) >= 1
    for row in tiny.rows["rollout"]:
        assert row["tokens_per_s"] > 0 and row["step_ms"] > 0, row
        assert row["side"] == "TRL" or (row["kernels_per_step"] > 100 and row["share_of_roofline"] > 0)
    assert {row["rows"] for row in tiny.rows["rollout"]} == {2, 4, 8}
    timed = [row for row in tiny.rows["update"] if row["status"] == "ok"]
    assert {row["side"] for row in timed} == {"kit", "plain", "TRL"}
    assert all(row["group_s"] > 0 and row["mfu"] > 0 and row["allocated_mib"] > 0 for row in timed)
    assert {(row["step"], row["phase"]) for row in tiny.rows["memory"]} == {
        (step, phase) for step in (1, 2, 3) for phase in ("rollout", "update", "optimizer")
    }
    assert {row["retries"] for row in tiny.rows["memory"] if row["phase"] == "update"} == {0}


SECTION = """
import ctypes, os, signal
from dataclasses import dataclass
from benchmarks.gpu_sections.records import Row

@dataclass(frozen=True, kw_only=True)
class Told(Row):
    home: str
    process: int

def run(setting):
    yield Told(name="first", home=os.environ["HOME"], process=os.getpid())
    {ending}
    yield Told(name="second", home="", process=0)
"""
ENDINGS = {
    "fails": ("raise RuntimeError('not square\\nand more')", "failed"),
    "hangs": ("ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock held", "timed out"),
    "grows": ("bytearray(2**62)", "out of memory"),
    "dies": ("os.kill(os.getpid(), signal.SIGSEGV)", "died"),
    "leaves": ("os._exit(7)", "died"),
    "missing": ("import no_such_library", "failed"),
    "works": ("pass", "ok"),
}
Sections = dict[str, Section]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sections:
    """Sections by how they end."""
    for name, (ending, _) in ENDINGS.items():
        (tmp_path / f"section_that_{name}.py").write_text(SECTION.format(ending=ending))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {name: Section(f"section_that_{name}", 1 if name == "hangs" else 8) for name in ENDINGS}


def test_a_section_that_goes_wrong_leaves_the_others(
    broken: Sections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu.main(["--tiny", "--out", str(tmp_path / "out"), "--minutes", "1.2"], broken)
    assert code == gpu.INCOMPLETE
    results = json.loads((tmp_path / "out/results.json").read_text())["sections"]
    assert {each["name"]: each["outcome"] for each in results} == {name: end for name, (_, end) in ENDINGS.items()}
    for each in results:
        assert [row["name"] for row in each["rows"]] == (["first", "second"] if each["outcome"] == "ok" else ["first"])
        assert not Path(each["rows"][0]["home"]).exists()
        assert each["seconds"] < each["limit_s"] + 5
    errors = {each["name"]: each["error"] for each in results}
    assert errors["fails"] == "RuntimeError: not square" and "SIGSEGV" in errors["dies"] and "7" in errors["leaves"]
    table = capsys.readouterr().out
    for name, (_, outcome) in ENDINGS.items():
        assert any(name in line and outcome in line for line in table.splitlines())
    assert "sleep" in SECTION.format(ending=ENDINGS["hangs"][0])
    assert "section_that_hangs.py" in (tmp_path / "out/log.txt").read_text(), "where it hung"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_run_that_is_killed_leaves_its_rows_and_nothing_else(
    broken: Sections, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    code = f"""
import sys
from benchmarks.gpu import main
from benchmarks.gpu_sections.records import Section
sections = {{"works": Section("section_that_works", 1), "hangs": Section("section_that_hangs", 60)}}
sys.exit(main(["--tiny", "--out", {str(out)!r}], sections))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT)
    try:
        wait_for(lambda: (out / "rows.jsonl").is_file() and "hangs" in (out / "rows.jsonl").read_text())
        run.send_signal(number)
        run.wait(60)
    finally:
        run.kill()
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    told = lines[-1]["row"]
    wait_for(lambda: not Path(told["home"]).exists() and not is_alive(told["process"]))
    results = json.loads((out / "results.json").read_text())["sections"]
    assert results[0]["outcome"] == "ok"
    if number == signal.SIGTERM:
        assert run.returncode == gpu.INCOMPLETE
        assert (results[1]["outcome"], len(results[1]["rows"])) == ("interrupted", 1)
        assert "interrupted" in (out / "table.txt").read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_alive(process: int) -> bool:
    """A process that ended but is not yet taken note of is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tiny", "--sections", "exactness,speed"], "speed"),
        (["--tiny", "--sections", ""], "exactness"),
        (["--tiny", "--minutes", "0.1"], "--minutes"),
        (["--tiny", "--out", "FILE"], "FILE"),
        (["--tiny", "--out", "USED"], "USED"),
        pytest.param(
            [], "--tiny", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
        ),
    ],
    ids=["unknown section", "no section", "no time", "a file", "other results", "no CUDA"],
)
def test_bad_input_is_one_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("mine")
    Path("USED").mkdir()
    Path("USED/results.json").write_text("{}")
    assert gpu.main(["--out", "new", *words]) == gpu.USAGE_ERROR
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and told in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"FILE", "USED"}
    assert Path("USED/results.json").read_text() == "{}"


# --- what the sections stand on ---------------------------------------------------------------------------------------


def test_memory_errors_of_card_and_host_are_told_apart_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_measurement_that_fails_is_a_row() -> None:
    def fail() -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    row = measured(exactness.ExactnessRow, fail, name="packed", model="3B")
    assert (row.name, row.model, row.status, row.log_prob_error) == ("packed", "3B", "out of memory", None)
    late = Setting("cpu", is_tiny=True, ends_at=time.monotonic() + 1)
    row = measured(exactness.ExactnessRow, lambda: require_seconds(late, 5) or {}, name="packed")
    assert row.status.startswith("not measured: ")
    with pytest.raises(NotHere):
        require_seconds(late, 5)


@pytest.fixture(scope="module")
def adapter() -> Any:
    return kit.build(TINY_QWEN2_VL, "cpu", "float32")


def test_a_wrong_gradient_is_not_exact(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probs are right in each case."""
    groups = exactness.draw_groups(adapter, is_tiny=True)
    reference = exactness.compute_reference(adapter, groups)
    errors: list[exactness.Errors] = []
    for together in (1, 64):
        exactness.plain_values(adapter, groups, reference, together, errors)
    floor = exactness.join(errors)
    kit.set_attention(adapter, "grouped_sdpa")
    batch = kit.pack(adapter, groups)
    right = exactness.packed_values(adapter, batch, reference, floor, len(groups))
    assert right["verdict"] == "exact"
    scaled = exactness.packed_values(adapter, batch, reference, floor, len(groups) + 1)
    assert scaled["verdict"] == "NOT EXACT" and scaled["log_prob_ratio"] == right["log_prob_ratio"]
    bias = adapter.model.model.language_model.layers[1].self_attn.q_proj.bias
    handle = bias.register_hook(lambda gradient: gradient * 1.001)
    slight = exactness.packed_values(adapter, batch, reference, floor, len(groups))
    handle.remove()
    assert slight["verdict"] == "NOT EXACT"
    assert slight["worst_parameter"] == "language_model.layers.1.self_attn.q_proj.bias"


def test_one_wrong_parameter_of_many_exceeds_the_bound() -> None:
    floor = exactness.Errors(1e-6, {str(number): 1e-6 for number in range(500)})
    found = exactness.compare_gradients(exactness.Errors(1e-6, {**floor.by_parameter, "7": 1e-4}), floor)
    assert found["gradient_ratio"] > exactness.BOUND and found["worst_parameter"] == "7"
    noisy = exactness.Errors(1e-6, {**floor.by_parameter, "7": 2e-6})
    assert exactness.compare_gradients(noisy, floor)["gradient_ratio"] < exactness.BOUND


def test_the_reference_is_float64_throughout(adapter: Any) -> None:
    """transformers' norms round to float32 within a float64 model."""
    norm = adapter.model.model.language_model.norm
    hidden = torch.randn(3, TINY_QWEN2_VL.hidden, dtype=torch.float64)
    exact = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    with plain.KeepDouble():
        kept = norm(hidden)
    assert torch.allclose(kept, exact * norm.weight, rtol=1e-14, atol=0)
    assert not torch.allclose(norm(hidden).double(), exact * norm.weight, rtol=1e-9, atol=0)


def test_the_tower_in_one_call_is_the_tower() -> None:
    adapter = kit.build(TINY_QWEN2_5_VL, "cpu", "float32")
    grid = torch.tensor([[1, 12, 12], [1, 8, 20]])
    pixels = torch.randn(int(grid.prod(1).sum()), 1176)
    features = adapter.model.model.get_image_features
    with torch.no_grad():
        expected = torch.cat(features(pixels, grid).pooler_output)
        with tower_attention(adapter.model, VARLEN):
            found = torch.cat(features(pixels, grid).pooler_output)
    assert adapter.model.config.vision_config._attn_implementation == "sdpa"
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_gradients_are_compared_a_parameter_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    plain_gradient = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = plain_gradient[name] + 0.1 * torch.randn_like(parameter)
    flat = [torch.cat([g.flatten() for g in each]) for each in
            ([p.grad for p in model.parameters()], list(plain_gradient.values()))]  # fmt: skip
    expected = float((flat[0] - flat[1]).norm() / flat[1].norm())
    found = update_step._relative_difference(SimpleNamespace(model=model), plain_gradient)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, rel=1e-5)
    model[1].bias.grad = None
    with pytest.raises(AssertionError, match="one side alone"):
        update_step._relative_difference(SimpleNamespace(model=model), plain_gradient)  # type: ignore[arg-type]
