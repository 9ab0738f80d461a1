"""A plan as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpg_vl.planning.measure import Measured
from gpg_vl.planning.plan import GB, Plan, describe_host_lack, describe_lack
from gpg_vl.run.speed import GIB

_SHOWN = 20 * 2**20  # bytes: smaller parts are shown together


def describe_plan(plan: Plan) -> list[str]:
    machine = plan.machine
    machines = -(-machine.num_gpus // machine.of_machine)
    several = f" on {machines} machines" if machines > 1 else ""
    where = f"{machine.num_gpus} x {machine.card.name}{several}, layout {machine.layout}"
    return [
        f"model      {plan.size.weights:,} weights, {plan.size.trained:,} trained",
        f"machine    {where}",
        *_likeness(plan),
        *_describe_rows(plan),
        "",
        *_memory(plan),
        "",
        *_verdict(plan),
        "",
        *_seconds(plan),
        "",
        f"disk       {_gb(plan.disk)} GB of checkpoints in {plan.recipe.run.output_dir}",
    ]


def _likeness(plan: Plan) -> Iterator[str]:
    if likened_to := plan.machine.card.likened_to:
        yield f"           this card is not known: rates of {likened_to}, the nearest in memory"


def _describe_rows(plan: Plan) -> Iterator[str]:
    rows, config = plan.rows, plan.recipe.rollout
    left_out = f", {rows.num_left_out} left out" if rows.num_left_out else ""
    yield f"rows       {len(rows.tokens)} of {rows.num_images:.1f} images on average{left_out}"
    quantiles = ", ".join(f"{name} {rows.share(part)}" for name, part in (("half", 0.5), ("90 %", 0.9), ("99 %", 0.99)))
    yield f"prompts    tokens of at most: {quantiles}, all {rows.tokens[-1]}"
    packed = rows.tokens[-1] + config.group_size * (config.max_new_tokens - 1)
    yield f"a group    {packed} tokens of the longest: prompt + {config.group_size} x {config.max_new_tokens}"


def _memory(plan: Plan) -> Iterator[str]:
    phases = plan.memory.phases
    yield f"{'GiB of a GPU at the worst moment':<34}" + "".join(f"{name:>10}" for name in phases)
    names = dict.fromkeys(name for parts in phases.values() for name in parts)
    small = [name for name in names if all(parts.get(name, 0) < _SHOWN for parts in phases.values())]
    for name in names:
        if name not in small:
            yield f"  {name:<32}" + "".join(_gib_cell(parts.get(name, 0)) for parts in phases.values())
    if small:
        rest = [sum(parts.get(name, 0) for name in small) for parts in phases.values()]
        yield f"  {'the rest':<32}" + "".join(map(_gib_cell, rest))
    totals = "".join(f"{sum(parts.values()) / GIB:>10.2f}" for parts in phases.values())
    yield f"  {'together':<32}{totals}"


def _gib_cell(size: int) -> str:
    return f"{size / GIB:>10.2f}" if size else f"{'-':>10}"


def _verdict(plan: Plan) -> Iterator[str]:
    machine, budgets = plan.machine, plan.budgets
    if machine.holds(plan.memory):
        yield f"fits       {plan.memory.peak / GIB:.2f} of {machine.card.usable / GIB:.2f} GiB"
    else:
        yield "does not fit"
    for lack in _lacks(plan):
        yield from _wrapped(lack)
    yield f"           of each machine's memory: {_host(plan)}"
    none = "none fits"
    yield "budgets    the largest that fit, and the recipe's; the default: what fits a run"
    update, rollout = plan.recipe.update.tokens_per_micro_batch, plan.recipe.rollout.tokens_per_batch
    yield f"  update.tokens_per_micro_batch    {_count(budgets.update, none):>12}  {update:>10,}"
    if not plan.recipe.rollout.samples_elsewhere:
        yield f"  rollout.tokens_per_batch         {_count(budgets.rollout, none):>12}  {rollout:>10,}"
    yield _cheapest(plan)


def _lacks(plan: Plan) -> Iterator[str]:
    machine, memory = plan.machine, plan.memory
    if memory.peak > machine.card.usable:
        yield describe_lack(plan.recipe, memory, machine, plan.fitting, plan.budgets)
    if not machine.has_host_for(memory):
        yield describe_host_lack(plan.recipe, memory, machine, plan.fitting)


def _host(plan: Plan) -> str:
    needed, host = _gb(plan.memory.host), plan.machine.host
    return f"{needed} GB, which it must have (--host-gb)" if host is None else f"{needed} of {_gb(host)} GB"


def _cheapest(plan: Plan) -> str:
    if plan.fitting is None:
        return "no layout fits"
    return f"cheapest layout that fits: {plan.fitting.layout}, with {_gb(plan.fitting.memory.host)} GB of each machine"


def _count(number: int | None, none: str) -> str:
    return none if number is None else f"{number:,}"


def _wrapped(text: str, width: int = 76) -> Iterator[str]:
    line = " "
    for word in text.split():
        if len(line) + 1 + len(word) > width:
            yield line
            line = " "
        line += f" {word}"
    yield line


def _seconds(plan: Plan) -> Iterator[str]:
    yield "a step     seconds (estimated; scoring and further draws left out)"
    yield from _shares(plan.seconds)
    if plan.flops is not None:
        rollout, update = plan.flops
        yield f"           {rollout:.2e} FLOPs in the rollout, {update:.2e} in the update"
    hours = plan.total_seconds / 3600
    yield f"the run    {plan.recipe.run.steps} steps: {hours:.1f} hours, {hours * plan.machine.num_gpus:.0f} GPU hours"


def _shares(seconds: Mapping[str, float]) -> Iterator[str]:
    total = sum(seconds.values())
    for name, value in seconds.items():
        if value:
            yield f"  {name:<20}{value:>10.2f}   {value / total:>5.0%}"
    yield f"  {'together':<20}{total:>10.2f}"


def describe_measured(measured: Measured, estimated: Mapping[str, float]) -> list[str]:
    """
    Args:
        estimated: seconds by phase, of the plan; empty where there is none
    """
    lines = [f"  {'measured here':<20}{'seconds':>10}{'estimated':>12}{'GiB':>10}"]
    for phase, seconds in measured.seconds.items():
        guess = f"{estimated[phase]:>12.2f}" if estimated else f"{'-':>12}"
        lines.append(f"  {phase:<20}{seconds:>10.2f}{guess}{measured.bytes[phase] / GIB:>10.3f}")
    return [*lines, f"  {measured.sampled_tokens} tokens sampled"]


def _gb(size: int) -> str:
    return f"{size / GB:.2f}"
