"""How near one picture comes to another, and a face to a person. All pictures are [N, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.image_ops import resize

if TYPE_CHECKING:
    from ..face import FaceModels


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: [N, 3, H, W] twice, in [-1, 1] -> [N]."""
    error = (images.clamp(-1, 1) - targets.clamp(-1, 1)).square().mean((1, 2, 3)) / 4
    return -10 * error.clamp(min=1e-10).log10()


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity of each picture, 11-pixel window: [N, 3, H, W] twice, in [-1, 1] -> [N]."""
    from kornia.metrics import ssim as kornia_ssim

    return kornia_ssim(images.clamp(-1, 1) / 2 + 0.5, targets.clamp(-1, 1) / 2 + 0.5, 11).mean((1, 2, 3))


def vif(images: Tensor, targets: Tensor) -> Tensor | None:
    """Visual information fidelity of each picture (Sheikh and Bovik 2006), by torchmetrics: [N].

    1 for equal pictures, 0 for nothing in common. A perceptual measure that needs no weights and is not what
    training descends. None where torchmetrics is not installed (the extra `evaluate`).
    """
    if importlib.util.find_spec("torchmetrics") is None:
        return None
    from torchmetrics.functional.image import visual_information_fidelity

    images, targets = ((x.detach().float().clamp(-1, 1) + 1) * 127.5 for x in (images, targets))
    return visual_information_fidelity(images, targets, reduction="none")


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score is higher than a negative one (ties count half)."""
    difference = positive.flatten()[:, None] - negative.flatten()
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


def embed_unaligned(images: Tensor, face_models: FaceModels) -> Tensor:
    """ArcFace as My3DGen and PTI measure it: a fixed square out of the crop, no alignment. [N, 512].

    Of 256 pixels rows 35 to 223 and columns 32 to 220 are taken. Every picture counts: nothing is detected.
    """
    images = resize(images.detach().float().cpu(), 256)[:, :, 35:223, 32:220]
    faces = (F.adaptive_avg_pool2d(images, 112).clamp(-1, 1) + 1) * 127.5
    features = face_models.features(faces.permute(0, 2, 3, 1).numpy().astype(np.float32))
    return F.normalize(torch.from_numpy(features).float(), dim=1)


class Likeness:
    """How much pictures look like the person of some photos: cosines of ArcFace embeddings."""

    def __init__(self, photos: Tensor, face_models: FaceModels, aligned: bool = True) -> None:
        """aligned: faces are found and aligned first, and pictures without one are left out. Otherwise the
        paper's way, `embed_unaligned`.

        Raises:
            ValueError: no face in any of the photos.
        """
        self.face_models, self.aligned = face_models, aligned
        self.photos = self.embed(photos)
        if len(self.photos) == 0:
            raise ValueError("No face was found in any of the photos: likeness to them cannot be measured.")

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings [M, 512] of length 1 of the pictures in which a face was found."""
        if not self.aligned:
            return embed_unaligned(images, self.face_models)
        from ..face import embed

        features, found = embed(images, self.face_models)
        return features[found]

    def mean(self, images: Tensor) -> float | None:
        """Mean cosine of the pictures with all photos; None if no face was found."""
        features = self.embed(images)
        return None if len(features) == 0 else float((features @ self.photos.T).mean())

    def error(self, images: Tensor) -> float | None:
        """Mean of 1 - the cosine with the nearest photo, as the paper counts; None if no face was found."""
        features = self.embed(images)
        return None if len(features) == 0 else float((1 - (features @ self.photos.T).amax(1)).mean())
