"""Does the personal prior know the person? Views that no photo had, against the truth.

The protocol: photos -> anchors -> identity, then the mean anchor is rendered from held-out cameras, once
with the pretrained generator and once with the personalised one. PSNR and SSIM compare with the true
picture; identity is the cosine of ArcFace embeddings with the training photos (My3DGen, WACV 2025, section
4).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adapter import personalized
from .eg3d import Generator
from .identity import Identity
from .inversion import InversionConfig, invert
from .losses import resize
from .tuning import TuningConfig, personalize

if TYPE_CHECKING:
    from .face import FaceModels

DEMO_PERSON = Path(__file__).parent / "starter" / "demo_person"


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


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: [N, 3, H, W] twice, in [-1, 1] -> [N]."""
    error = (images.clamp(-1, 1) - targets.clamp(-1, 1)).square().mean((1, 2, 3)) / 4
    return -10 * error.clamp(min=1e-10).log10()


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity of each picture, 11-pixel window: [N, 3, H, W] twice, in [-1, 1] -> [N]."""
    from kornia.metrics import ssim as kornia_ssim

    return kornia_ssim(images.clamp(-1, 1) / 2 + 0.5, targets.clamp(-1, 1) / 2 + 0.5, 11).mean((1, 2, 3))


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score is higher than a negative one (ties count half)."""
    difference = positive.flatten()[:, None] - negative.flatten()
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


@torch.no_grad()
def render_views(generator: Generator, ws: Tensor, cameras: Tensor) -> Tensor:
    """One latent [1, num_ws, w_dim] from cameras [N, 25]: pictures [N, 3, R, R] on the CPU."""
    planes = generator.planes(ws)
    views = [
        generator.render(ws, camera[None].to(ws.device), planes=planes).image.cpu() for camera in cameras
    ]
    return torch.cat(views)


@torch.no_grad()
def strangers(generator: Generator, count: int = 40, seed: int = 1) -> Tensor:
    """Frontal pictures [count, 3, R, R] of random heads."""
    from .camera import look_at

    config = generator.config
    z = torch.randn(count, config.z_dim, generator=torch.Generator().manual_seed(seed))
    front = look_at(0.0, 0.0, config.avg_camera_radius, None, config.focal)
    device = generator.w_avg.device
    ws = generator.mapping(z.to(device), front.to(device).expand(count, -1))
    return torch.cat([render_views(generator, one[None], front) for one in ws])


def score(
    views: Tensor, truth: Tensor, photos: Tensor | None, others: Tensor | None, face_models: FaceModels | None
) -> Scores:
    """Scores of rendered `views` [N, 3, R, R] against `truth` of any size; see `evaluate`."""
    truth = resize(truth, views.shape[-1])
    basic = float(psnr(views, truth).mean()), float(ssim(views, truth).mean())
    if face_models is None or photos is None or others is None:
        return Scores(*basic)
    from .face import embed

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
    rendered = {"pretrained": render_views(generator, mean, cameras)}
    with personalized(generator, identity):
        rendered["personalised"] = render_views(generator, mean, cameras)
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


def read_demo_person() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bundled person: photos [N, 3, H, H], their cameras [N, 25], held-out views and theirs."""
    from .face import load_photo

    labels = json.loads((DEMO_PERSON / "cameras.json").read_text())

    def read(part: str) -> tuple[Tensor, Tensor]:
        names = sorted(labels[part])
        pictures = [torch.from_numpy(load_photo(DEMO_PERSON / name).copy()) for name in names]
        images = torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, torch.tensor([labels[part][name] for name in names])

    return *read("train"), *read("held_out")


def personalize_demo_person(
    generator: Generator,
    inversion: InversionConfig,
    tuning: TuningConfig,
    face_models: FaceModels | None = None,
) -> tuple[dict[str, dict[str, Scores]], dict[str, float]]:
    """The README's table: exact training cameras, then detection and alignment.

    Returns:
        scores by kind of camera and model, and the seconds of each stage.
    """
    photos, cameras, views, view_cameras = read_demo_person()
    results: dict[str, dict[str, Scores]] = {}
    seconds: dict[str, float] = {}

    def run(
        name: str, images: Tensor, labels: Tensor, masks: Tensor | None, truth: Tensor, truth_labels: Tensor
    ) -> None:
        start = time.perf_counter()
        anchors = invert(generator, images, labels, inversion, masks)
        middle = time.perf_counter()
        identity = personalize(generator, images, anchors, tuning, masks)
        seconds[f"{name}: invert"] = middle - start
        seconds[f"{name}: train"] = time.perf_counter() - middle
        results[name] = evaluate(
            generator, identity, truth, truth_labels, photos=images, face_models=face_models
        )

    run("exact", photos, cameras, None, views, view_cameras)
    if face_models is not None:
        from .face import align_faces

        train = align_faces(photos, face_models)
        held = align_faces(views, face_models, max_yaw=90)
        name = f"aligned ({len(train.kept)} photos, {len(held.kept)} of {len(views)} views)"
        run(name, train.images, train.cameras, train.masks, held.images, held.cameras)
    return results, seconds


def as_json(results: Mapping[str, Mapping[str, Scores]], seconds: Mapping[str, float]) -> str:
    """The same as JSON, for a file."""
    scores = {name: {model: asdict(s) for model, s in one.items()} for name, one in results.items()}
    return json.dumps({"scores": scores, "seconds": dict(seconds)}, indent=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `python -m my3dgen_core evaluate`."""
    parser.add_argument("--generator", default="starter", help="'starter' or a file")
    parser.add_argument("--face-models", type=Path, help="ONNX folder: adds identity and alignment")
    parser.add_argument("--json", type=Path, help="also write the figures here")


def main(args: argparse.Namespace) -> str:
    """Personalises the demo person and returns the README's table."""
    from .checkpoint import load_generator
    from .face import FaceModels

    face_models = None if args.face_models is None else FaceModels.from_folder(args.face_models)
    results, seconds = personalize_demo_person(
        load_generator(args.generator), InversionConfig(), TuningConfig(), face_models
    )
    if args.json is not None:
        args.json.write_text(as_json(results, seconds))
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"{table(results)}\n\n{times}"
