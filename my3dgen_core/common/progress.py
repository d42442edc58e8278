"""The progress callback of every long function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

OnStep = Callable[[int, int, dict[str, float], Tensor | None], None]
"""`on_step(step, total, figures, image)`, called after each step; what it raises ends the work, and nothing is left
half-applied.

step: steps done, from 1. total: steps in all. image: a preview [1, 3, H, W] in [-1, 1], or None.
figures: of this step, by name; empty where there are none:

- "loss": the objective that is minimized (inversion, projection into alpha space, tuning).
- "cached": steps whose result was read from the cache instead of computed (inversion, once for a stage).
"""
