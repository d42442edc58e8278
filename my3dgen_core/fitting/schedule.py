"""The learning-rate schedule of the projectors (StyleGAN2, section 5; PTI)."""

from __future__ import annotations

import math


def ramp(step: int, steps: int) -> float:
    """Return the factor on the learning rate at a step.

    Linear warm-up over the first 5 % of the steps, cosine decay to 0 over the last 25 %.

    Args:
        step: index of the step, from 0.
        steps: steps in all.
    """
    t = step / steps
    decay = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
    return decay * min(1.0, (t + 1 / steps) / 0.05)
