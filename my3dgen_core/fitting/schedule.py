"""The learning-rate schedule of the projectors (StyleGAN2, section 5; PTI)."""

from __future__ import annotations

import math


def ramp(step: int, steps: int) -> float:
    """Factor of the learning rate at a step: linear warm-up over the first 5 %, cosine decay over the last 25 %."""
    t = step / steps
    decay = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
    return decay * min(1.0, (t + 1 / steps) / 0.05)
