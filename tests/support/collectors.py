"""A collector on the real stream, whose engine and scorer answer from a list: the test decides what a group earns.

Groups of two completions of unlike lengths. ``outcomes`` says of each prompt, in the order of draw, whether its group
has signal, is silent, or cannot be scored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from gpg_vl.collect import Collector, gather_collected
from gpg_vl.config import DataConfig, ObjectiveConfig, Recipe, RewardsConfig, RolloutConfig, RunConfig
from gpg_vl.data.images import BadImage
from gpg_vl.data.sources import Source
from gpg_vl.data.stream import SampleStream
from gpg_vl.draws import Draws
from gpg_vl.objectives import build_objective
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.pulse import PULSE, Beat
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.records import CollectedGroups, Completion, Prompt, Reward, RolloutGroup, Sample, ScoredGroup
from gpg_vl.run.progress import Progress
from gpg_vl.run.record import Record
from gpg_vl.tasks import TASKS
from tests.support.hostile_groups import group as make_group

Outcome = Literal["signal", "silent", "failure", "bad image"]
NUM_SAMPLES = 60
SEED = 3


def make_stream() -> SampleStream:
    samples = [Sample(f"s{number}", "counting", (), "How many?", "4") for number in range(NUM_SAMPLES)]
    return SampleStream([Source("rows", 1.0, samples)], SEED)


def ids_in_order(count: int) -> list[str]:
    """What a run draws, whatever it does with it."""
    return [sample.id for sample in make_stream().draw(count)]


def lengths(sample_id: str) -> tuple[int, int]:
    """Tokens of the two completions of the sample's group."""
    number = int(sample_id[1:])
    return 1 + number % 3, 2 + number % 5


class Answers:
    """Stands in for the prompt builder, the engine and the scorer."""

    def __init__(self, outcomes: Sequence[Outcome]):
        self._outcomes = dict(zip(ids_in_order(len(outcomes)), outcomes, strict=True))
        self.seeds: list[tuple[object, ...]] = []
        self._is_synced = False
        self.is_answered = True  # what has begun
        self.num_dropped = 0
        self.beats: list[Beat] = []  # when a prompt is built

    def expect(self, samples: Sequence[Sample]) -> None:
        pass

    def build(self, sample: Sample) -> Prompt:
        self.beats.append(PULSE.last)
        if self._outcomes[sample.id] == "bad image":
            raise BadImage(f"{sample.id}: no image")
        return make_group("", sample_id=sample.id).prompt

    @contextmanager
    def sync_weights(self) -> Iterator[None]:
        self._is_synced = True
        yield
        self._is_synced = False

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Any, seeds: Sequence[Any], keep_log_probs: bool
    ) -> list[RolloutGroup]:
        assert self._is_synced
        self.seeds += seeds
        return [
            RolloutGroup(prompt, tuple(Completion((5,) * n, "", finished=True) for n in lengths(prompt.sample.id)))
            for prompt in prompts
        ]

    def begin(self, *words: Any) -> None:
        self.begun = self.generate(*words)

    def wait(self) -> bool:
        return self.is_answered

    def take(self) -> list[RolloutGroup]:
        return self.begun

    def drop(self) -> None:
        self.num_dropped += 1

    def score(self, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        return [ScoredGroup(g.prompt, g.completions, self._rewards(g.prompt.sample.id)) for g in groups]

    def _rewards(self, sample_id: str) -> tuple[Reward, Reward]:
        outcome = self._outcomes[sample_id]
        if outcome == "failure":
            return Reward(0.0, {}, "timeout"), Reward(1.0, {}, "ok")
        return Reward(1.0, {}, "ok"), Reward(0.0 if outcome == "signal" else 1.0, {}, "ok")


def make_collector(
    outcomes: Sequence[Outcome],
    accelerator: Accelerator,
    prompts_per_step: int,
    beta_th: float,
    max_draws: int = 20,
    on_error: Literal["zero", "drop_group"] = "zero",
    ahead: int = 0,
) -> tuple[Collector, Answers]:
    objective = ObjectiveConfig(beta_th=beta_th, max_draws=max_draws)
    recipe = Recipe(
        data=DataConfig(on_bad_image="skip"),
        rewards=RewardsConfig(on_error=on_error),
        rollout=_rollout(prompts_per_step, ahead),
        objective=objective,
        run=RunConfig(seed=SEED),
    )
    answers: Any = Answers(outcomes)
    stages = (build_objective(objective), make_stream(), answers, answers, answers, answers)
    return Collector(recipe, *stages, accelerator), answers


def _rollout(prompts_per_step: int, ahead: int) -> RolloutConfig:
    served: dict[str, Any] = {"engine": "vllm", "importance": "token", "ahead": 1} if ahead else {}
    return RolloutConfig(prompts_per_step=prompts_per_step, group_size=2, **served)


def make_draws(collector: Collector, steps: int) -> Draws:
    """The draws of a run that has taken no step yet."""
    recipe, record = collector._recipe, Record(collector._recipe, collector._objective, 0, is_main=False)
    return Draws(recipe, collector, collector._stream, Progress(RunConfig(steps=steps, eval_every=0), []), record)


def finish_step(draws: Draws, step: int) -> None:
    draws._progress.finish_step(step, *draws.position, 1.0)


def ids(groups: Sequence[Any]) -> list[str]:
    return [group.prompt.sample.id for group in groups]


def describe(collected: CollectedGroups) -> dict[str, Any]:
    """What this rank holds, and what all of them log."""
    logged = gather_collected(collected, TASKS)
    return {
        "groups": ids(collected.groups),
        "trained": ids(collected.trained),
        "dropped": ids(collected.dropped),
        "totals": {name: getattr(collected.totals, name) for name in collected.totals.__slots__},
        "alpha": collected.totals.alpha,
        "draws": collected.num_draws,
        "logged": [[group.sample_id, group.is_trained] for group in logged.groups],
        "logged_dropped": [[group.sample_id, group.is_trained] for group in logged.dropped],
    }


def _describe_steps(draws: Draws, answers: Answers, rank: int) -> Any:
    """Three steps; what was begun for the last of them was not answered on the second rank."""
    steps = []
    for step in (1, 2, 3):
        answers.is_answered = (step, rank) != (3, 1)
        collected = draws.collect(step)
        draws.begin(step + 1)
        steps.append({**describe(collected), "staleness": collected.staleness, "drawn": draws.position[0]["drawn"]})
        finish_step(draws, step)
    return steps


def collect_on_two_ranks(outcomes: list[Outcome], **options: Any) -> list[dict[str, Any]]:
    """What this file, run on two ranks with ``options``, prints."""
    script = Path(__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    words = json.dumps({"outcomes": outcomes, **options})
    environment = {"PYTHONPATH": str(script.parents[2]), "ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(
        [*command, words], capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


def main() -> None:
    """``torchrun collectors.py JSON``: prints what every rank collected, as one line of the first one."""
    accelerator = start_ranks()
    options = json.loads(sys.argv[1])
    collector, answers = make_collector(accelerator=accelerator, **options)
    if options.get("ahead"):
        found = gather_object([_describe_steps(make_draws(collector, 3), answers, accelerator.process_index)])
    else:
        found = gather_object([describe(collector.collect(1))])
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps(found) + "\n")
    end_ranks()


if __name__ == "__main__":
    main()
