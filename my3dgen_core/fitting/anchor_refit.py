"""Anchors of a training that shares one latent: when each photo gets its own, and how it is found.

Rendering each photo from its own anchor spreads the person over as many latents as there are photos, and the
mean, from which new views are rendered, is trained by none. Sharing the mean while the weights learn the
person, and optimizing the anchors afterwards, on weights that know the person, gives sharper views at equal
photos: anchors then differ by what differs between the photos, the expression.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..common.rng import RngStreams
from ..eg3d import Generator
from .photo_objective import PhotoObjective
from .schedule import ramp

SHARED_FRACTION = 0.7
"""Part of the training on the shared latent alone; the anchors are optimized when it ends."""
OWN_PROBABILITY = 0.6
"""Probability of a photo's own anchor in a step after that; else the shared latent is used."""
_BATCH = 4  # photos optimized at the same time
_RAYS = 1024  # raw pixels of a photo and step
_LR = 0.05  # peak learning rate of Adam, as in `InversionConfig`


def refit_anchors(
    generator: Generator,
    objective: PhotoObjective,
    cameras: Tensor,
    shared: Tensor,
    steps: int,
    seed: int,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Optimize a latent for each photo, all of them from the shared one.

    Args:
        generator: with the adapter in effect; not changed.
        objective: the photos.
        cameras: [N, 25].
        shared: [1, rows, w_dim]; rows is 1 in W, num_ws in W+.
        steps: optimizer steps of each latent.
        seed: seed of the pixel sampling.
        on_step: called after each step; its exceptions pass through.

    Returns:
        Latents [N, rows, w_dim] with the mean `shared`.
    """
    found = []
    jitter, objective.random_samples = objective.random_samples, False
    try:
        batch = 1 if objective.low_memory else _BATCH
        for first in range(0, len(objective), batch):
            index = list(range(len(objective)))[first : first + batch]
            draw = RngStreams(seed, shared.device)
            ws = shared.detach().expand(len(index), -1, -1).clone().requires_grad_(True)
            optimizer = torch.optim.Adam([ws], betas=(0.9, 0.999))
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = _LR * ramp(step, steps)
                layers = ws.expand(-1, generator.num_ws, -1)
                loss = objective.sampled(layers, generator.planes(layers), cameras[index], index, _RAYS, draw)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
                optimizer.step()
                if on_step is not None:
                    on_step()
            found.append(ws.detach())
    finally:
        objective.random_samples = jitter
    ws = torch.cat(found)
    return ws - ws.mean(0, keepdim=True) + shared.detach()
