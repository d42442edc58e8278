"""The paper's protocols (My3DGen, WACV 2025, section 4; MyStyle), and the truth where there is one.

Each takes a generator as it is: apply an identity around the call (`personalized`) to measure the person, and
none to measure the pretrained one. Each returns plain numbers by name, None where no face was found or a
package is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..camera import orbit
from ..common.image_ops import resize
from ..common.progress import OnStep
from ..editing.alpha_space import AlphaSpace
from ..editing.direction import Direction
from ..eg3d import Generator
from ..eg3d.config import front_camera
from ..fitting.inversion import InversionConfig, invert
from ..fitting.losses import laplacian_distance
from ..fitting.lpips import Distance, Lpips
from ..person.latents import Latents
from .dists import Dists
from .metrics import Likeness, psnr, ssim, vif

if TYPE_CHECKING:
    from ..face import FaceModels

Measures = dict[str, float | None]

HELD_OUT = InversionConfig(steps=1000, shared_steps=0, space="w+", lr=0.01, w_noise=0.0)
"""The paper's inversion of a held-out photo on the personal model."""
ORBIT = {"frames": 120, "yaw": 0.35, "pitch": -0.25, "center_pitch": 0.05}
"""Its orbit: the polar angle pi/2 - 0.05 + 0.25 cos, in elevations."""


@torch.no_grad()
def render(generator: Generator, ws: Tensor, cameras: Tensor) -> Tensor:
    """Pictures [N, 3, R, R] on the CPU of latents [N or 1, num_ws, w_dim] from cameras [N, 25]."""
    device = generator.w_avg.device
    ws, cameras = ws.to(device), cameras.to(device)
    planes = generator.planes(ws) if len(ws) == 1 else None
    views = []
    for i, camera in enumerate(cameras):
        one = ws if len(ws) == 1 else ws[i : i + 1]
        views.append(generator.render(one, camera[None], planes=planes).image.cpu())
    return torch.cat(views)


def _mean(values: Tensor | None) -> float | None:
    return None if values is None or len(values) == 0 else float(values.mean())


def nearness(
    views: Tensor, truth: Tensor, lpips: Lpips | None = None, dists: Dists | None = None
) -> Measures:
    """PSNR (dB), SSIM, VIF, and LPIPS and DISTS where given, of pictures [N, 3, R, R]; truth of any size."""
    truth = resize(truth.cpu(), views.shape[-1])
    measures = {
        "PSNR dB": _mean(psnr(views, truth)),
        "SSIM": _mean(ssim(views, truth)),
        "VIF": _mean(vif(views, truth)),
    }
    if lpips is not None:
        with torch.no_grad():
            measures["LPIPS"] = _mean(lpips(views, truth))
    if dists is not None:
        with torch.no_grad():
            measures["DISTS"] = _mean(dists(views, truth))
    return measures


def held_out_inversion(
    generator: Generator,
    photos: Tensor,
    cameras: Tensor,
    *,
    masks: Tensor | None = None,
    face_models: FaceModels | None = None,
    lpips: Lpips | None = None,
    dists: Dists | None = None,
    config: InversionConfig = HELD_OUT,
    on_step: OnStep | None = None,
) -> tuple[Measures, Latents]:
    """Photos that training has not seen, inverted: can the model show them?

    Args:
        photos: [N, 3, H, H] in [-1, 1]; cameras [N, 25]; masks [N, 1, H, H], 1 = invented.

    Returns:
        PSNR, SSIM, VIF (LPIPS, DISTS) of the reconstructions, and the cosine of each with its own photo; the
        latents.
    """
    found = invert(generator, photos, cameras, config, masks, on_step)
    views = render(generator, found.ws, cameras)
    measures = nearness(views, photos, lpips, dists)
    if face_models is not None:
        from ..face import embed

        mine, seen = embed(views, face_models)
        theirs, known = embed(photos, face_models)
        measures["identity"] = _mean((mine * theirs).sum(1)[seen & known])
    return measures, found


def multi_view_identity(
    generator: Generator,
    ws: Tensor,
    likeness: Likeness,
    *,
    views: int = 24,
    seed: int = 0,
) -> float | None:
    """Identity error around the head: 1 - the cosine with the nearest photo, on random frames of an orbit.

    Args:
        ws: [N, num_ws, w_dim]; the result is their mean.
        views: random frames of the 120 of `ORBIT`, others for each latent.
    """
    config = generator.config
    path = orbit(**ORBIT, radius=config.avg_camera_radius, pivot=config.avg_camera_pivot, focal=config.focal)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(seed)
    errors = []
    for one in ws:
        frames = torch.randperm(len(path), generator=draw)[:views].sort().values
        error = likeness.error(render(generator, one[None], path[frames]))
        if error is not None:
            errors.append(error)
    return sum(errors) / len(errors) if errors else None


def interpolation_identity(
    generator: Generator,
    space: AlphaSpace,
    likeness: Likeness,
    *,
    poses: int = 10,
    pairs: int = 3,
    seed: int = 0,
) -> float | None:
    """Mean cosine with the photos on the way from one anchor to another, latent and camera together.

    Args:
        poses: steps of each way, both ends included.
        pairs: random pairs of anchors.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(pairs):
        order = torch.randperm(len(space), generator=draw).tolist()
        way = space.interpolate(order[0], order[1 % len(space)], torch.linspace(0, 1, poses))
        assert way.cameras is not None
        found.append(likeness.mean(render(generator, way.ws, way.cameras)))
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def alpha_samples(
    generator: Generator,
    space: AlphaSpace,
    likeness: Likeness,
    *,
    count: int = 20,
    seed: int = 0,
    distance: Distance = laplacian_distance,
) -> Measures:
    """Random looks out of alpha-space (three anchors each), from the front.

    Returns:
        "identity": mean cosine with the photos; "diversity": mean perceptual distance of two samples.
    """
    samples = space.sample(count, seed, min(3, len(space)))
    front = front_camera(generator.config, torch.device("cpu"))
    views = render(generator, samples.ws, front.expand(count, -1))
    with torch.no_grad():
        pairs = [distance(views[i : i + 1], views[i + 1 :], None) for i in range(count - 1)]
    return {"identity": likeness.mean(views), "diversity": _mean(torch.cat(pairs)) if pairs else None}


def edit_identity(
    generator: Generator,
    space: AlphaSpace,
    likeness: Likeness,
    directions: Sequence[Direction],
    strengths: Sequence[float] = (-2.0, 2.0),
) -> Measures:
    """Mean cosine with the photos when the mean anchor is edited within the person, from the front.

    Returns:
        "free": edited as the direction says; "within": by its part in the span of the anchors.
    """
    mean, amount = space.anchors.mean(), torch.tensor(list(strengths))
    front = front_camera(generator.config, torch.device("cpu"))
    measures: Measures = {}
    for name, within in (("free", None), ("within", space)):
        ws = torch.cat([direction.apply(mean, amount, within=within) for direction in directions])
        measures[name] = likeness.mean(render(generator, ws, front.expand(len(ws), -1)))
    return measures


@torch.no_grad()
def truth_scores(
    generator: Generator, ws: Tensor, cameras: Tensor, images: Tensor, depth: Tensor, mask: Tensor
) -> Measures:
    """One head against the truth from cameras that no photo has.

    Args:
        ws: [1, num_ws, w_dim]; cameras [N, 25].
        images: [N, 3, H, H] in [-1, 1]; depth [N, 1, H, H] along the ray in world units, mask [N, 1, H, H].

    Returns:
        PSNR, SSIM, VIF; "depth error": mean absolute, where both show the head; "floaters": share of pixels
        with density off the true surface: off the head the ray's weight, on it 1 where the ray ends more than
        a twentieth of the head's box before the surface.
    """
    device = generator.w_avg.device
    measures = nearness(render(generator, ws, cameras), images)
    planes, size = generator.planes(ws.to(device)), mask.shape[-1]
    errors, floaters = [], []
    for camera, far, head in zip(cameras, depth.to(device), mask.to(device), strict=True):
        marched = generator.march(planes, camera[None].to(device), size)
        found, weight = (v[0].T.unflatten(1, (size, size)) for v in (marched.depth, marched.weight))
        on, off = head > 0.999, head < 0.001
        both = on & (weight > 0.5)
        errors.append((found - far).abs()[both])
        before = both & (found < far - generator.config.box_warp / 20)
        floaters.append((weight[off].sum() + before.sum()) / head.numel())
    return measures | {"depth error": _mean(torch.cat(errors)), "floaters": _mean(torch.stack(floaters))}


def quick(config: InversionConfig, steps: int) -> InversionConfig:
    """The same inversion in other steps, at a rate that suits them."""
    return replace(config, steps=steps, lr=config.lr * max(1.0, (1000 / steps) ** 0.5))
