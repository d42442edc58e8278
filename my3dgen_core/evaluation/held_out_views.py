"""Evaluation on held-out views: renderings from cameras that no training photo has, against true pictures.

The mean anchor of an identity is rendered by the pretrained and by the personalized generator. PSNR and SSIM
compare with the true pictures; identity is the cosine of ArcFace embeddings with the training photos
(My3DGen, WACV 2025, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..camera import look_at
from ..common.image_ops import resize
from ..eg3d import Generator
from ..face import FaceModels, embed
from ..person.apply import personalized
from ..person.identity import Identity
from .metrics import auc, psnr, ssim
from .protocols import render


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of one model on held-out views. The last four are None without face models."""

    psnr: float
    """Mean PSNR over whole pictures in dB."""
    ssim: float
    """Mean structural similarity, at most 1."""
    identity: float | None = None
    """Mean ArcFace cosine with the training photos."""
    worst: float | None = None
    """Lowest mean cosine of a single view with the training photos."""
    auc: float | None = None
    """Probability that a view is more similar to the training photos than a random head of the generator."""
    faces: float | None = None
    """Share of the views in which a face was found."""


@torch.no_grad()
def strangers(generator: Generator, count: int = 40, seed: int = 1) -> Tensor:
    """Render random heads from the front, as negatives of the AUC: [count, 3, R, R]."""
    config = generator.config
    z = torch.randn(count, config.z_dim, generator=torch.Generator().manual_seed(seed))
    front = look_at(0.0, 0.0, config.avg_camera_radius, None, config.focal)
    device = generator.w_avg.device
    ws = generator.mapping(z.to(device), front.to(device).expand(count, -1))
    return torch.cat([render(generator, one[None], front) for one in ws])


def score(
    views: Tensor, truth: Tensor, photos: Tensor | None, others: Tensor | None, face_models: FaceModels | None
) -> HeldOutScores:
    """Score rendered views.

    Args:
        views: [N, 3, R, R] in [-1, 1].
        truth: true pictures of the same views [N, 3, H, H], any size.
        photos: training photos [M, 3, h, h], for identity.
        others: pictures of other persons [K, 3, S, S], for the AUC.
        face_models: face networks with ArcFace; None: no identity.
    """
    truth = resize(truth, views.shape[-1])
    basic = float(psnr(views, truth).mean()), float(ssim(views, truth).mean())
    if face_models is None or photos is None or others is None:
        return HeldOutScores(*basic)
    mine, seen = embed(views, face_models)
    known = embed(photos, face_models)
    foreign = embed(others, face_models)
    known_faces, foreign_faces = known[0][known[1]], foreign[0][foreign[1]]
    if not bool(seen.any()) or len(known_faces) == 0:
        return HeldOutScores(*basic, faces=float(seen.float().mean()))
    cosine = (mine[seen] @ known_faces.T).mean(1)
    return HeldOutScores(
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
) -> dict[str, HeldOutScores]:
    """Evaluate the pretrained and the personalized generator on held-out views (My3DGen, section 4).

    Args:
        generator: without an identity in effect; not changed.
        identity: identity of the person. Both models render its mean anchor.
        views: true pictures [N, 3, H, H] in [-1, 1], any size.
        cameras: [N, 25], of the views.
        photos: training photos [M, 3, h, h] in [-1, 1], for the identity similarity.
        face_models: face networks with ArcFace; None: no identity.

    Returns:
        `HeldOutScores` of "pretrained", "personalized" and "truth": the true views themselves, an upper bound
        of the identity similarity.
    """
    mean = identity.anchors.mean().to(generator.w_avg.device)
    others = strangers(generator) if face_models is not None else None
    rendered = {"pretrained": render(generator, mean, cameras)}
    with personalized(generator, identity):
        rendered["personalized"] = render(generator, mean, cameras)
    rendered["truth"] = resize(views, generator.config.img_resolution)
    return {name: score(r, views, photos, others, face_models) for name, r in rendered.items()}


def table(results: Mapping[str, Mapping[str, HeldOutScores]]) -> str:
    """Return the results of several `evaluate` calls, by name, as a Markdown table."""

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
