"""The progress callback of long functions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

OnStep = Callable[[int, int, dict[str, float], Tensor | None], None]
"""Callback `on_step(step, total, figures, image)`, called after each step. An exception that it raises stops
the work, and nothing is left half-applied.

- step: number of steps done, from 1.
- total: number of all steps.
- image: preview [1, 3, H, W] in [-1, 1], or None.
- figures: measurements of this step by name; empty where there are none:
    - "loss": the minimized objective (inversion, projection into alpha space, tuning).
    - "cached": number of steps whose result was read from the cache (inversion, once for each stage).
"""
