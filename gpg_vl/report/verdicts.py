"""What a run has learnt, in a line for each task: the reward beside answers that agree with the gold ones.

Where both rise, it has learnt; where the reward rises alone, it is earned in another way. A reward that goes to right
answers no more than to others of their group, as in a control with shuffled rewards, teaches nothing of the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpg_vl.report.run_data import RunData

_CHANGE = 0.05
_LEARNT = 0.75
"""Share of the last answers that agree from which on a task counts as learnt."""
_LEAST_GAIN = 0.25
"""Share of the spread of a group's rewards that right answers earn more than others, if the reward is about them."""
_LEAST_GROUPS = 20
"""Below which it is not judged whether the reward goes to right answers."""
_LEAST_AT_ENDS = 10
"""Groups below which a reward that rises without right answers is not called gamed."""


def make_verdicts(run: RunData) -> list[str]:
    return [f"{each['task']}: {_describe(each)}" for each in run.agreement]


def _describe(agreement: Mapping[str, Any]) -> str:
    numbers = (
        f"in the recorded steps, reward {agreement['reward_first']:.2f} to {agreement['reward_last']:.2f}, "
        f"answers that agree with the gold ones {_percent(agreement['first'])} to {_percent(agreement['last'])}."
    )
    return " ".join([numbers, *_judge(agreement)])


def _judge(agreement: Mapping[str, Any]) -> Iterator[str]:
    gained = agreement["reward_last"] - agreement["reward_first"]  # of the same completions, so with the same chance
    learnt = agreement["last"] - agreement["first"]
    if not follows_gold(agreement):
        yield f"The reward does not follow the gold answers: within a group, {_describe_gain(agreement)}."
        yield "What it teaches is not the task." if gained > _CHANGE else "It cannot teach the task."
        yield "Check the gold answers and the task's score; a control with shuffled rewards looks like this."
    yield _judge_change(gained, learnt, agreement["last"], agreement["num_at_ends"], follows_gold(agreement))


def _judge_change(gained: float, learnt: float, last: float, num_at_ends: int, follows: bool) -> str:
    if num_at_ends == 0 or (num_at_ends < _LEAST_AT_ENDS and gained > _CHANGE > learnt):
        return "Too few groups are recorded to say what it has learnt."
    if gained > _CHANGE and learnt > _CHANGE:
        what = "learnt the task" if last >= _LEARNT else "become better at the task"
        return f"It has {what}, and the reward was not gamed." if follows else "Yet both rose."
    if gained > _CHANGE:
        return "The reward rose without them: it was earned in another way, and may be gamed. Look at the last answers."
    if learnt > _CHANGE:
        return "The answers are better, though the reward did not rise."
    if learnt < -_CHANGE:
        return "It has become worse" + (", and so has the reward: it was not gamed." if gained < -_CHANGE else ".")
    return "Little has changed."


def follows_gold(agreement: Mapping[str, Any]) -> bool:
    """Whether right answers earned clearly more than others of their group, as far as that is known."""
    if agreement["num_groups"] < _LEAST_GROUPS:
        return True
    return bool(agreement["gain_low"] > 0 and agreement["gain"] > _LEAST_GAIN * agreement["spread"])


def _describe_gain(agreement: Mapping[str, Any]) -> str:
    low, high = agreement["gain_low"], agreement["gain_high"]
    return (
        f"right ones earned {agreement['gain']:+.2f} [{low:+.2f}, {high:+.2f}] beyond others (95 %, "
        f"{agreement['num_groups']} groups), where the best earned {agreement['spread']:+.2f} beyond the worst"
    )


def _percent(share: float) -> str:
    """Halves up, as the page's own tables have it."""
    return f"{int(100 * share + 0.5)}%"
