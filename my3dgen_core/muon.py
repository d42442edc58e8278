"""Muon: momentum whose matrices are made orthogonal before each step. In float32 and batched over equal
shapes.

Equalised learning rates keep weights at size 1, where Adam's usual steps do next to nothing in supervised
work; an orthogonal update of mean square 1 moves every direction of a weight matrix equally. The same holds
for the two factors of a low-rank update (K. Jordan et al., Muon, 2024).
torch.optim.Muon computes in bfloat16, which a CPU without the instructions emulates slowly, and takes only
two-dimensional parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a quintic that drives singular values towards 1


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration on [N, m, n]: nearly the nearest (semi-)orthogonal matrices."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Every iterate is a polynomial of the small Gram matrix times x, so x itself is multiplied only once.
    gram = x @ x.mT
    identity = torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
    total = identity.expand_as(gram)
    for _ in range(steps):
        factor = a * identity + b * gram + c * (gram @ gram)
        total, gram = factor @ total, factor @ gram @ factor
    x = total @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonalised updates of mean square 1; convolutions count as [out,
    in*k*k]."""

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-2, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                by_shape.setdefault((update.shape[0], update.shape[1]), []).append((parameter, update))
            for (rows, columns), items in by_shape.items():
                scale = group["lr"] * max(rows, columns) ** 0.5
                for (parameter, _), update in zip(
                    items, orthogonalize(torch.stack([u for _, u in items])), strict=True
                ):
                    parameter.sub_(update.view_as(parameter), alpha=scale)
