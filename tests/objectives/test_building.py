"""From ``objective:`` of a recipe to an objective: names, keys, defaults, forms, and a user's own file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import ObjectiveConfig
from gpg_vl.objectives import KEYS_OF_ALL, OBJECTIVES, build_objective, read_values
from gpg_vl.objectives.base import Objective, defaults_of
from gpg_vl.recipes import load_recipe
from tests.support.messages import naming
from tests.support.written import Numbers

OTHER_VALUES: dict[str, Any] = {
    "f_norm": "std",
    "f_norm_eps": 1e-3,
    "alpha": False,
    "alpha_eps": 1e-5,
    "reduction": "sequence_sum",
    "completions_per_pass": 2,
    "max_length": 77,
    "kl_coefficient": 0.04,
    "clip_low": 0.11,
    "clip_high": 0.12,
    "max_ratio": 2.5,
    "gate_temperatures": (2.0, 3.0),
    "beta": 0.7,
    "eta": 0.8,
    "anchor": "reference",
    "pairs": "first",
    "accept_above": 0.5,
    "reward_range": (-1.0, 2.0),
    "overlong_cache": 3,
    "mask_unfinished": True,
    "discriminator_width": 3,
    "discriminator_rate": 0.5,
    "discriminator_gradient": "relaxed",
    "relaxed_temperature": 0.4,
    "spectral_norm": True,
    "beta_th": 0.3,
    "max_draws": 5,
}
SOURCES = {  # what the sources have, of the keys that an objective reads
    "gpg": {"f_norm": "one", "f_norm_eps": 0, "alpha": True, "reduction": "group", "beta_th": 0.6, "max_draws": 20},
    "reinforce": {"reduction": "group"},
    "rloo": {"clip_low": 0.2, "clip_high": 0.2},
    "grpo": {"f_norm": "std", "f_norm_eps": 1e-4, "reduction": "sequence", "clip_low": 0.2, "clip_high": 0.2},
    "dr_grpo": {"clip_low": 0.2, "clip_high": 0.2},
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "overlong_cache": 0, "beta_th": 1.0, "max_draws": 10},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"max_ratio": 5.0},
    "sapo": {"gate_temperatures": (1.0, 1.05)},
    "raft": {"accept_above": 0.0},
    "raft_pp": {"accept_above": 0.0, "clip_low": 0.2, "clip_high": 0.2},
    "reinforce_rej": {"clip_low": 0.2, "clip_high": 0.2, "max_ratio": 3.0},
    "gvpo": {"beta": 0.1, "anchor": "old"},
    "em_pg": {"form": "centred"},
    "agpo": {"f_norm_eps": 1e-4, "clip_low": 0.2, "clip_high": 0.2},
    "copg": {"beta": 0.06, "pairs": "all"},
    "rebel": {"eta": 1.0, "anchor": "old"},
    "apa": {"beta": 0.1},
    "gapo": {"f_norm": "one", "clip_low": 0.2, "clip_high": 0.2},
    "supervised": {},
}


def config_of(name: str, **keys: Any) -> ObjectiveConfig:
    return ObjectiveConfig(name=name, **keys)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_key_that_the_objective_does_not_read_is_refused_by_name(name: str, key: str) -> None:
    config = config_of(name, **{key: OTHER_VALUES[key]})
    if key in OBJECTIVES[name].keys | KEYS_OF_ALL:
        assert getattr(build_objective(config, 8).config, key) == OTHER_VALUES[key]
    else:
        with pytest.raises(ValueError, match=naming(f"objective.{key}", name)) as refusal:
            build_objective(config, 8)
        readers = [each for each in OBJECTIVES if key in OBJECTIVES[each].keys]
        assert str(refusal.value).endswith(", ".join(readers))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_form_that_there_is_not_is_refused_with_those_that_there_are(name: str) -> None:
    objective = OBJECTIVES[name]
    with pytest.raises(ValueError, match=naming("objective.form", name, *objective.forms)):
        build_objective(config_of(name, form="paperr"), 8)
    for form in objective.forms:
        assert build_objective(config_of(name, form=form), 8).config.form == form
    assert bool(objective.forms) == ("form" in objective.keys)


def test_every_key_is_read_by_some_objective() -> None:
    known = {field.name for field in dataclasses.fields(ObjectiveConfig)} - {"name", "form"}
    assert set(OTHER_VALUES) == known
    assert set().union(*(objective.keys for objective in OBJECTIVES.values())) | KEYS_OF_ALL == known | {"name", "form"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_key_that_is_left_open_has_the_source_s_value(name: str) -> None:
    config = build_objective(config_of(name), 8).config
    assert {key: getattr(config, key) for key in SOURCES[name]} == SOURCES[name]
    unset = {key for key in OBJECTIVES[name].keys if getattr(config, key) is None}
    assert unset <= {"completions_per_pass", "reward_range"}, "these have a meaning when they are left open"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_of_keys_that_there_are(name: str) -> None:
    assert set(defaults_of(OBJECTIVES[name])) <= {field.name for field in dataclasses.fields(ObjectiveConfig)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gpg_s_own_value_of_a_key_is_refused_where_it_would_have_no_effect(name: str) -> None:
    """``f_norm: one`` would not make DAPO leave its std out."""
    for key, value in {"f_norm": "one", "f_norm_eps": 0.0, "alpha": True, "reduction": "group"}.items():
        if key not in OBJECTIVES[name].keys:
            with pytest.raises(ValueError, match=naming(f"objective.{key}", name)):
                build_objective(config_of(name, **{key: value}), 8)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_read_has_a_value(name: str) -> None:
    read = read_values(config_of(name, beta_th=0.6))
    assert read["beta_th"] == 0.6
    assert set(read) == OBJECTIVES[name].keys | KEYS_OF_ALL


def test_dr_grpo_divides_by_the_longest_completion_that_may_be_sampled() -> None:
    assert build_objective(config_of("dr_grpo"), 256).config.max_length == 256
    assert build_objective(config_of("dr_grpo", max_length=99), 256).config.max_length == 99
    for keys in ({"name": "dr_grpo"}, {"name": "dapo", "overlong_cache": 4}, {"name": "gpg", "reduction": "constant"}):
        with pytest.raises(ValueError, match=naming("objective.max_length")):
            build_objective(ObjectiveConfig(**keys))


def test_unknown_objective_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=naming("objective.name", "gpgg", "supervised", "'gpg'")):
        build_objective(ObjectiveConfig(name="gpgg"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("f_norm_eps", -1e-4), ("alpha_eps", -1e-5), ("kl_coefficient", -0.1), ("clip_low", -0.1), ("clip_high", -0.1),
        ("overlong_cache", -1), ("max_ratio", 0.0), ("beta", 0.0), ("eta", 0.0), ("completions_per_pass", 0),
        ("max_length", 0), ("max_draws", 0),
        ("discriminator_width", 0), ("discriminator_rate", 0.0), ("relaxed_temperature", 0.0),
        ("gate_temperatures", (1.0, 0.0)), ("reward_range", (1.0, 1.0)),
        ("beta_th", 1.1),
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=naming(f"objective.{key}")):
        ObjectiveConfig(**{key: value})


# --- several updates of a rollout ---


@pytest.mark.parametrize("name", OBJECTIVES)
def test_reuse_is_for_objectives_that_correct_for_it(name: str) -> None:
    if name in ("gpg", "reinforce", "supervised"):
        with pytest.raises(ValueError, match=naming("update.epochs_per_rollout", name, "grpo", "gvpo")):
            build_objective(config_of(name), 8, is_reused=True)
    else:
        assert build_objective(config_of(name), 8, is_reused=True).is_reused


@pytest.mark.parametrize(
    ("keys", "alone", "reused"),
    [
        ({"name": "gpg"}, set(), None),
        ({"name": "grpo"}, set(), {"old"}),
        ({"name": "grpo", "kl_coefficient": 0.1}, {"reference"}, {"old", "reference"}),
        ({"name": "rloo", "kl_coefficient": 0.1}, {"old", "reference"}, {"old", "reference"}),
        ({"name": "raft"}, set(), set()),
        ({"name": "em_pg"}, set(), set()),
        ({"name": "gvpo"}, set(), {"old"}),
        ({"name": "gvpo", "anchor": "reference"}, {"reference"}, {"reference"}),
        ({"name": "rebel", "kl_coefficient": 0.1}, {"old", "reference"}, {"old", "reference"}),
        ({"name": "copg"}, {"reference"}, {"reference"}),
        ({"name": "apa"}, {"reference"}, {"reference"}),
    ],
)
def test_needs_follow_from_the_options(keys: dict[str, Any], alone: set[str], reused: set[str] | None) -> None:
    assert build_objective(ObjectiveConfig(**keys), 8).needs == alone
    if reused is not None:
        assert build_objective(ObjectiveConfig(**keys), 8, is_reused=True).needs == reused


def test_objectives_that_need_only_rewards_in_the_first_update() -> None:
    free = {name for name in OBJECTIVES if not build_objective(config_of(name), 8).needs}
    assert set(OBJECTIVES) - free == {"copg", "apa"}


# --- rewards out of range ---


@pytest.mark.parametrize(
    ("keys", "rewards", "is_taken"),
    [
        ({"name": "em_pg", "form": "posterior"}, (1.0, -0.1), False),
        ({"name": "em_pg", "form": "posterior"}, (1.0, 7.0), True),
        ({"name": "em_pg"}, (1.0, -0.1), True),
        ({"name": "reinforce_rej", "reward_range": (0, 1)}, (0.0, 1.2), False),
        ({"name": "reinforce_rej", "reward_range": (0, 1)}, (0.0, 1.0), True),
        ({"name": "agpo", "form": "v1", "reward_range": (0, 1)}, (-1.0, 1.0), False),
        ({"name": "agpo"}, (-1.0, 1.0), True),
        ({"name": "gpg"}, (-100.0, 100.0), True),
        ({"name": "reinforce_rej", "reward_range": (0, 1)}, (0.0, math.nan), False),
    ],
)
def test_a_reward_out_of_range_is_refused_with_its_sample(
    keys: dict[str, Any], rewards: tuple[float, float], is_taken: bool
) -> None:
    row = ((-1.0,), (-1.0,))
    group = Numbers(rewards, row, row, row).group
    objective = build_objective(ObjectiveConfig(**keys), 8)
    if is_taken:
        objective.check_rewards(group)
    else:
        with pytest.raises(ValueError, match=naming(group.prompt.sample.id, keys["name"])):
            objective.check_rewards(group)


# --- an objective of the user's own ---

OWN = """
import math
from gpg_vl.objectives.base import Objective, centred_rewards
from gpg_vl.objectives.valid_groups import has_signal

class Sign(Objective):
    keys = frozenset({"f_norm", "reduction"})
    defaults = {"reduction": "sequence"}
    min_group_size = 2

    def trains(self, group):
        return has_signal(group)

    def advantages(self, group):
        return [math.copysign(1.0, value) if value else 0.0 for value in centred_rewards(group, self.config)]

class Unfinished(Objective):
    keys = frozenset()

class Listed(Sign):
    keys = ["f_norm", "reduction"]

class Mistaken(Sign):
    keys = ["f_norm", "temprature"]

class Keyless(Objective):
    def trains(self, group):
        return True

    def advantages(self, group):
        return [1.0] * len(group.rewards)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_own_objective_by_path(own: Path) -> None:
    objective = build_objective(ObjectiveConfig(name=f"{own}:Sign"))
    assert isinstance(objective, Objective)
    assert build_objective(ObjectiveConfig(name=f"{own}:Listed", f_norm="std")).config.f_norm == "std"
    group = Numbers((1.0, 0.0, 0.4), ((-1.0, -2.0), (-1.0,), (-3.0,)), ((), (), ()), ((), (), ())).group
    assert objective.training_group(group).coefficients == ((-0.5, -0.5), (1.0,), (1.0,))
    with pytest.raises(ValueError, match=naming("objective.beta", f"{own}:Sign")):
        build_objective(ObjectiveConfig(name=f"{own}:Sign", beta=0.2))
    with pytest.raises(ValueError, match=naming("update.epochs_per_rollout", f"{own}:Sign")):
        build_objective(ObjectiveConfig(name=f"{own}:Sign"), is_reused=True)


def test_the_path_of_an_own_objective_is_made_absolute(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is saved, and read from other folders."""
    monkeypatch.chdir(own.parent)
    assert load_recipe(None, ["--objective.name", "mine.py:Sign"]).objective.name == f"{own}:Sign"
    assert load_recipe(None, ["--objective.name", "grpo"]).objective.name == "grpo"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mine.py:Other", ("mine.py", "Other")),
        ("other.py:Sign", ("other.py",)),
        ("mine.py:math", ("mine.py", "math", "gpg_vl.objectives.base.Objective")),
        ("mine.py:Unfinished", ("mine.py", "Unfinished", "advantages", "trains")),
        ("mine.py:Keyless", ("mine.py", "Keyless", "keys")),
        ("mine.py:Mistaken", ("mine.py", "Mistaken", "'temprature'")),
        ("mine.py", ("objective.name", "mine.py")),
    ],
)
def test_own_objective_that_is_none(own: Path, name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=naming(*parts)):
        build_objective(ObjectiveConfig(name=str(own.parent / name)))
