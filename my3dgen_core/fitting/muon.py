"""Muon optimizer (K. Jordan et al., 2024): momentum with orthogonalized updates, in float32.

StyleGAN's equalized learning rates keep weights at unit scale, where Adam's usual steps are tiny; an
orthogonal update of mean square 1 moves every direction of a weight matrix equally. The same holds for the
two factors of a low-rank update.

`torch.optim.Muon` is not used because it computes in bfloat16, which CPUs without the instructions emulate
slowly, and takes only two-dimensional parameters. This one batches matrices of equal shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1


def orthogonalize(stacks: list[torch.Tensor], steps: int = 5) -> list[torch.Tensor]:
    """Approximate the nearest semi-orthogonal matrices by Newton-Schulz iteration.

    Every iterate is a polynomial of the small Gram matrix times the matrix itself, which is therefore
    multiplied only once. Gram matrices of equal size are batched across stacks, because low-rank factors have
    many shapes.

    Args:
        stacks: matrices of equal shape each, [N, m, n].
        steps: iterations.

    Returns:
        stacks of the same shapes.
    """
    a, b, c = _COEFFICIENTS
    wide = [stack.mT if stack.shape[1] > stack.shape[2] else stack for stack in stacks]
    wide = [x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7) for x in wide]
    factors: list[torch.Tensor | None] = [None] * len(wide)
    for size in dict.fromkeys(x.shape[1] for x in wide):
        mine = [number for number, x in enumerate(wide) if x.shape[1] == size]
        gram = torch.cat([wide[number] @ wide[number].mT for number in mine])
        identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
        total = identity.expand_as(gram)
        for _ in range(steps):
            factor = a * identity + b * gram + c * (gram @ gram)
            total, gram = factor @ total, factor @ gram @ factor
        for number, part in zip(mine, total.split([len(wide[number]) for number in mine]), strict=True):
            factors[number] = part
    found = [factor @ x for factor, x in zip(factors, wide, strict=True) if factor is not None]
    return [x.mT if x.shape != stack.shape else x for x, stack in zip(found, stacks, strict=True)]


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonalized updates of mean square 1.

    Parameters need at least two dimensions; convolution kernels count as matrices [out, in*k*k].
    """

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-2, momentum: float = 0.95) -> None:
        """Set up parameter groups.

        Args:
            parameters: tensors or groups, as for every torch optimizer.
            lr: root mean square of an update.
            momentum: decay of the averaged gradient.
        """
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient. `closure` is ignored."""
        by_shape: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor, float]]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = group["lr"] * max(update.shape) ** 0.5
                by_shape.setdefault((update.shape[0], update.shape[1]), []).append((parameter, update, scale))
        stacks = [torch.stack([update for _, update, _ in items]) for items in by_shape.values()]
        for items, updates in zip(by_shape.values(), orthogonalize(stacks), strict=True):
            for (parameter, _, scale), update in zip(items, updates, strict=True):
                parameter.sub_(update.view_as(parameter), alpha=scale)
