"""Detection of optimizations that diverge, by the losses of their steps."""

from __future__ import annotations

import math
import statistics
from collections import deque

from torch import Tensor

WINDOW, RECENT = 20, 5
"""Least number of losses in the mean that measures progress; losses in the median compared with it."""
FACTOR = 10.0
"""Growth of the loss over its best that counts as divergence."""
SLACK, FIRST_SLACK = 0.1, 1.0
"""Loss allowed in addition: near a perfect fit the loss fluctuates by any factor; and one photo's first loss
says little about the others'. For images in [-1, 1] a loss of 1 is that of a useless picture."""


class DivergenceCheck:
    """Tells whether the losses of an optimization diverge. Give it the plain photo losses, without weights.

    The median of the last 5 losses ignores single spikes, of hard photos and of large steps. It is compared
    with the best mean of 20 successive losses, or of more, so that every photo is among them; with the first
    loss before there are enough.
    """

    def __init__(self, epoch: int = 1) -> None:
        """Start without losses; `epoch` is the number of steps in which every photo comes once."""
        self.first: float | None = None
        self._window: deque[float] = deque(maxlen=max(WINDOW, 2 * epoch))
        self._best = math.inf
        self._level = math.inf

    def add(self, losses: Tensor) -> None:
        """Take the losses of the photos of the next step, a tensor of any shape."""
        if losses.device.type == "meta":
            return
        loss = float(losses.detach().mean())
        self.first = loss if self.first is None else self.first
        self._window.append(loss)
        self._level = statistics.median_low(list(self._window)[-RECENT:])
        if self._full:
            self._best = min(self._best, statistics.fmean(self._window))

    @property
    def _full(self) -> bool:
        return len(self._window) == self._window.maxlen

    @property
    def best(self) -> float:
        """The loss that the latest ones are compared with."""
        return self._best if self._full or self.first is None else self.first

    @property
    def diverged(self) -> bool:
        """True if the latest loss is not finite, or the losses have grown far above the best."""
        if not self._window:
            return False
        slack = SLACK if self._full else FIRST_SLACK
        return not math.isfinite(self._window[-1]) or self._level > FACTOR * self.best + slack

    @property
    def healthy(self) -> bool:
        """True if the parameters of the latest loss are worth keeping: it is about as low as the best."""
        return max(self._window[-1], self._level) <= 1.5 * self.best + 1e-3

    def message(self, what: str, steps: int, advice: str) -> str:
        """Describe the divergence of `what` after a number of steps; `advice` says what to lower."""
        loss = self._window[-1]
        if not steps:
            return (
                f"The {what} cannot start: its first loss is {loss}. "
                "The generator, the latents or the photos contain NaN or infinite numbers."
            )
        return (
            f"The {what} diverged: its loss was {self.best:.3g} and became {loss:.3g} after step {steps}. "
            f"{advice}"
        )
