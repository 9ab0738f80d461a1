"""The script for a GPU: every section on tiny models, and what is left of a run in which sections go wrong."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from benchmarks import gpu, gradients
from benchmarks.flops import Lengths
from benchmarks.gpu_sections import SECTIONS, exactness, flex, kit, memory, plain, plan, ranks
from benchmarks.gpu_sections.compilation import Compilation
from benchmarks.gpu_sections.progress import append, read_rows
from benchmarks.gpu_sections.records import Section, SectionResult, Setting
from benchmarks.gpu_sections.table import render
from benchmarks.gpu_sections.trial import NotHere, measured, require_seconds
from benchmarks.gpu_sections.verdicts import is_within
from benchmarks.models import TINY_QWEN2_5_VL, TINY_QWEN2_VL
from gpg_vl.models.packed import flex_attention
from gpg_vl.rollout.served.vllm_backend import NO_DEVICE
from gpg_vl.update.packing import plan_micro_batches

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
        cwd=ROOT, env=os.environ | {"HOME": str(home), "TMPDIR": str(temporary), "COLUMNS": "200"},
        capture_output=True, text=True, check=False,
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
            lack = (
                "FlexAttention has no backward pass",
                "kernels are for CUDA",
                NO_DEVICE,
                "sleeps on a GPU alone",
            )  # on a CPU
            assert row["status"] == "ok" or any(each in row["status"] for each in lack), row
    for name in SECTIONS:
        assert name in tiny.table
    assert tiny.table.strip() == (tiny.out / "table.txt").read_text().strip()


@pytest.mark.timeout(1800)
def test_nothing_is_left_but_the_results(tiny: SimpleNamespace) -> None:
    assert {path.name for path in tiny.out.iterdir()} == RESULTS
    assert tiny.left == []
    lines = [json.loads(line) for line in (tiny.out / "rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines if "row" in line] == [row for rows in tiny.rows.values() for row in rows]
    begun = [(line["section"], line["started"]["name"]) for line in lines if "started" in line]
    assert {name for name, _ in begun} == set(SECTIONS)


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
    assert len([row for row in rows if row["share_equal"] is not None]) == 8


@pytest.mark.timeout(1800)
def test_sections_measure_what_they_are_for(tiny: SimpleNamespace) -> None:
    assert {row["layout"]: row["verdict"] for row in tiny.rows["ranks"]} == dict.fromkeys(ranks.LAYOUTS, "equal")
    assert {row["fallback"] for name in ("flex", "exactness") for row in tiny.rows[name]} == {""}
    assert sum(row["graphs"] for row in tiny.rows["flex"]) >= 1
    for row in tiny.rows["rollout"]:
        assert row["tokens_per_s"] > 0 and row["step_ms"] > 0, row
        assert row["side"] == "TRL" or (row["kernels_per_step"] > 100 and row["share_of_roofline"] > 0)
    assert {row["look_every"] for row in tiny.rows["rollout"] if row["side"] == "kit with other looks"} == {8}
    for side in ("kit", "kit with LoRA"):
        assert {row["rows"] for row in tiny.rows["rollout"] if row["side"] == side} == {2, 4, 8}
    timed = [row for row in tiny.rows["update"] if row["status"] == "ok"]
    assert {row["side"] for row in timed} == {"kit", "plain", "TRL"}
    assert all(row["group_s"] > 0 and row["mfu"] > 0 and row["allocated_mib"] > 0 for row in timed)
    assert {(row["step"], row["phase"]) for row in tiny.rows["memory"]} == {
        (step, phase) for step in (1, 2, 3) for phase in ("rollout", "update", "optimizer")
    }
    updates = [row for row in tiny.rows["memory"] if row["phase"] == "update"]
    assert {(row["retries"], row["micro_batches"]) for row in updates} == {(0, 2)}
    assert [row["recipe"] for row in tiny.rows["memory"]][:9] == ["geoqa"] * 9, "the larger model first"


@pytest.mark.timeout(1800)
def test_a_plan_is_held_against_what_is_measured(tiny: SimpleNamespace) -> None:
    """Seconds on a busy machine may be any."""
    rows = tiny.rows["plan"]
    phases = (plan.TOGETHER, *plan.PHASES)
    assert [(row["trained"], row["phase"]) for row in rows] == [(t, p) for t in ("full", "LoRA") for p in phases]
    for row in rows:
        assert row["planned_s"] > 0 and row["measured_s"] > 0, row
        assert row["memory_ratio"] == pytest.approx(row["planned_mib"] / row["measured_mib"])
        assert (row["verdict"] in ("within", "OUTSIDE")) == (row["phase"] == plan.TOGETHER)
        assert row["phase"] != plan.TOGETHER or abs(row["memory_ratio"] - 1) <= plan.MEMORY_WITHIN, row


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [((1.14, 1.4), "within"), ((0.86, 0.7), "within"), ((1.16, 1.0), "OUTSIDE"), ((0.84, 1.0), "OUTSIDE"),
     ((1.0, 1.6), "OUTSIDE"), ((1.0, 0.6), "OUTSIDE"), ((math.nan, 1.0), "OUTSIDE"), ((1.0, math.nan), "OUTSIDE")],
)  # fmt: skip
def test_a_plan_is_right_to_15_percent_and_a_factor(ratios: tuple[float, float], verdict: str) -> None:
    assert plan.judge(*ratios) == verdict


@pytest.mark.timeout(1800)
def test_bfloat16_is_that_of_training(tiny: SimpleNamespace) -> None:
    """Rounded weights everywhere; float32 ones that autocast casts in a single row, for comparison."""
    for row in tiny.rows["exactness"]:
        assert row["weights"] == row["precision"], row
    assert {row["weights"] for name in ("rollout", "memory") for row in tiny.rows[name]} == {"bfloat16"}
    timed = {row["name"]: row["weights"] for row in tiny.rows["update"] if row["status"] == "ok"}
    assert [name for name, weights in timed.items() if weights != "bfloat16"] == ["autocast"]
    assert timed["autocast"] == "float32"
    assert {"a row for each group", "split group, prompt kept", "split group, prompt run again"} <= timed.keys()


SECTION = """
import ctypes, os, signal, time
from dataclasses import dataclass
from benchmarks.gpu_sections.progress import JOURNAL
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
    "stays": ("JOURNAL.started(Told(name='second', home='', process=1)); time.sleep(600)", "timed out"),
    "works": ("pass", "ok"),
}
Sections = dict[str, Section]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sections:
    """Sections by how they end."""
    for name, (ending, _) in ENDINGS.items():
        (tmp_path / f"section_that_{name}.py").write_text(SECTION.format(ending=ending))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {name: Section(f"section_that_{name}", 1 if name in ("hangs", "stays") else 8) for name in ENDINGS}


def test_a_section_that_goes_wrong_leaves_the_others(
    broken: Sections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu.main(["--tiny", "--out", str(tmp_path / "out"), "--minutes", "1.2"], broken)
    assert code == gpu.INCOMPLETE
    results = json.loads((tmp_path / "out/results.json").read_text())["sections"]
    assert {each["name"]: each["outcome"] for each in results} == {name: end for name, (_, end) in ENDINGS.items()}
    for each in results:
        assert [row["name"] for row in each["rows"]] == (
            ["first", "second"] if each["name"] in ("works", "stays") else ["first"]
        )
        assert not Path(each["rows"][0]["home"]).exists()
        assert each["seconds"] < each["limit_s"] + 5
    errors = {each["name"]: each["error"] for each in results}
    assert errors["fails"] == "RuntimeError: not square" and "SIGSEGV" in errors["dies"] and "7" in errors["leaves"]
    [stays] = [each for each in results if each["name"] == "stays"]
    assert [row["status"] for row in stays["rows"]] == ["ok", "not finished"] and stays["rows"][1]["process"] == 1
    assert 0 < stays["rows"][1]["seconds"] <= stays["seconds"] + 1
    table = capsys.readouterr().out
    assert "not finished" in table
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
        (["--tiny", "--minutes", "nan"], "--minutes"),
        (["--tiny", "--minutes", "inf"], "--minutes"),
        (["--tiny", "--minutes", "-3"], "--minutes"),
        (["--tiny", "--minutes", "abc"], "--minutes"),
        (["--tiny", "--fast"], "--fast"),
        (["--tiny", "--out"], "--out"),
        (["--tiny", "--out", "FILE"], "FILE"),
        (["--tiny", "--out", "USED"], "USED"),
        pytest.param(
            [], "--tiny", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
        ),
    ],
    ids=[
        "unknown section",
        "no section",
        "no time",
        "no number",
        "no end",
        "less than no time",
        "a word",
        "unknown option",
        "no folder",
        "a file",
        "other results",
        "no CUDA",
    ],
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


def test_a_rounded_adapter_leaves_the_float32_one_as_it_is(adapter: Any) -> None:
    """Rounding is for good: it is done to a copy, whose gradients are those of its masters."""
    rounded = kit.in_dtype(adapter, TINY_QWEN2_VL, "bfloat16")
    assert {p.dtype for p in rounded.model.parameters()} == {torch.bfloat16} and rounded.autocast_dtype is None
    assert {p.dtype for p in adapter.model.parameters()} == {torch.float32}
    assert {p.dtype for _, p in rounded.trainable_parameters()} == {torch.float32}
    groups = exactness.draw_groups(rounded, is_tiny=True)
    kit.packed_pass(rounded, kit.pack(rounded, groups), len(groups))
    found = kit.gradients_of(rounded)
    assert found.keys() == dict(adapter.model.named_parameters()).keys()
    kit.packed_pass(rounded, kit.pack(rounded, groups), len(groups))
    again = kit.gradients_of(rounded)
    assert all(torch.equal(again[name], gradient) for name, gradient in found.items()), "not added to the first"
    kit.clear_gradients(rounded)
    assert kit.gradients_of(rounded) == {}


def test_one_wrong_parameter_of_many_exceeds_the_bound() -> None:
    floor = exactness.Errors(1e-6, {str(number): 1e-6 for number in range(500)})
    found = exactness.compare_gradients(exactness.Errors(1e-6, {**floor.by_parameter, "7": 1e-4}), floor)
    assert found["gradient_ratio"] > exactness.BOUND and found["worst_parameter"] == "7"
    noisy = exactness.Errors(1e-6, {**floor.by_parameter, "7": 2e-6})
    assert exactness.compare_gradients(noisy, floor)["gradient_ratio"] < exactness.BOUND


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_never_exact(wrong: float) -> None:
    floor = exactness.Errors(1e-6, {"a": 1e-6, "b": 1e-6, "c": 1e-6})
    for name in "abc":
        found = exactness.compare_gradients(exactness.Errors(1e-6, {**floor.by_parameter, name: wrong}), floor)
        assert not is_within([1.0, found["gradient_ratio"]], exactness.BOUND) and found["worst_parameter"] == name
        noisy = exactness.join([floor, exactness.Errors(1e-6, {**floor.by_parameter, name: wrong})])
        found = exactness.compare_gradients(floor, noisy)
        assert not is_within([found["gradient_ratio"]], exactness.BOUND), "no floor to judge by"
    gradients = {name: torch.ones(2) for name in "abc"}
    for name in "abc":
        assert ranks.compare({**gradients, name: torch.full((2,), wrong)}, gradients)["verdict"] == "DIFFERENT"


def test_no_error_at_all_is_exact() -> None:
    floor = exactness.Errors(1e-6, {"a": 1e-6, "b": 0.0})
    found = exactness.compare_gradients(exactness.Errors(0.0, {"a": 0.0, "b": 0.0}), floor)
    assert (found["gradient_ratio"], found["worst_ratio"]) == (0.0, 0.0)


def test_a_gradient_of_nan_is_not_exact(adapter: Any) -> None:
    """In the whole measurement: the log-probs are right."""
    groups = exactness.draw_groups(adapter, is_tiny=True)
    reference = exactness.compute_reference(adapter, groups)
    errors: list[exactness.Errors] = []
    exactness.plain_values(adapter, groups, reference, 1, errors)
    kit.set_attention(adapter, "grouped_sdpa")
    batch = kit.pack(adapter, groups)
    handle = adapter.model.model.language_model.norm.weight.register_hook(lambda gradient: gradient * math.nan)
    found = exactness.packed_values(adapter, batch, reference, errors[0], len(groups))
    handle.remove()
    assert found["verdict"] == "NOT EXACT" and found["worst_parameter"] == "language_model.norm.weight"


def test_flex_attention_past_its_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for every shape of several blocks; another type is another graph, and one too many is no value."""
    monkeypatch.setattr(torch, "compile", torch.compile)  # put back behind the test
    kit.trace_only("cpu")
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()
    setting = Setting("cpu", is_tiny=True, ends_at=time.monotonic() + 600)
    plain_one, rounded = (
        kit.build(TINY_QWEN2_VL, "cpu", dtype, attention="flex_attention") for dtype in ("float32", "bfloat16")
    )
    found = [flex.measure(setting, plain_one, rows, tokens) for rows, tokens in ((1, 290), (2, 160), (3, 120))]
    with torch._dynamo.config.patch(recompile_limit=1):
        row = measured(flex.FlexRow, lambda: flex.measure(setting, rounded, 1, 290), name="shape")
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()
    assert [(values["graphs"], values["fallback"]) for values in found] == [(1, ""), (0, ""), (0, "")]
    assert "model.attention" in row.status and row.graphs is None


def test_code_that_is_not_compiled_is_not_exact() -> None:
    judged = exactness.judge_compilation(Compilation(1, "flex_attention called without torch.compile"), "exact")
    assert judged["verdict"] == "NOT COMPILED" and judged["fallback"]


def test_memory_that_runs_out_is_a_row_for_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller budget holds in the steps after; the gradient then is that of the same groups."""
    setting = Setting("cpu", is_tiny=True, ends_at=time.monotonic() + 600)
    recipe = kit.load_shipped_recipe("geoqa", memory.tiny_overrides())
    forward = kit.PolicyForward.forward

    def run_out(self: Any, batch: Any, *prompt: Any) -> Any:
        if batch.input_ids.numel() > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, *prompt)

    monkeypatch.setattr(kit.PolicyForward, "forward", run_out)
    rows = list(memory.run_steps(setting, TINY_QWEN2_5_VL, "geoqa", recipe))
    updates = [(row.step, row.micro_batch_tokens, row.status, row.retries) for row in rows if row.phase == "update"]
    assert updates == [(1, 128, "out of memory", None), (1, 64, "ok", 1), (2, 64, "ok", 0), (3, 64, "ok", 0)], rows
    assert {row.micro_batches for row in rows if row.phase == "update" and row.status == "ok"} == {2}


@pytest.mark.parametrize("budget", [8192, 4096, 2048, 1024])
def test_an_update_fills_two_micro_batches(adapter: Any, budget: int) -> None:
    groups = memory.fill_micro_batches(adapter, Lengths(64, 536, 256, 8), budget)
    assert len(plan_micro_batches(groups, budget, 65536)) == 2


def test_an_update_stops_before_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two passes: one of many would otherwise be ended with its section, and its row lost."""
    setting = Setting("cpu", is_tiny=True, ends_at=time.monotonic() + 1)
    recipe = kit.load_shipped_recipe("geoqa", memory.tiny_overrides())
    monkeypatch.setattr(memory, "require", lambda setting, seconds: require_seconds(setting, 9.0 * (seconds > 3)))
    rows = list(memory.run_steps(setting, TINY_QWEN2_5_VL, "geoqa", recipe))
    assert [row.phase for row in rows] == ["rollout", "update"]
    assert rows[1].status.startswith("not measured: ")


def test_a_line_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"section": "a", "started": {"name": "one"}, "at": 1.0}\n{"section": "a", "ro')
    append(path, {"section": "b", "row": {"name": "two"}})
    assert read_rows(path, "b", 9.0) == ([{"name": "two"}], {})
    assert read_rows(path, "a", 9.0) == ([{"name": "one", "status": "not finished", "seconds": 8.0}], {})


@pytest.mark.parametrize("width", [80, 160, 200])
def test_tables_fit_a_terminal(width: int, tiny: SimpleNamespace) -> None:
    results = [SectionResult(**each) for each in tiny.results.values()]
    lines = render(results, width).splitlines()
    assert max(map(len, lines)) <= width
    names = {row["name"] for rows in tiny.rows.values() for row in rows}
    assert all(any(name in line for line in lines) for name in names), "no name is broken"


def test_the_reference_is_float64_throughout(adapter: Any) -> None:
    """transformers' norms round to float32 within a float64 model."""
    norm = adapter.model.model.language_model.norm
    hidden = torch.randn(3, TINY_QWEN2_VL.hidden, dtype=torch.float64)
    exact = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    with plain.KeepDouble():
        kept = norm(hidden)
    assert torch.allclose(kept, exact * norm.weight, rtol=1e-14, atol=0)
    assert not torch.allclose(norm(hidden).double(), exact * norm.weight, rtol=1e-9, atol=0)


def test_gradients_are_compared_a_parameter_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    plain_gradient = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = plain_gradient[name] + 0.1 * torch.randn_like(parameter)
    flat = [torch.cat([g.flatten() for g in each]) for each in
            ([p.grad for p in model.parameters()], list(plain_gradient.values()))]  # fmt: skip
    expected = float((flat[0] - flat[1]).norm() / flat[1].norm())
    found = gradients._relative_difference(SimpleNamespace(model=model), plain_gradient)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, rel=1e-5)
    model[1].bias.grad = None
    with pytest.raises(AssertionError, match="one side alone"):
        gradients._relative_difference(SimpleNamespace(model=model), plain_gradient)  # type: ignore[arg-type]


def requirements_of(package: str) -> set[str]:
    """Names of what an installed package needs here; empty where it is not installed."""
    try:
        needed = [Requirement(text) for text in metadata.requires(package) or []]
    except metadata.PackageNotFoundError:
        return set()
    return {canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}


def closure_of(packages: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = set(packages)
    while waiting:
        found |= waiting
        waiting = set().union(*map(requirements_of, waiting)) - found
    return found


def test_the_gpu_machine_lacks_nothing() -> None:
    """What the wheels need is a wheel, comes with torch and transformers, or is named in docs/gpu.md."""
    [line] = re.findall(r"^GPU_WHEELS = ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wheels = {canonicalize_name(name) for name in line.replace("\\\n", " ").split()} | {"deepspeed"}
    text = (ROOT / "docs/gpu.md").read_text()
    [named] = re.findall(r"usual on such a machine: ([^.]*)\.", text)
    there = closure_of(["torch", "transformers", "accelerate", "peft"])
    assumed = {canonicalize_name(name.strip()) for name in named.split(",")}
    not_imported = {"av", "tzdata", "six"}  # of videos; of pandas on Windows; of dateutil, which brings it
    assert closure_of(wheels | assumed) - wheels - there - assumed <= not_imported
    assert {"datasets", "trl", "qwen-vl-utils"} <= wheels and "pyarrow" in assumed
