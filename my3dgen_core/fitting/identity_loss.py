"""Does a view that no photo shows still look like the person? A loss on ArcFace's cosine.

My3DGen's option (WACV 2025): every few steps the head is rendered from a random camera near the photo's own,
its face is cut out, and its embedding is pulled towards the photos' mean. Where the face lies follows from
the camera: the mean face of `face.pose` in EG3D's world, projected. Nothing is detected in the render, whose
early pictures may show no face at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import cam2world, intrinsics, rotate_cameras
from ..eg3d import Generator

if TYPE_CHECKING:
    from ..common.rng import RngStreams
    from ..face import FaceModels

YAW, PITCH = math.radians(20), math.radians(10)
"""How far the random camera turns from the photo's, at most."""


def project(points: Tensor, cameras: Tensor) -> Tensor:
    """Where world points [M, 3] appear in pictures from cameras [N, 25]: [N, M, 2], 0..1 from corner to
    corner."""
    pose, k = cam2world(cameras), intrinsics(cameras)
    seen = torch.einsum("nji,nmj->nmi", pose[:, :3, :3], points - pose[:, None, :3, 3])
    seen = torch.einsum("nij,nmj->nmi", k, seen)
    return seen[..., :2] / seen[..., 2:]


class NovelViewIdentity:
    """Photos of a person as the target of renders from elsewhere."""

    def __init__(self, generator: Generator, images: Tensor, face_models: FaceModels) -> None:
        """images: [N, 3, H, H] in [-1, 1].

        Raises:
            FaceModelError: the models have no identity network.
            ValueError: no face was found in any photo.
        """
        from ..face import IdentityNetwork, embed
        from ..face.pose import mean_face

        self.generator = generator
        device = generator.w_avg.device
        features, found = embed(images.detach().clone(), face_models)
        if not bool(found.any()):
            raise ValueError(
                "No face was found in any of the photos: there is no identity to hold to. Set "
                "identity_weight to 0, or take photos that show the face."
            )
        self.target = F.normalize(features[found].mean(0), dim=0).to(device)
        self.network = IdentityNetwork.from_models(face_models).to(device)
        self.points = torch.from_numpy(mean_face()).to(device, torch.float32)

    def loss(
        self, ws: Tensor, planes: Tensor, cameras: Tensor, draw: RngStreams, chunk: int | None
    ) -> Tensor:
        """1 - cosine [B] of the heads, each seen from a random camera near its own of `cameras` [B, 25].

        chunk: rays at a time, as in `Generator.render`.
        """
        angles = cameras.new_zeros(len(cameras), 5)
        for row in angles:
            row[0], row[1] = draw.places.uniform(-PITCH, PITCH), draw.places.uniform(-YAW, YAW)
        seen_from = rotate_cameras(cameras.detach(), angles)
        views = self.generator.render(
            ws, seen_from, planes=planes, jitter=draw.samples, chunk=chunk
        ).image.clamp(-1, 1)
        places = project(self.points, seen_from) * views.shape[-1]
        return 1 - self.network(views, places.cpu().numpy()) @ self.target
