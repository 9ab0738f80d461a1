"""Which rollout an update follows: the last one, while it has updates left or the policy has hardly moved since it."""

from __future__ import annotations

from gpg_vl.config import RefreshConfig
from gpg_vl.update.learner import Learner
from gpg_vl.update.rollouts import Rollout


class Reuse:
    """The last rollout, as long as it is followed. Most objectives follow each for one update, as Algorithm 1 does."""

    def __init__(self, learner: Learner, refresh: RefreshConfig | None, rollout: Rollout | None):
        """
        Args:
            refresh: ``rollout.refresh`` of the recipe
            rollout: which the run stopped in the middle of, if it did
        """
        self._learner = learner
        self._refresh = refresh
        self.rollout = rollout
        self.shift: float | None = None
        """By which ``refresh`` has decided on the step under way; None where it had nothing to decide."""

    def next_rollout(self, has_skipped: bool) -> Rollout | None:
        """The rollout of the next update; None if it has to be drawn. All ranks together.

        Args:
            has_skipped: whether the last step changed no weight: the same rollout would give the same gradient again
        """
        self.shift = None
        if self.rollout is None or not self.rollout.is_used_up:
            return self.rollout
        self.shift = None if has_skipped else self._measure_shift(self.rollout)
        return self.rollout if self.is_used_again else None

    def _measure_shift(self, rollout: Rollout) -> float | None:
        may_go_on = self._refresh is not None and rollout.is_trained and rollout.num_uses < self._refresh.max_uses
        return self._learner.measure_shift(rollout) if may_go_on else None

    @property
    def is_used_again(self) -> bool:
        """Whether ``refresh`` has found a rollout that was used up good enough for another pass."""
        return self.shift is not None and self._refresh is not None and self.shift < self._refresh.threshold

    def finish_update(self, rollout: Rollout) -> None:
        """Counts an update of the rollout, and forgets it where no other can follow it."""
        if self.is_used_again:
            rollout.use_again()
        rollout.num_done += 1
        self.rollout = None if rollout.is_used_up and self._refresh is None else rollout
