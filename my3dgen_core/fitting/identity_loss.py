"""Identity loss on novel views: 1 - cosine of ArcFace embeddings (optional in My3DGen, WACV 2025).

Every few steps the head is rendered from a random camera near the photo's own, and the embedding of its face
is pulled towards the mean embedding of the photos. The crop follows from the camera, by projecting the mean
face of `face.pose`: nothing is detected in the rendering, which may not show a face early on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import cam2world, intrinsics, rotate_cameras
from ..common.rng import RngStreams
from ..eg3d import Generator
from ..face import FaceModels, IdentityNetwork, embed
from ..face.pose import mean_face

YAW, PITCH = math.radians(20), math.radians(10)
"""Largest rotation of the random camera away from the photo's, in radians."""


def project(points: Tensor, cameras: Tensor) -> Tensor:
    """Project world points into pictures.

    Args:
        points: [M, 3].
        cameras: [N, 25].

    Returns:
        [N, M, 2] as x, y, from (0, 0) in the top left corner to (1, 1) in the bottom right one.
    """
    pose, k = cam2world(cameras), intrinsics(cameras)
    seen = torch.einsum("nji,nmj->nmi", pose[:, :3, :3], points - pose[:, None, :3, 3])
    seen = torch.einsum("nij,nmj->nmi", k, seen)
    return seen[..., :2] / seen[..., 2:]


class NovelViewIdentity:
    """Identity loss between renderings from novel cameras and the photos of a person."""

    def __init__(self, generator: Generator, images: Tensor, face_models: FaceModels) -> None:
        """Embed the photos.

        Args:
            generator: the model that is rendered.
            images: [N, 3, H, H] in [-1, 1].
            face_models: detector and ArcFace network.

        Raises:
            FaceModelError: the models have no identity network.
            ValueError: no face was found in any photo.
        """
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
        """Return the loss [B] of heads seen from random cameras near their own.

        Args:
            ws: [B, num_ws, w_dim].
            planes: [B, 3, 32, P, P], of ws.
            cameras: [B, 25], of the photos.
            draw: RNG streams; `places` draws the rotations, `samples` the ray samples.
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
