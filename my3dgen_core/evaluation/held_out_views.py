"""Does the personal prior know the person? Views that no photo had, against the truth.

The protocol: photos -> anchors -> identity, then the mean anchor is rendered from held-out cameras, once
with the pretrained generator and once with the personalised one. PSNR and SSIM compare with the true
picture; identity is the cosine of ArcFace embeddings with the training photos (My3DGen, WACV 2025, section
4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.image_ops import resize
from ..eg3d import Generator
from ..person.apply import personalized
from ..person.identity import Identity
from .metrics import auc, psnr, ssim
from .protocols import render

if TYPE_CHECKING:
    from ..face import FaceModels


@dataclass(frozen=True)
class Scores:
    """Means over the held-out views.

    psnr in dB over the whole picture; ssim; identity: mean cosine with the training photos, worst: that of
    the worst view; auc: how often a view is nearer to the training photos than a random head of the same
    generator is; faces: the share of views in which a face was found. The last four are None without face
    models.
    """

    psnr: float
    ssim: float
    identity: float | None = None
    worst: float | None = None
    auc: float | None = None
    faces: float | None = None


@torch.no_grad()
def strangers(generator: Generator, count: int = 40, seed: int = 1) -> Tensor:
    """Frontal pictures [count, 3, R, R] of random heads."""
    from ..camera import look_at

    config = generator.config
    z = torch.randn(count, config.z_dim, generator=torch.Generator().manual_seed(seed))
    front = look_at(0.0, 0.0, config.avg_camera_radius, None, config.focal)
    device = generator.w_avg.device
    ws = generator.mapping(z.to(device), front.to(device).expand(count, -1))
    return torch.cat([render(generator, one[None], front) for one in ws])


def score(
    views: Tensor, truth: Tensor, photos: Tensor | None, others: Tensor | None, face_models: FaceModels | None
) -> Scores:
    """Scores of rendered `views` [N, 3, R, R] against `truth` of any size; see `evaluate`."""
    truth = resize(truth, views.shape[-1])
    basic = float(psnr(views, truth).mean()), float(ssim(views, truth).mean())
    if face_models is None or photos is None or others is None:
        return Scores(*basic)
    from ..face import embed

    mine, seen = embed(views, face_models)
    known = embed(photos, face_models)
    foreign = embed(others, face_models)
    known_faces, foreign_faces = known[0][known[1]], foreign[0][foreign[1]]
    if not bool(seen.any()) or len(known_faces) == 0:
        return Scores(*basic, faces=float(seen.float().mean()))
    cosine = (mine[seen] @ known_faces.T).mean(1)
    return Scores(
        *basic,
        identity=float(cosine.mean()),
        worst=float(cosine.min()),
        auc=auc(cosine, (foreign_faces @ known_faces.T).mean(1)),
        faces=float(seen.float().mean()),
    )


def evaluate(
    generator: Generator,
    identity: Identity,
    views: Tensor,
    cameras: Tensor,
    *,
    photos: Tensor | None = None,
    face_models: FaceModels | None = None,
) -> dict[str, Scores]:
    """Pretrained against personalised on held-out views.

    Args:
        generator: the base, without identity.
        identity: of the person; its mean anchor is what both render.
        views: [N, 3, H, H] in [-1, 1], the truth; any size.
        cameras: [N, 25] of the views.
        photos: the training photos [M, 3, h, h], for identity similarity.
        face_models: with an ArcFace network; None leaves identity out.

    Returns:
        "pretrained", "personalised" and "truth" (the true views against the photos: the best one can hope
        for).
    """
    mean = identity.anchors.mean().to(generator.w_avg.device)
    others = strangers(generator) if face_models is not None else None
    rendered = {"pretrained": render(generator, mean, cameras)}
    with personalized(generator, identity):
        rendered["personalised"] = render(generator, mean, cameras)
    rendered["truth"] = resize(views, generator.config.img_resolution)
    return {name: score(r, views, photos, others, face_models) for name, r in rendered.items()}


def table(results: Mapping[str, Mapping[str, Scores]]) -> str:
    """Results of several `evaluate` calls, by name, as a Markdown table."""

    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = [
        "| cameras | model | PSNR dB | SSIM | identity (cosine) | worst view | AUC | faces found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, scores in results.items():
        for model, s in scores.items():
            values = [cell(s.psnr, 2), cell(s.ssim, 3), cell(s.identity, 3), cell(s.worst, 3)]
            values += [cell(s.auc, 3), cell(s.faces, 2)]
            if model == "truth":
                values[:2] = ["-", "-"]
            lines.append(f"| {name} | {model} | {' | '.join(values)} |")
    return "\n".join(lines)
