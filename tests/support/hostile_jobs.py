"""Jobs of the scoring pool whose answers say how the task misbehaves."""

from __future__ import annotations

from pathlib import Path

from gpg_vl.records import Sample
from gpg_vl.rewards.pool import Outcome, ScoringPool, TaskJob

HOSTILE = f"{Path(__file__).with_name('hostile_rewards.py')}:Hostile"


def job(*answers: str, task: str = HOSTILE) -> TaskJob:
    texts = tuple(f"<think></think><answer>{answer}</answer>" for answer in answers)
    return TaskJob(task, Sample("s1", task, (), "What?", "4"), (), texts, {})


def run(pool: ScoringPool, *answers: str) -> list[Outcome]:
    [outcomes] = pool.run([job(*answers)])
    assert all(outcome is not None for outcome in outcomes)
    return outcomes  # type: ignore[return-value]
