"""Evaluation protocols of My3DGen (WACV 2025, section 4) and MyStyle, and scores against ground truth.

Each function measures the generator as it is: apply an identity around the call (`personalized`) to measure a
personal model. Results are plain numbers by name, None where no face was found or a package is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..camera import orbit
from ..common.image_ops import resize
from ..common.progress import OnStep
from ..editing.alpha_space import AlphaSpace
from ..editing.direction import Direction
from ..eg3d import Generator
from ..eg3d.config import front_camera
from ..face import FaceModels, embed
from ..fitting.inversion import InversionConfig, invert
from ..fitting.losses import laplacian_distance
from ..fitting.lpips import Distance, Lpips
from ..person.latents import Latents
from .dists import Dists
from .metrics import IdentitySimilarity, psnr, ssim, vif

Measures = dict[str, float | None]
"""Results of a protocol by name; None where a value is unknown."""

HELD_OUT = InversionConfig(steps=1000, shared_steps=0, space="w+", lr=0.01, w_noise=0.0)
"""Settings of the paper's inversion of held-out photos."""
ORBIT = {"frames": 120, "yaw": 0.35, "pitch": -0.25, "center_pitch": 0.05}
"""Arguments of the paper's `orbit`; its polar angle pi/2 - 0.05 + 0.25 cos is given as an elevation."""


@torch.no_grad()
def render(generator: Generator, ws: Tensor, cameras: Tensor) -> Tensor:
    """Render latents from cameras, one picture at a time.

    Args:
        generator: with or without an identity in effect.
        ws: [N or 1, num_ws, w_dim].
        cameras: [N, 25].

    Returns:
        [N, 3, R, R] on the CPU.
    """
    device = generator.w_avg.device
    ws, cameras = ws.to(device), cameras.to(device)
    planes = generator.planes(ws) if len(ws) == 1 else None
    views = []
    for i, camera in enumerate(cameras):
        one = ws if len(ws) == 1 else ws[i : i + 1]
        views.append(generator.render(one, camera[None], planes=planes).image.cpu())
    return torch.cat(views)


def _mean(values: Tensor | None) -> float | None:
    """Return the mean of values [N] as a number; None for no values."""
    return None if values is None or len(values) == 0 else float(values.mean())


def nearness(
    views: Tensor, truth: Tensor, lpips: Lpips | None = None, dists: Dists | None = None
) -> Measures:
    """Compare pictures with the truth.

    Args:
        views: [N, 3, R, R] in [-1, 1], on the CPU.
        truth: [N, 3, H, H] in [-1, 1], any size.
        lpips, dists: additional distances; None: not measured.

    Returns:
        means of "PSNR dB", "SSIM", "VIF", and "LPIPS" and "DISTS" where given.
    """
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
    """Invert held-out photos and compare the reconstructions with them (My3DGen, section 4).

    Args:
        generator: with or without an identity in effect.
        photos: [N, 3, H, H] in [-1, 1].
        cameras: [N, 25].
        masks: [N, 1, H, H], 1 = ignored pixel.
        face_models: face networks with ArcFace; None: no identity.
        lpips, dists: additional distances; None: not measured.
        config: settings of the inversion.
        on_step: progress callback of the inversion.

    Returns:
        measures of `nearness`, with "identity", the mean cosine of the reconstructions with their photos; and
        the latents.
    """
    found = invert(generator, photos, cameras, config, masks, on_step)
    views = render(generator, found.ws, cameras)
    measures = nearness(views, photos, lpips, dists)
    if face_models is not None:
        mine, seen = embed(views, face_models)
        theirs, known = embed(photos, face_models)
        measures["identity"] = _mean((mine * theirs).sum(1)[seen & known])
    return measures, found


def multi_view_identity(
    generator: Generator,
    ws: Tensor,
    similarity: IdentitySimilarity,
    *,
    views: int = 24,
    seed: int = 0,
) -> float | None:
    """Measure the identity error on random frames of an orbit around the head (My3DGen, section 4).

    Args:
        generator: with or without an identity in effect.
        ws: [N, num_ws, w_dim].
        similarity: to photos of the person.
        views: number of random frames of `ORBIT`, drawn separately for each latent.
        seed: of the frames.

    Returns:
        mean of 1 - the cosine with the most similar photo; None if no face was found.
    """
    config = generator.config
    path = orbit(**ORBIT, radius=config.avg_camera_radius, pivot=config.avg_camera_pivot, focal=config.focal)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(seed)
    errors = []
    for one in ws:
        frames = torch.randperm(len(path), generator=draw)[:views].sort().values
        error = similarity.error(render(generator, one[None], path[frames]))
        if error is not None:
            errors.append(error)
    return sum(errors) / len(errors) if errors else None


def interpolation_identity(
    generator: Generator,
    space: AlphaSpace,
    similarity: IdentitySimilarity,
    *,
    poses: int = 10,
    pairs: int = 3,
    seed: int = 0,
) -> float | None:
    """Measure identity while latent and camera are interpolated between anchors (My3DGen, section 4).

    Args:
        generator: with or without an identity in effect.
        space: alpha space of the person.
        similarity: to photos of the person.
        poses: steps between two anchors, both ends included.
        pairs: number of random pairs of anchors.
        seed: of the pairs.

    Returns:
        mean cosine with the photos; None if no face was found.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(pairs):
        order = torch.randperm(len(space), generator=draw).tolist()
        path = space.interpolate(order[0], order[1 % len(space)], torch.linspace(0, 1, poses))
        assert path.cameras is not None
        found.append(similarity.mean(render(generator, path.ws, path.cameras)))
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def alpha_samples(
    generator: Generator,
    space: AlphaSpace,
    similarity: IdentitySimilarity,
    *,
    count: int = 20,
    seed: int = 0,
    distance: Distance = laplacian_distance,
) -> Measures:
    """Measure random samples of alpha space, of three anchors each, from the front (My3DGen, section 4).

    Args:
        generator: with or without an identity in effect.
        space: alpha space of the person.
        similarity: to photos of the person.
        count: number of samples.
        seed: of the samples.
        distance: perceptual distance of the diversity.

    Returns:
        "identity": mean cosine with the photos; "diversity": mean perceptual distance of two samples.
    """
    samples = space.sample(count, seed, min(3, len(space)))
    front = front_camera(generator.config, torch.device("cpu"))
    views = render(generator, samples.ws, front.expand(count, -1))
    with torch.no_grad():
        pairs = [distance(views[i : i + 1], views[i + 1 :], None) for i in range(count - 1)]
    return {"identity": similarity.mean(views), "diversity": _mean(torch.cat(pairs)) if pairs else None}


def edit_identity(
    generator: Generator,
    space: AlphaSpace,
    similarity: IdentitySimilarity,
    directions: Sequence[Direction],
    strengths: Sequence[float] = (-2.0, 2.0),
) -> Measures:
    """Measure identity while the mean anchor is edited, from the front.

    Args:
        generator: with or without an identity in effect.
        space: alpha space of the person.
        similarity: to photos of the person.
        directions: edits.
        strengths: of each edit.

    Returns:
        mean cosine with the photos, "free": edits in W; "within": edits within the alpha space.
    """
    mean, amount = space.anchors.mean(), torch.tensor(list(strengths))
    front = front_camera(generator.config, torch.device("cpu"))
    measures: Measures = {}
    for name, within in (("free", None), ("within", space)):
        ws = torch.cat([direction.apply(mean, amount, within=within) for direction in directions])
        measures[name] = similarity.mean(render(generator, ws, front.expand(len(ws), -1)))
    return measures


@torch.no_grad()
def truth_scores(
    generator: Generator, ws: Tensor, cameras: Tensor, images: Tensor, depth: Tensor, mask: Tensor
) -> Measures:
    """Compare renderings and depth of one head with ground truth.

    Args:
        generator: with or without an identity in effect.
        ws: [1, num_ws, w_dim].
        cameras: [N, 25].
        images: true pictures [N, 3, H, H] in [-1, 1].
        depth: true depth along the ray in world units, [N, 1, H, H].
        mask: true coverage of the head, [N, 1, H, H] in 0..1.

    Returns:
        measures of `nearness`; "depth error": mean absolute error where both show the head; "floaters": share
        of density off the true surface, which is the ray's weight off the head, and 1 for a pixel on the head
        whose ray ends more than a twentieth of the head's box before the surface.
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
    """Return the settings for another number of steps, with the learning rate scaled to it."""
    return replace(config, steps=steps, lr=config.lr * max(1.0, (1000 / steps) ** 0.5))
