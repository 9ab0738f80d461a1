"""The shape of the code: short functions, short files, cheap imports, one model room, tests that nothing hides."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("gpg_vl", "data_tools", "eval", "scripts", "benchmarks", "tests")
MOST_LINES = 350
LONG_FILES = {
    "tests/benchmarks/test_gpu.py": "one tiny run of every section, and each way in which a section can go wrong",
    "tests/verifiers/test_counts.py": "what a count accepts and refuses, kind by kind",
    "gpg_vl/config.py": "every key of a recipe, with its explanation and its checks, on one page",
    "tests/data_tools/test_check.py": "every finding of data_tools.check, all on one folder of rows",
    "tests/processes/test_ranks.py": "runs of two ranks beside one process, and each way in which a rank can fail",
    "tests/tasks/test_legacy.py": "the rules of every published scorer, each with its verdicts",
}
HEAVY = {"torch", "transformers", "datasets", "accelerate", "deepspeed", "peft", "trl", "matplotlib"}


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- functions and files ---------------------------------------------------------------------------------------------


def function_lengths(source: str) -> dict[str, int]:
    """Lines of every ``def``, methods and nested ones included: from its ``def`` to its last line, docstring and all.

    Decorators do not count. Two functions of one name in a file are told apart by their line.
    """
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{n.name}:{n.lineno}": (n.end_lineno or n.lineno) - n.lineno + 1 for n in nodes}


def test_function_lengths_are_counted_as_said() -> None:
    source = (
        "@cache\ndef a(\n    x,\n):\n    '''Text.'''\n\n    def b(): return x\n    return b\nasync def c():\n    ...\n"
    )
    assert function_lengths(source) == {"a:2": 7, "b:7": 1, "c:9": 2}


def test_functions_are_short() -> None:
    lengths = {
        f"{relative(path)}:{name}": length
        for path in modules("gpg_vl")
        for name, length in function_lengths(path.read_text(encoding="utf-8")).items()
    }
    assert len(lengths) > 500
    assert {name: length for name, length in lengths.items() if length > 45} == {}
    assert median(lengths.values()) <= 7


def test_files_are_short_but_for_a_reason() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(*CODE)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES and name not in LONG_FILES} == {}
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= MOST_LINES] == [], "no longer long"


def test_gpg_stays_what_algorithm_1_says() -> None:
    """What other objectives need goes into their files, or into what they share."""
    assert len((ROOT / "gpg_vl/objectives/gpg.py").read_text(encoding="utf-8").splitlines()) <= 26


# --- rooms -----------------------------------------------------------------------------------------------------------


OF_A_FAMILY = re.compile(
    r"qwen|pixel_values|grid_thw|rope_index|m-?rope|three (position )?axes|\.levels\b", re.IGNORECASE
)
"""What other families have under other names, or not at all; ``levels`` is what is inside of ``ImageFeatures``."""


@pytest.mark.parametrize(
    "line",
    ["QwenVLAdapter", 'default="qwen2_vl"', "batch.pixel_values", "image_grid_thw", "model.get_rope_index(ids)",
     "3 for M-RoPE", "on all three axes", "features.levels[0]"],
)  # fmt: skip
def test_names_of_a_family_are_recognised(line: str) -> None:
    assert OF_A_FAMILY.search(line)


def test_model_families_are_named_in_their_room_alone() -> None:
    named = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in modules("gpg_vl")
        if ROOT / "gpg_vl/models" not in path.parents
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if OF_A_FAMILY.search(line)
    ]
    assert named == []


# what a test of a room may be about, beside a module of that room
WHOLE_ROOMS = {
    "objectives/test_building.py": "what a recipe says of any objective",
    "objectives/test_identities.py": "objectives that are each other's special cases",
    "objectives/test_trl.py": "gradients of TRL's own loss on the same tensors",
    "objectives/test_vectors.py": "every objective on the reference's vectors",
    "objectives/test_written_losses.py": "every objective against its written loss",
    "models/test_videos.py": "videos in every family that reads them",
    "models/families/test_new_family.py": "a family that the kit does not have",
    "models/test_in_vllm.py": "what vLLM itself makes of a family's saved folder",
    "models/families/test_llava_onevision_training.py": "whole runs of a family without M-RoPE",
    "rewards/test_early_scoring.py": "groups that are scored while others are sampled, in a scorer and in a run",
    "rewards/pool/test_isolation.py": "what a user's code can do to the processes that score, and to other calls",
    "evaluation/test_earlier_version.py": "an evaluation that an earlier version began",
    "run/test_earlier_version.py": "runs that an earlier version wrote",
    "tasks/test_tasks.py": "every task of the kit, and tasks by path",
    "rollout/served/test_recorded_exchanges.py": "exchanges with vLLM itself, repeated to both sides",
    "verifiers/maths/test_published_answers.py": "the published answers of GEOQA, each against every other",
    "tasks/test_gameability.py": "what every task must not reward",
    "tasks/test_reward_cases.py": "answers as models write them, every task",
    "tasks/test_rewards_page.py": "the table of spellings in docs/rewards.md",
    "tasks/test_spellings.py": "grammars of spellings, every task",
}


def test_tests_stand_in_the_room_of_their_module() -> None:
    rooms = [path.name for path in sorted((ROOT / "gpg_vl").iterdir()) if path.is_dir() and path.name != "__pycache__"]
    lost = []
    for room in rooms:
        for test in sorted((ROOT / "tests" / room).rglob("test_*.py")):
            name = test.relative_to(ROOT / "tests").as_posix()
            subject = ROOT / "gpg_vl" / test.relative_to(ROOT / "tests").parent / test.stem.removeprefix("test_")
            if not subject.with_suffix(".py").is_file() and not subject.is_dir() and name not in WHOLE_ROOMS:
                lost.append(name)
    assert lost == []
    assert [name for name in WHOLE_ROOMS if not (ROOT / "tests" / name).is_file()] == []


# --- names -----------------------------------------------------------------------------------------------------------


SHARED_TYPE_NAMES: dict[str, str] = {}
"""Names of types that several modules of the library define, each with the reason."""
TYPE_NAME = re.compile(r"_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")


def type_names(source: str) -> list[str]:
    """Names of the classes and the type aliases that stand in a module itself; type variables are neither."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _makes_a_type(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [each.id for each in targets if isinstance(each, ast.Name) and TYPE_NAME.fullmatch(each.id)]
    return found


def _makes_a_type(value: ast.expr | None) -> bool:
    return value is not None and not ast.unparse(value).startswith(("TypeVar(", "ParamSpec("))


def test_types_are_found_as_said() -> None:
    source = (
        "class A: ...\nclass _B:\n    class Inner: ...\nRow = dict[str, int]\n_Do: TypeAlias = Callable[[], None]\n"
        "T = TypeVar('T')\nItem = TypeVar('Item')\nMOST = 5\n_PAGES = ('a',)\nnumber: int\nId = NewType('Id', int)\n"
    )
    assert type_names(source) == ["A", "_B", "Row", "_Do", "Id"]


def test_a_type_has_a_name_of_its_own() -> None:
    """A name that means several things makes a reader look up which one is meant; an underscore tells none apart."""
    owners: dict[str, list[str]] = {}
    for path in modules("gpg_vl"):
        for name in type_names(path.read_text(encoding="utf-8")):
            owners.setdefault(name.lstrip("_"), []).append(relative(path))
    assert len(owners) > 400
    shared = {name: places for name, places in owners.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED_TYPE_NAMES} == {}
    assert [name for name in SHARED_TYPE_NAMES if name not in shared] == [], "no longer shared"


def made_folders() -> set[str]:
    """Names of the folders that the project's commands make in the checkout: those that git ignores."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return {line.strip("/") for line in lines if line and not line.startswith("#") and "*" not in line}


def test_nothing_in_the_checkout_can_take_the_place_of_a_module_of_the_tests() -> None:
    """Tests are imported as ``tests.ROOM.test_X`` and ``tests.support.X``, from the checkout's root alone.

    ``tests`` itself on the path would make its folders importable as ``data``, ``eval``, ``run``; a folder ``runs`` of
    the checkout would take the place of a module ``runs``.
    """
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert options["pythonpath"] == ["."]
    assert (ROOT / "tests/__init__.py").is_file(), "a package goes before any folder of the same name"
    made = made_folders()
    assert {"runs", "data", "build", "dist"} <= made
    assert "tests" not in made
    assert [relative(path) for path in modules("tests/support") if path.stem in made] == []
    for folder in [path.name for path in (ROOT / "tests").iterdir() if path.is_dir()]:
        spec = importlib.util.find_spec(folder)
        places = list(spec.submodule_search_locations or []) if spec else []
        assert not any(Path(place).is_relative_to(ROOT / "tests") for place in places), folder


def test_folders_of_the_working_directory_hide_no_module(tmp_path: Path) -> None:
    for name in {*made_folders(), "tests", "support", "eval", "scripts", "gpg_vl", "models"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").touch()
    names = "tests.support.run_faults", "data_tools.generate", "eval.table", "gpg_vl.data.images"
    found = run_python(
        "import sys, importlib\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)",
        *names,
        cwd=tmp_path,
    )
    assert [Path(line) for line in found.split()] == [ROOT / f"{name.replace('.', '/')}.py" for name in names]


def imported_modules(source: str) -> list[str]:
    """Every name that an import may load as a module: ``from a import b`` may load ``a`` and ``a.b``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module or ''}.{each.name}" for each in node.names]
    return found


def test_no_module_of_the_tests_imports_a_test_module() -> None:
    """What several of them need stands in ``tests/support``."""
    found = [
        f"{relative(path)}: {name}"
        for path in modules("tests")
        for name in imported_modules(path.read_text(encoding="utf-8"))
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert found == []


def test_scripts_run_no_file_of_the_tests() -> None:
    files = [path for path in (ROOT / "scripts").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 10
    assert [relative(path) for path in files if re.search(r"\btests[./]", path.read_text(encoding="utf-8"))] == []


# --- imports ---------------------------------------------------------------------------------------------------------


def run_python(code: str, *words: str, cwd: Path = ROOT) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(ROOT)!r})\n{code}", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=120).stdout


def imported_by(*names: str) -> set[str]:
    """The libraries, beyond Python's own, that a fresh interpreter has loaded after it imported ``names``."""
    code = """
before = set(sys.modules)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""
    return set(run_python(code, *names).split())


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("gpg_vl", set()),
        ("gpg_vl.records", set()),
        ("gpg_vl.config", set()),
        ("gpg_vl.data.images", {"PIL", "numpy"}),
    ],
)
def test_imports_are_cheap(name: str, libraries: set[str]) -> None:
    assert imported_by(name) - {"gpg_vl"} == libraries


@pytest.mark.parametrize("name", ["preflight.start", "preflight.question", "run.saved_recipe", "cli"])
def test_what_checks_before_torch_is_imported_imports_none(name: str) -> None:
    assert imported_by(f"gpg_vl.{name}") & (HEAVY - {"datasets"}) == set()


@pytest.mark.parametrize("room", ["rewards", "tasks", "verifiers"])
def test_rooms_that_score_load_no_torch(room: str) -> None:
    """Every scoring process imports them, and starts in a fraction of a second."""
    names = [relative(path).removesuffix(".py").replace("/", ".") for path in modules(f"gpg_vl/{room}")]
    loaded = imported_by(*(name.removesuffix(".__init__") for name in names if not name.endswith("__main__")))
    assert "gpg_vl" in loaded
    assert loaded & HEAVY == set()
