"""Recipes in layers, and the explanation of every key."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

from gpg_vl import cli
from gpg_vl.config import Recipe
from gpg_vl.recipe_aliases import OTHER_NAMES
from gpg_vl.recipes import KNOWN_KEYS, describe_keys, load_recipe
from gpg_vl.run.saved_recipe import read_recipe
from tests.support.messages import lines_naming, naming


def test_help_explains_every_key_in_a_line() -> None:
    """An entry is the key, as each version of Python writes options, and its explanation behind two spaces or more."""
    entries = re.split(r"\n  (?=--)", describe_keys())
    for key in KNOWN_KEYS:
        [entry] = [entry for entry in entries if re.match(rf"--{re.escape(key)}[ ,]", entry)]
        explanation = " ".join(re.split(r"\s{2,}", entry, maxsplit=1)[1].split("(type:")[0].split())
        assert len(explanation) > 10, key
        assert not re.search(r"--\w", explanation), f"{key}: the options themselves were read as the explanation"


def test_a_later_recipe_holds_the_keys_in_which_it_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("rollout: {group_size: 4, max_new_tokens: 9}\nrun: {steps: 5, seed: 3}\n")
    other.write_text("rollout: {max_new_tokens: 7}\nrun: {steps: 6}\n")
    recipe = load_recipe([str(one), str(other)], ["--run.seed", "8"])
    assert (recipe.rollout.group_size, recipe.rollout.max_new_tokens) == (4, 7)
    assert (recipe.run.steps, recipe.run.seed) == (6, 8)


def test_train_names_the_recipe_with_the_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("run: {steps: 5}\n")
    other.write_text("run: {step: 6}\n")
    assert cli.main(["train", str(one), str(other)]) == 2
    assert lines_naming(capsys.readouterr().err, other, "run.step", "run.steps")


# --- values and names ------------------------------------------------------------------------------------------------


def load_text(folder: Path, text: str, *words: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(str(path), words)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("model: {dtype: fp8}", [], "model.dtype is fp8; choose float32 or bfloat16"),
        ("{}", ["--model.dtype", "fp8"], "model.dtype is fp8; choose float32 or bfloat16"),
        ("{}", ["--model.dtype=int4"], "model.dtype is int4; choose float32 or bfloat16"),
        ("run: {steps: many}", [], "run.steps is many; give a whole number"),
        ("run: {steps: 1.5}", [], "run.steps is 1.5; give a whole number"),
        ("run: {steps: 2}", ["--run.steps", "1e3x"], "run.steps is 1e3x; give a whole number"),
        ("run: {steps: null}", [], "run.steps is null; give a whole number"),
        ("run: {resume: yes}", [], "run.resume is true; choose auto or never"),
        ("update: {learning_rate: high}", [], "update.learning_rate is high; give a number"),
        ("update: {betas: 3}", [], "update.betas is 3; give a list of two numbers"),
        ("data: {train: 3}", [], "data.train is 3; give a list"),
        ("data: {train: null}", [], "data.train is null; give a list"),
        ("model: {path: [a]}", [], 'model.path is ["a"]; give a text'),
        ("model: {lora: {r: few}}", [], "model.lora.r is few; give a whole number"),
        ("{}", ["--model.lora.r", "few"], "model.lora.r is few; give a whole number"),
        ("model: {gradient_checkpointing: 3}", [], "model.gradient_checkpointing is 3; give true or false"),
        ("objective: {f_norm: two}", [], "objective.f_norm is two; choose one or std, or null"),
        ("rewards: {weights: 1}", [], "rewards.weights is 1; give a mapping of names to values"),
        ("task: 3", [], "task is 3; give a text, or null"),
        ("rollout: {temperature: .inf}", [], "rollout.temperature is inf; give a finite number, at most 1e+30"),
        (
            "evaluation: {num_samples: 2, temperature: .inf}",
            [],
            "evaluation.temperature is inf; give a finite number, at most 1e+30",
        ),
        ("update: {learning_rate: 1e39}", [], "update.learning_rate is 1e+39; give a finite number, at most 1e+30"),
        ("update: {learning_rate: .inf}", [], "update.learning_rate is inf; give a finite number, at most 1e+30"),
        (
            "update: {learning_rates: {text: .inf}}",
            [],
            "update.learning_rates is inf; give a finite number, at most 1e+30",
        ),
        ("update: {max_grad_norm: .nan}", [], "update.max_grad_norm must be positive"),
        (
            "objective: {reward_range: [0, .inf]}",
            [],
            "objective.reward_range is inf; give a finite number, at most 1e+30",
        ),
        (f"run: {{seed: {10**23}}}", [], "run.seed must have at most 64 bits: from -2^63 to 2^64 - 1"),
    ],
)
def test_a_wrong_value_is_told_what_it_can_be(tmp_path: Path, text: str, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        load_text(tmp_path, text, *words)
    assert str(raised.value) == said


@pytest.mark.parametrize("port", ["0", "00000", "65536", "99999"])
def test_a_servers_port_is_one(tmp_path: Path, port: str) -> None:
    with pytest.raises(ValueError, match=naming("rollout.vllm.servers", port, 65535)):
        load_text(tmp_path, f"rollout: {{vllm: {{servers: ['http://127.0.0.1:{port}']}}}}")
    servers = ["http://node-1:1", "http://[::1]:65535"]
    assert load_text(tmp_path, f"rollout: {{vllm: {{servers: {servers}}}}}").rollout.vllm.servers == servers


@pytest.mark.parametrize("seconds", [".inf", "1.0e+20", "86401", "0", "-1", ".nan"])
def test_an_answer_takes_less_than_a_day(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(ValueError, match=r"rollout\.vllm"):
        load_text(tmp_path, f"rollout: {{vllm: {{timeout_s: {seconds}}}}}")
    assert load_text(tmp_path, "rollout: {vllm: {timeout_s: 86400}}").rollout.vllm.timeout_s == 86400


def test_short_forms_and_one_where_a_list_is_meant(tmp_path: Path) -> None:
    recipe = load_text(
        tmp_path,
        "model: {dtype: bf16, freeze: vision, lora: null}\ndata: {train: a.jsonl, eval: {path: b.jsonl, weight: 1}}\n"
        "rewards: {functions: f.py:g}\nrun: {trackers: tensorboard}\n"
        "update: {learning_rate: 1e-6, max_grad_norm: .inf}",
    )
    assert recipe.model.dtype == "bfloat16" and recipe.model.freeze == ["vision"]
    assert recipe.data.train == ["a.jsonl"] and recipe.data.eval == [{"path": "b.jsonl", "weight": 1}]
    assert recipe.rewards.functions == ["f.py:g"] and recipe.run.trackers == ["tensorboard"]
    assert recipe.update.learning_rate == 1e-6
    words = ["--model.dtype=fp32", "--data.train", "c.jsonl", "--model.lora", "{parts: text}", "--data.eval=[d.jsonl]"]
    recipe = load_text(tmp_path, "model: {dtype: bf16}", *words)
    assert recipe.model.dtype == "float32" and recipe.data.train == ["c.jsonl"] and recipe.data.eval == ["d.jsonl"]
    assert recipe.model.lora is not None and recipe.model.lora.parts == ["text"]


@pytest.mark.parametrize("said", ["on", "off", "auto"])
def test_on_and_off_are_words_whatever_yaml_reads(tmp_path: Path, said: str) -> None:
    for recipe in (
        load_text(tmp_path, f"prompt: {{thinking: {said}}}"),
        load_text(tmp_path, f"prompt: {{thinking: '{said}'}}"),
        load_text(tmp_path, "{}", "--prompt.thinking", said),
        load_text(tmp_path, "{}", f"--prompt.thinking={said}"),
    ):
        assert recipe.prompt.thinking == said
        (tmp_path / "saved.yaml").write_text(yaml.safe_dump(recipe.to_plain()))
        assert load_recipe(str(tmp_path / "saved.yaml")) == recipe


def test_other_words_change_no_recipe_of_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe in other words reaches the parser as text, which must mean the same as the file."""
    paths = sorted((Path(__file__).parents[1] / "scripts/recipes").rglob("*.yaml"))
    as_written = [load_recipe(str(path)) for path in paths]
    monkeypatch.setattr("gpg_vl.recipes._config_word", lambda path, keys: yaml.safe_dump(keys, sort_keys=False))
    assert len(paths) > 12
    assert [load_recipe(str(path)) for path in paths] == as_written


@pytest.mark.parametrize(
    ("text", "name", "key"),
    [
        ("num_generations: 8", "num_generations", "rollout.group_size"),
        ("rollout: {num_generations: 8}", "rollout.num_generations", "rollout.group_size"),
        ("rollout: {n: 8}", "rollout.n", "rollout.group_size"),
        ("actor_rollout_ref: {rollout: {n: 8}}", "actor_rollout_ref.rollout.n", "rollout.group_size"),
        ("worker: {actor: {optim: {lr: 1.0e-6}}}", "worker.actor.optim.lr", "update.learning_rate"),
        ("data: {max_response_length: 9}", "data.max_response_length", "rollout.max_new_tokens"),
        ("max_completion_length: 9", "max_completion_length", "rollout.max_new_tokens"),
        ("objective: {beta: 0.1, kl_coef: 0.1}", "objective.kl_coef", "objective.kl_coefficient"),
        ("trainer: {total_epochs: 3}", "trainer.total_epochs", "run.steps"),
        ("learning_rate: 1.0e-6", "learning_rate", "update.learning_rate"),
        ("group_size: 8", "group_size", "rollout.group_size"),
    ],
)
def test_names_of_other_kits_are_answered(tmp_path: Path, text: str, name: str, key: str) -> None:
    with pytest.raises(ValueError, match=naming("recipe.yaml", name, key)):
        load_text(tmp_path, text)


def test_every_other_name_leads_to_a_key() -> None:
    lora = [f"model.lora.{name}" for name in ("r", "alpha", "target_modules", "quantize")]
    assert {key for key in OTHER_NAMES.values() if key not in (*KNOWN_KEYS, *lora)} == set()
    assert [name for name in OTHER_NAMES if name in KNOWN_KEYS] == []


def test_an_option_of_another_kit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming("--max_steps", "run.steps")):
        load_text(tmp_path, "{run: {steps: 1}}", "--max_steps", "4")
    with pytest.raises(ValueError, match=naming("nothing_like_it")) as raised:
        load_text(tmp_path, "nothing_like_it: {a: 1}")
    assert "here it is" not in str(raised.value)


def test_the_result_of_recipe_and_options_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {dtype: bf16}\ndata: {train: a.jsonl}\n")
    assert cli.main(["train", str(path), "--run.steps", "3", "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_recipe(str(printed)) == load_recipe(str(path), ["--run.steps", "3"])
    (tmp_path / "config.json").write_text("{}")
    words = ["eval", str(tmp_path), "--data", "b.jsonl", "--evaluation.limit", "2", "--recipe", str(path)]
    assert cli.main([*words, "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["evaluation"]["limit"], shown["data"]["eval"], shown["model"]["path"]) == (
        2,
        ["b.jsonl"],
        str(tmp_path),
    )


def test_a_recipe_that_is_not_there_is_told_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=naming("none.yaml", tmp_path)):
        load_recipe("none.yaml")


def bomb(depth: int = 9) -> str:
    """Some hundred bytes whose aliases would make a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "run: &a {steps: 5}\nrollout: *a\n",
        "run: &a\n  <<: *a\n",
        "run: " + "[" * 3000,
        "run: " + "{a: " * 3000,
        "run: {steps: 5}\n#" + "x" * 2**18,
        "run: !!python/object/apply:os.system ['true']\n",
        "run: {steps: 5}\n---\nrun: {steps: 6}\n",
        "\x00",
        "2001-99-99",
    ],
    ids=["bomb", "alias", "merge", "brackets", "braces", "large", "python", "two", "zero", "date"],
)
def test_a_recipe_is_small_and_plain_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.monotonic()
    for read in (lambda: load_recipe(str(path)), lambda: read_recipe(path)):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_tasks_of_ones_own_are_lasting_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("tasks: [a.py:A, sub/b.py:B]\n")
    assert load_recipe("recipe.yaml").tasks == [f"{tmp_path}/a.py:A", f"{tmp_path}/sub/b.py:B"]
    assert load_recipe(None, ["--tasks", "[c.py:C]"]).tasks == [f"{tmp_path}/c.py:C"]
