"""Image similarity and identity metrics of pictures [N, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.image_ops import resize
from ..face import FaceModels, embed


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB.

    Args:
        images, targets: [N, 3, H, W] in [-1, 1].

    Returns:
        [N], at most 100.
    """
    error = (images.clamp(-1, 1) - targets.clamp(-1, 1)).square().mean((1, 2, 3)) / 4
    return -10 * error.clamp(min=1e-10).log10()


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity of each picture, with an 11-pixel window.

    Args:
        images, targets: [N, 3, H, W] in [-1, 1].

    Returns:
        [N], at most 1.
    """
    from kornia.metrics import ssim as kornia_ssim  # not at the top: kornia takes .3 s to import

    return kornia_ssim(images.clamp(-1, 1) / 2 + 0.5, targets.clamp(-1, 1) / 2 + 0.5, 11).mean((1, 2, 3))


def vif(images: Tensor, targets: Tensor) -> Tensor | None:
    """Return the visual information fidelity of each picture (Sheikh and Bovik 2006).

    A perceptual metric that needs no weights and is not part of the training objective.

    Args:
        images, targets: [N, 3, H, W] in [-1, 1].

    Returns:
        [N], 1 for equal pictures, 0 for unrelated ones; None if torchmetrics is not installed (the extra
        `evaluate`).
    """
    if importlib.util.find_spec("torchmetrics") is None:
        return None
    # optional dependency
    from torchmetrics.functional.image import visual_information_fidelity

    images, targets = ((x.detach().float().clamp(-1, 1) + 1) * 127.5 for x in (images, targets))
    return visual_information_fidelity(images, targets, reduction="none")


def auc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve: the probability that a positive score exceeds a negative one.

    Ties count half.

    Args:
        positive, negative: scores of any shape and count.
    """
    difference = positive.flatten()[:, None] - negative.flatten()
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


def embed_unaligned(images: Tensor, face_models: FaceModels) -> Tensor:
    """Embed a fixed square of aligned crops by ArcFace, without detection, as My3DGen and PTI do.

    At 256 pixels the square is rows 35 to 223 and columns 32 to 220.

    Args:
        images: [N, 3, H, H] in [-1, 1].
        face_models: face networks with ArcFace.

    Returns:
        [N, 512], of length 1.
    """
    images = resize(images.detach().float().cpu(), 256)[:, :, 35:223, 32:220]
    faces = (F.adaptive_avg_pool2d(images, 112).clamp(-1, 1) + 1) * 127.5
    features = face_models.features(faces.permute(0, 2, 3, 1).numpy().astype(np.float32))
    return F.normalize(torch.from_numpy(features).float(), dim=1)


class IdentitySimilarity:
    """Identity similarity of pictures to a person's photos: cosines of ArcFace embeddings."""

    def __init__(self, photos: Tensor, face_models: FaceModels, aligned: bool = True) -> None:
        """Embed the photos.

        Args:
            photos: [N, 3, h, h] in [-1, 1].
            face_models: face networks with ArcFace.
            aligned: detect and align faces first, and ignore pictures without one; False: `embed_unaligned`,
                the paper's way.

        Raises:
            ValueError: no face in any of the photos.
        """
        self.face_models, self.aligned = face_models, aligned
        self.photos = self.embed(photos)
        if len(self.photos) == 0:
            raise ValueError(
                "No face was found in any of the photos: identity similarity to them cannot be measured."
            )

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings [M, 512] of length 1 of the pictures in which a face was found."""
        if not self.aligned:
            return embed_unaligned(images, self.face_models)
        features, found = embed(images, self.face_models)
        return features[found]

    def mean(self, images: Tensor) -> float | None:
        """Return the mean cosine of pictures [N, 3, H, W] with all photos; None if no face was found."""
        features = self.embed(images)
        return None if len(features) == 0 else float((features @ self.photos.T).mean())

    def error(self, images: Tensor) -> float | None:
        """Return the mean identity error of pictures [N, 3, H, W], as in the paper; None if none has a face.

        The error of a picture is 1 - its cosine with the most similar photo.
        """
        features = self.embed(images)
        return None if len(features) == 0 else float((1 - (features @ self.photos.T).amax(1)).mean())
