"""Measures of the personalization study, on the generator's device: pictures, identity, depth, stray density.

Image similarity is torchmetrics'. Faces are not detected: their positions are known, so that a picture in
which no detector would find a face counts like any other.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from my3dgen_core import Generator, orbit
from my3dgen_core.common.image_ops import resize
from my3dgen_core.evaluation import psnr
from my3dgen_core.evaluation.protocols import ORBIT, Measures
from my3dgen_core.face import IdentityNetwork
from my3dgen_core.fitting.identity_loss import project
from studies.personalization.persons import Person

_GRID = 64  # points along an edge of the cube in which stray density is measured
_RADIUS = 0.45  # of the ball of these points, which every camera sees completely


@torch.no_grad()
def render(generator: Generator, ws: Tensor, cameras: Tensor) -> Tensor:
    """Render latents [N or 1, num_ws, w_dim] from cameras [N, 25] to pictures [N, 3, R, R]."""
    planes = generator.planes(ws)
    size = 32 if planes.is_cuda else 1
    parts = []
    for first in range(0, len(cameras), size):
        some = slice(first, first + size)
        mine = slice(None) if len(ws) == 1 else some
        parts.append(generator.render(ws[mine], cameras[some], planes=planes[mine]).image)
    return torch.cat(parts)


@torch.no_grad()
def inside(views: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Return the mean PSNR in dB of the pixels that the head covers.

    Args:
        views: pictures [N, 3, R, R] in [-1, 1].
        truth: true pictures, of any size.
        mask: coverage of the true head, [N, 1, H, H].
    """
    covered = resize(mask.float(), views.shape[-1]) > 0.5
    truth = resize(truth, views.shape[-1])
    squared = (views.clamp(-1, 1) - truth).square().mean(1, keepdim=True) * covered
    error = squared.sum((1, 2, 3)) / covered.sum((1, 2, 3))
    return float((10 * (4 / error).log10()).mean())


@torch.no_grad()
def nearness(views: Tensor, truth: Tensor) -> Measures:
    """Return the mean PSNR in dB, SSIM and VIF of pictures [N, 3, R, R] in [-1, 1]; truth of any size."""
    from torchmetrics.functional.image import (
        structural_similarity_index_measure as ssim,
    )
    from torchmetrics.functional.image import (
        visual_information_fidelity as vif,
    )

    truth = resize(truth, views.shape[-1])
    views, truth = views.float().clamp(-1, 1), truth.clamp(-1, 1)
    similar = ssim(views / 2 + 0.5, truth / 2 + 0.5, data_range=1.0)
    assert isinstance(similar, Tensor)
    kept = vif((views + 1) * 127.5, (truth + 1) * 127.5) if views.shape[-1] > 40 else None
    return {
        "PSNR dB": float(psnr(views, truth).mean()),
        "SSIM": float(similar),
        "VIF": None if kept is None else float(kept),
    }


class PersonSimilarity:
    """ArcFace similarity to a person's photos.

    Faces are "aligned" by the true eyes, nose and mouth, or "unaligned": a fixed square of the picture, as in
    the paper.
    """

    def __init__(self, network: IdentityNetwork, person: Person) -> None:
        self.network, self.person = network, person
        size = person.photos.shape[-1]
        self.photos = {
            "aligned": self.aligned(person.photos, person.points * size),
            "unaligned": self.unaligned(person.photos),
        }

    @torch.no_grad()
    def aligned(self, images: Tensor, points: Tensor) -> Tensor:
        """Embed faces [N, 3, R, R] aligned by five points [N, 5, 2] in pixels; return [N, 512]."""
        return self.network(images.clamp(-1, 1), points.cpu().numpy())

    @torch.no_grad()
    def unaligned(self, images: Tensor) -> Tensor:
        """Embed rows 35 to 223 and columns 32 to 220 of pictures scaled to 256 pixels; return [N, 512]."""
        cut = resize(images.float().clamp(-1, 1), 256)[:, :, 35:223, 32:220]
        return F.normalize(self.network.features(F.adaptive_avg_pool2d(cut, 112)), dim=1)

    def seen(self, images: Tensor, cameras: Tensor) -> Tensor:
        """Return the cosines [N, photos] of pictures of the neutral face from cameras [N, 25]."""
        points = project(self.person.landmarks, cameras) * images.shape[-1]
        return self.aligned(images, points) @ self.photos["aligned"].T

    def around(self, generator: Generator, ws: Tensor, views: int, seed: int = 0) -> dict[str, float]:
        """Return the paper's multi-view identity error, aligned and unaligned.

        It is 1 minus the cosine with the nearest photo, mean over random frames of the paper's orbit.

        Args:
            generator: the generator, with the identity applied.
            ws: one latent [1, num_ws, w_dim].
            views: number of frames.
            seed: seed of their choice.
        """
        path = orbit(**ORBIT)  # type: ignore[arg-type]
        draw = torch.Generator().manual_seed(seed)
        frames = path[torch.randperm(len(path), generator=draw)[:views].sort().values].to(ws.device)
        pictures = render(generator, ws, frames)
        cosines = {
            "aligned": self.seen(pictures, frames),
            "unaligned": self.unaligned(pictures) @ self.photos["unaligned"].T,
        }
        return {way: float((1 - found.amax(1)).mean()) for way, found in cosines.items()}


def identity_network(path: Path | None, device: torch.device | str) -> IdentityNetwork | None:
    """Load ArcFace from an ONNX file or the folder of a face model pack; None for None."""
    if path is None:
        return None
    if path.is_dir():
        from my3dgen_core.face.packs import RECOGNITION, find_models

        path = find_models(path)[RECOGNITION]
    return IdentityNetwork.from_file(path).to(device)


@torch.no_grad()
def surface(generator: Generator, ws: Tensor, person: Person) -> Measures:
    """Measure the depth of the held-out views, and density in empty space.

    Returns:
        "depth error": mean absolute error in world units, where both show the head. "floaters": share of
        pixels with density off the true surface: beside the head the ray's weight, on the head 1 if the ray
        ends more than a twentieth of the head's box in front of the surface. "stray density": mean opacity of
        a hundredth of a unit of space that some true view shows to be empty.
    """
    planes, size = generator.planes(ws), person.mask.shape[-1]
    errors, floaters = [], []
    margin = generator.config.box_warp / 20
    for camera, far, head in zip(person.view_cameras, person.depth, person.mask, strict=True):
        marched = generator.march(planes, camera[None], size)
        found, weight = (v[0].T.unflatten(1, (size, size)) for v in (marched.depth, marched.weight))
        on, off = head > 0.999, head < 0.001
        both = on & (weight > 0.5)
        errors.append((found - far).abs()[both])
        floaters.append((weight[off].sum() + (both & (found < far - margin)).sum()) / head.numel())
    points = empty_space(person, margin)
    raw = generator.sample(ws, points[None], planes=planes, chunk=1 << 16)[0][0, :, 0]
    opacity = 1 - torch.exp(-0.01 * F.softplus(raw - 1))
    return {
        "depth error": float(torch.cat(errors).mean()),
        "floaters": float(torch.stack(floaters).mean()),
        "stray density": float(opacity.mean()),
    }


def empty_space(person: Person, margin: float) -> Tensor:
    """Return the points [M, 3] of a grid that some held-out view proves empty.

    Such a point is seen beside the head, or more than `margin` in front of it.
    """
    device = person.depth.device
    line = torch.linspace(-_RADIUS, _RADIUS, _GRID, device=device)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    points = points[points.norm(dim=1) < _RADIUS]
    # A pixel counts only with its neighbors, so that silhouettes are excluded.
    covered = F.max_pool2d(person.mask, 3, 1, 1)
    whole = -F.max_pool2d(-person.mask, 3, 1, 1) > 0.999
    nearest = -F.max_pool2d(-person.depth, 3, 1, 1)
    size = person.mask.shape[-1]
    empty = torch.zeros(len(points), dtype=torch.bool, device=device)
    for i, camera in enumerate(person.view_cameras):
        column, row = (project(points, camera[None])[0] * size).floor().long().unbind(1)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        at = row.clamp(0, size - 1), column.clamp(0, size - 1)
        distance = (points - camera[[3, 7, 11]]).norm(dim=1)
        beside = covered[i, 0][at] < 0.001
        before = whole[i, 0][at] & (distance < nearest[i, 0][at] - margin)
        empty |= inside & (beside | before)
    return points[empty]
