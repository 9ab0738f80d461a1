"""Runs reward code in processes that can be killed; nothing here imports torch.

    this process                     supervisor                        workers, one job at a time
    ScoringPool.begin(jobs) ----->   queue, deadlines, kills  ------>  job.load(), then unit after unit
    ScoringPool.take()     <------   outcomes of the batch    <------  an outcome per unit

The supervisor is started as a fresh interpreter, has one thread and has imported the tasks, so that a worker is a fork
of it: ready in milliseconds, also in place of one that was killed. The kit's own tasks run in workers that live on. A
user's file is imported by workers of its own, and each unit of it runs in a fork of such a worker, which ends with its
outcome and takes along what it started: nothing of one call, whatever it did, reaches the next.

Each worker and each fork has a pipe of its own, and a message carries the unit's number and its sender's pid: what
anybody else writes there costs that unit. A worker reports every unit, so a deadline is that of a single unit, and what
was finished before a kill is kept. If a worker dies or is stopped under a unit, another worker does that unit again, at
most twice. A unit's time stands still while its process waits for a processor, so that a busy machine costs nobody a
reward. Nothing is shared between workers that a killed one could leave locked. When this process ends, however it ends,
the others end too.
"""

from gpg_vl.rewards.pool.client import ScoringPool
from gpg_vl.rewards.pool.jobs import PUBLISHED_TIMEOUT_S, FunctionJob, Job, MetricJob, Outcome, TaskJob

__all__ = ["PUBLISHED_TIMEOUT_S", "FunctionJob", "Job", "MetricJob", "Outcome", "ScoringPool", "TaskJob"]
