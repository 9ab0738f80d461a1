"""What a reader of a run should notice first, in a line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpg_vl.report.curves import mean_of
from gpg_vl.report.run_data import RunData
from gpg_vl.report.verdicts import follows_gold

_MOST = 0.5
_FALL = 0.05


def make_notes(run: RunData) -> list[str]:
    advice = [*_notes_on_completions(run), *_notes_on_groups(run)]
    if advice and run.agreement and not any(map(follows_gold, run.agreement)):
        advice = ["What else goes wrong, such as answers that are cut off, may come from that reward: mend it first."]
    return [*_notes_on_reward(run), *advice]


def _notes_on_reward(run: RunData) -> Iterator[str]:
    parts = [change for change in run.tasks if change["what"] == "part"]
    rewards = [change for change in run.tasks if change["what"] == "reward"]
    fallen = [each["name"] for each in parts if _change(each) < -_FALL]
    risen = [each["name"] for each in rewards if _change(each) > _FALL]
    if fallen and risen:
        yield (
            f"The reward of {_and(risen)} rose while {_and(fallen)} fell: the model may have found a way to the reward "
            "that is not the task. Look at the answers of the last steps."
        )
    elif fallen:
        yield f"{_and(fallen)} fell during the run: the reward that was followed does not teach the task."


def _notes_on_completions(run: RunData) -> Iterator[str]:
    last = _last_groups(run)
    completions = [each for group in last for each in group["completions"]]
    if not completions:
        return
    cut = mean_of(float(not each["finished"]) for each in completions) or 0.0
    unreadable = mean_of(float(each["status"] == "unparsable") for each in completions) or 0.0
    if cut > _MOST:
        yield f"{cut:.0%} of the last completions were cut off: raise rollout.max_new_tokens."
    if unreadable > _MOST:
        yield f"{unreadable:.0%} of the last completions have no readable answer: see prompt.template."


def _notes_on_groups(run: RunData) -> Iterator[str]:
    last = _last_groups(run)
    for kind, advice in (("easy", "take harder rows"), ("hard", "take easier rows, or a larger rollout.group_size")):
        share = mean_of(float(group["kind"] == kind) for group in last) or 0.0
        if share > _MOST:
            yield f"{share:.0%} of the last groups are {kind}, without signal: {advice}."
    if last and all(group["num_answers"] == 1 for group in last):
        yield "All answers to a prompt are the same in the last groups: raise rollout.temperature."


def _last_groups(run: RunData) -> Sequence[Mapping[str, Any]]:
    last_step = max((group["step"] for group in run.groups), default=0)
    return [group for group in run.groups if group["step"] == last_step]


def _change(change: Mapping[str, Any]) -> float:
    return 0.0 if change["first"] is None or change["last"] is None else float(change["last"] - change["first"])


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
