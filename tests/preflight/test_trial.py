"""Mistakes in tasks and reward functions end the start in one line, with the user's file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import DataConfig, ModelConfig, ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig
from gpg_vl.data.sources import Source, write_jsonl
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.objectives import build_objective
from gpg_vl.preflight.sources import CheckedSources, load_all_sources
from gpg_vl.preflight.trial import try_model, try_rewards
from gpg_vl.records import Sample
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.tasks import load_task
from tests.support.builders import png
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]

TASK = """
from gpg_vl.tasks.base import FORMAT_REQUEST, Task

class Own(Task):
    name = "own"
    weights = {"correct": 1.0, "close": 0.5, "format": 0.2}

    def ask(self, sample, views):
        return ASK

    def read(self, answer, sample, views):
        return READ

    def score(self, answer, sample, views):
        return SCORE

    def gold(self, sample, views):
        return GOLD
"""
SOUND = {
    "ASK": "f'{sample.question} {FORMAT_REQUEST}'",
    "READ": "answer or None",
    "SCORE": "{'correct': float(answer == sample.answer), 'close': 0.5}",
    "GOLD": "sample.answer",
}
LINES = {"ASK": 9, "READ": 12, "SCORE": 15, "GOLD": 18}
"""Of what each name stands for in the file."""


def write_task(folder: Path, **changes: str) -> str:
    text = TASK
    for name, code in {**SOUND, **changes}.items():
        text = text.replace(name, code) if name != "ASK" else text.replace("return ASK", f"return {code}")
    path = folder / "own.py"
    path.write_text(text)
    return f"{path}:Own"


def try_out(load: LoadModel, folder: Path, task: str, functions: tuple[str, ...] = (), rows: int = 3) -> None:
    picture = folder / "1.png"
    picture.write_bytes(png(84, 84))
    samples = [Sample(f"r{n}", task, (str(picture),), "How many?", str(n), {"hue": "red"}) for n in range(rows)]
    write_jsonl(samples, folder / "rows.jsonl")
    recipe = Recipe(
        model=ModelConfig(path="tiny"),
        data=DataConfig(train=[str(folder / "rows.jsonl")]),
        rewards=RewardsConfig(functions=[f"{folder}/{spec}" for spec in functions]),
        rollout=RolloutConfig(group_size=4, max_new_tokens=8),
        tasks=[task] if task.endswith(":Own") else [],
    )
    with Scorer(recipe.rewards) as scorer:
        try_rewards(recipe, load_all_sources(recipe), load(), scorer)


def test_sound_code_passes(load: LoadModel, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "def f(prompts, completions, completion_ids, hue, answer, trainer_state, log_metric, **kwargs):\n"
        "    assert len(prompts) == len(completions) == len(completion_ids) == 4 and hue == ['red'] * 4\n"
        "    texts = [messages[0]['content'] for messages in completions]\n"
        "    assert all(ids for ids in completion_ids) and trainer_state.global_step == 0\n"
        "    return [float(f'<answer>{answer[0]}</answer>' in text) for text in texts]\n"
    )
    try_out(load, tmp_path, write_task(tmp_path), ("f.py:f",))


@pytest.mark.parametrize(
    ("place", "code", "named"),
    [
        ("SCORE", "{'correct': 2.0 * (answer == sample.answer), 'close': 0}", ["correct", "2.0"]),
        ("SCORE", "{'correct': -1.0 if answer == sample.answer else 0.0, 'close': 0}", ["correct", "-1.0"]),
        ("SCORE", "{'correct': 0.0 if answer == sample.answer else 7, 'close': 0}", ["correct", "7.0"]),
        ("SCORE", "{'correct': float('nan'), 'close': 0}", ["correct", "nan"]),
        ("SCORE", "{'correct': '1', 'close': 0}", ["correct", "str"]),
        ("SCORE", "{'correct': 1, 'far': 0}", ["far", "weights"]),
        ("SCORE", "{'close': 1}", ["correct"]),
        ("SCORE", "1.0", ["float", "dict"]),
        ("SCORE", "{'correct': sample.meta['hew'], 'close': 0}", ["KeyError", "hew"]),
        ("SCORE", "{'correct': exit(3), 'close': 0}", ["SystemExit"]),
        ("READ", "int(answer.strip('r')) / 0", ["ZeroDivisionError"]),
        ("ASK", "sample.queston", ["AttributeError", "queston"]),
        ("ASK", "None", ["NoneType", "ask"]),
        ("GOLD", "sample.meta['gold']", ["KeyError", "gold"]),
    ],
)
def test_mistakes_of_a_task(load: LoadModel, tmp_path: Path, place: str, code: str, named: list[str]) -> None:
    task = write_task(tmp_path, **{place: code})
    with pytest.raises(ValueError, match=naming("own.py", *named)) as raised:
        try_out(load, tmp_path, task)
    text = str(raised.value)
    assert "\n" not in text and len(text) < 500
    is_of_a_line = any(name.endswith("Error") or name == "SystemExit" for name in named)
    assert f"(own.py:{LINES[place] - (not is_of_a_line)})" in text, text


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def f(completions, **k): return [1.0]", ["f", 1, 4]),
        ("def f(completions, **k): return [float('inf')] * 4", ["f", "inf"]),
        ("def f(completions, **k): return ['good'] * 4", ["f", "str"]),
        ("def f(completions, **k): return 1.0", ["f", "float"]),
        ("def f(completions, colour, **k): return [1.0] * 4", ["f", "colour", "hue"]),
        ("def f(completions, prompts, extra=1, *, key): return [1.0] * 4", ["f", "key"]),
        ("def f(completions, **k): return [c['content'] for c in completions]", ["f", "TypeError"]),
        ("def f(completions, **k): raise RuntimeError('boom')", ["f", "RuntimeError", "boom"]),
        ("def f(completions, **k):\n    import no_such_library", ["f", "ModuleNotFoundError", "no_such_library"]),
    ],
)
def test_mistakes_of_a_reward_function(load: LoadModel, tmp_path: Path, code: str, named: list[object]) -> None:
    (tmp_path / "rew.py").write_text(code)
    with pytest.raises(ValueError, match=naming("reward function", "sample", *named)) as raised:
        try_out(load, tmp_path, "counting", ("rew.py:f",))
    assert f"(rew.py:{1 + code.count(chr(10))})" in str(raised.value)


def test_a_row_alone_is_no_obstacle(load: LoadModel, tmp_path: Path) -> None:
    """There is no other answer to take for a wrong one."""
    try_out(load, tmp_path, write_task(tmp_path), rows=1)


def test_every_source_is_tried(load: LoadModel, tmp_path: Path) -> None:
    """A column that a function asks for may be in the first file alone."""
    for name, meta in (("a", {"hue": "red"}), ("b", {})):
        samples = [Sample(f"{name}{n}", "counting", (), "How many?", str(n), meta) for n in range(3)]
        write_jsonl(samples, tmp_path / f"{name}.jsonl")
    (tmp_path / "rew.py").write_text("def f(completions, hue): return [1.0] * len(completions)")
    recipe = Recipe(
        data=DataConfig(train=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]),
        rewards=RewardsConfig(functions=[f"{tmp_path}/rew.py:f"]),
    )
    with Scorer(recipe.rewards) as scorer, pytest.raises(ValueError, match=naming("sample b0", "hue")):
        try_rewards(recipe, load_all_sources(recipe), load(), scorer)


def test_a_broken_image_is_passed_over(load: LoadModel, tmp_path: Path) -> None:
    """``data.on_bad_image`` says what it means; the next row is tried."""
    (tmp_path / "rew.py").write_text("def f(completions, id): raise RuntimeError(id[0])")
    samples = [
        Sample(f"r{n}", "counting", (b"broken",) if n < 2 else (png(84, 84),), "How many?", str(n)) for n in range(4)
    ]
    recipe = Recipe(rewards=RewardsConfig(functions=[f"{tmp_path}/rew.py:f"]))
    checked = CheckedSources([Source("rows", 1.0, samples)], {"counting": load_task("counting")}, [""])
    with Scorer(recipe.rewards) as scorer, pytest.raises(ValueError, match=naming("RuntimeError: r2", "rew.py:1")):
        try_rewards(recipe, [checked], load(), scorer)


@pytest.mark.parametrize(
    ("config", "value", "is_refused"),
    [
        (ObjectiveConfig(name="em_pg", form="posterior"), -1.5, True),
        (ObjectiveConfig(name="em_pg", form="posterior"), 0.5, False),
        (ObjectiveConfig(name="reinforce_rej", reward_range=(0.0, 1.2)), 0.5, True),
        (ObjectiveConfig(name="reinforce_rej", reward_range=(0.0, 2.0)), 0.5, False),
        (ObjectiveConfig(name="agpo", form="v1", reward_range=(0.0, 1.2)), 0.5, True),
        (ObjectiveConfig(name="gpg"), -1.5, False),
    ],
)
def test_a_function_that_leaves_the_range_of_an_objective(
    model_folders: dict[str, Path], tmp_path: Path, config: ObjectiveConfig, value: float, is_refused: bool
) -> None:
    """What functions return is not declared, so the rewards of the made-up completions tell; of every source."""
    (tmp_path / "f.py").write_text(f"def f(completions, id, **_): return [{value} * (i == 'b0') for i in id]")
    sources = [
        Source(name, 0.5, [Sample(f"{name}{n}", "counting", (png(84, 84),), "How many?", str(n)) for n in range(2)])
        for name in "ab"
    ]
    checked = CheckedSources(sources, {"counting": load_task("counting")}, ["", ""])
    model = ModelConfig(path=str(model_folders["qwen2_vl"]))
    recipe = Recipe(model=model, rewards=RewardsConfig(functions=[f"{tmp_path}/f.py:f"]), objective=config)
    with Scorer(recipe.rewards) as scorer:
        if is_refused:
            with pytest.raises(ValueError, match=naming("sample b0", config.name)):
                try_model(recipe, model.path, [checked], scorer, build_objective(config))
        else:
            try_model(recipe, model.path, [checked], scorer, build_objective(config))


OBJECTIVE = """
from gpg_vl.objectives.gpg import Gpg

class Own(Gpg):
    def advantages(self, group):
        return [reward.parts["correct"] / reward.parts[PART] for reward in group.rewards]
"""


def test_an_own_objective_is_tried_with_the_parts_of_a_run(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Those of the task, and those that a model gives, which is not loaded yet."""
    samples = [Sample(f"r{n}", "counting", (png(84, 84),), "How many?", str(n)) for n in range(3)]
    checked = CheckedSources([Source("rows", 1.0, samples)], {"counting": load_task("counting")}, [""])
    model, rewards = ModelConfig(path=str(model_folders["qwen2_vl"])), RewardsConfig(preference="head")
    with Scorer(rewards) as scorer:
        for part in ("preference", "other"):
            (tmp_path / f"{part}.py").write_text(OBJECTIVE.replace("PART", repr(part)))
            recipe = Recipe(model=model, rewards=rewards, objective=ObjectiveConfig(name=f"{tmp_path}/{part}.py:Own"))
            objective = build_objective(recipe.objective)
            if part == "preference":
                try_model(recipe, model.path, [checked], scorer, objective)
            else:
                with pytest.raises(ValueError, match=naming("objective.name", "KeyError", "other.py:6")):
                    try_model(recipe, model.path, [checked], scorer, objective)
