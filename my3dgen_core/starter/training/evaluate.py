"""Scores of the starter on held-out heads, and pictures of them.

python -m my3dgen_core.starter.training.evaluate --heads 200 --views 6 --sheet sheet.jpg
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...camera import look_at
from ...checkpoint import load_generator
from ...common.image_ops import to_pixels
from ...eg3d.generator import Generator
from ...eg3d.rendering.backend import select_backend
from ...evaluation import auc
from ...face import FaceModels, embed
from ..synthetic.factors import Z_DIM
from ..synthetic.heads import random_cameras, truth
from .direction_effects import sweeps
from .held_out import HeldOut, interior_mask, measure, psnr
from .objectives import latents


def mean_head_scores(held_out: HeldOut) -> tuple[float, float]:
    """Compute the PSNR in dB of the mean head on the same views: whole picture, and inside the silhouette."""
    whole, within = [], []
    for i in range(len(held_out.z)):
        target, mask = held_out.images[i], held_out.mask[i]
        guess = truth(torch.zeros(1, held_out.z.shape[1]), held_out.cameras[i], target.shape[-1])[0]
        whole.append(psnr(guess, target))
        within.append(psnr(guess, target, interior_mask(mask)))
    return float(torch.cat(whole).mean()), float(torch.cat(within).mean())


@torch.no_grad()
def comparison_sheet(generator: Generator, held_out: HeldOut, heads: int = 6) -> np.ndarray:
    """Draw one row for each head, with ground truth, render and error map of each view.

    Error maps are white for no error and black from half the range on.

    Args:
        generator: finished generator.
        held_out: ground truth.
        heads: largest number of rows.

    Returns:
        The sheet [H, W, 3] uint8.
    """
    rows = []
    for i in range(min(heads, len(held_out.z))):
        ws = latents(generator, held_out.z[i : i + 1])
        images = generator.render(ws, held_out.cameras[i], planes=generator.planes(ws)).image.clamp(-1, 1)
        truths = held_out.images[i]
        errors = (1 - 2 * (images - truths).abs().mean(dim=1, keepdim=True)).expand(-1, 3, -1, -1)
        rows.append(torch.cat(list(torch.stack([truths, images, errors], dim=1).flatten(0, 1)), dim=2))
    return to_pixels(torch.cat(rows, dim=1))


@torch.no_grad()
def sample_sheet(generator: Generator, truncation_psi: float = 0.7) -> np.ndarray:
    """Draw 27 pictures [H, W, 3] uint8, nine per row: the mean latent from three sides, then random heads."""
    yaws = torch.tensor([-0.5, 0.0, 0.5])
    mean = generator.w_avg.expand(1, generator.num_ws, -1)
    views = [generator.render(mean, look_at(yaws, 0.0)).image]
    z = torch.randn(24, Z_DIM, generator=torch.Generator().manual_seed(7))
    ws = generator.mapping(z, z.new_zeros(24, generator.config.c_dim), truncation_psi)
    for i, one in enumerate(ws):
        views.append(generator.render(one[None], look_at(float(yaws[i % 3]) * 0.8, 0.05)).image)
    rows = torch.cat(views).unflatten(0, (3, 9)).permute(0, 2, 3, 1, 4).flatten(3).permute(1, 0, 2, 3)
    return to_pixels(rows.flatten(1, 2))


@torch.no_grad()
def identity_scores(generator: Generator, face_models: FaceModels, heads: int) -> str:
    """Measure face detection and identity on renders of random heads.

    The AUC compares cosines between two views of one head (yaw to 34, pitch to 15 degrees) with those between
    different heads.

    Args:
        generator: finished generator.
        face_models: face networks with recognition.
        heads: number of random heads.

    Returns:
        A line of text with the results.
    """
    rng = np.random.default_rng(3)
    z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(779_000))
    front, sides = [], []
    for one in z:
        ws = latents(generator, one[None])
        planes = generator.planes(ws)
        cameras = torch.cat([look_at(0.0, 0.0), random_cameras(4, rng, yaw=34, pitch=15)])
        images = generator.render(ws, cameras, planes=planes).image
        front.append(images[:1])
        sides.append(images[1:])
    found = embed(torch.cat(front), face_models)[1]
    features, seen = embed(torch.cat(sides), face_models)
    owner = torch.arange(heads).repeat_interleave(4)[seen]
    cosine = features[seen] @ features[seen].T
    same = owner[:, None] == owner
    pairs = torch.ones_like(same).triu(1)
    alike, different = cosine[same & pairs], cosine[~same & pairs]
    return (
        f"faces found in {int(found.sum())} of {heads} frontal renders and {int(seen.sum())} of {len(seen)} "
        f"others; AUC same head against different heads {auc(alike, different):.4f}, best "
        f"threshold at cosine {best_threshold(alike, different):.3f}"
    )


def best_threshold(alike: torch.Tensor, different: torch.Tensor) -> float:
    """Find the threshold with the highest balanced accuracy.

    Args:
        alike: cosines of pairs of one head [N].
        different: cosines of pairs of different heads [M].
    """
    places = torch.cat([alike, different]).sort().values
    right = torch.stack([(alike >= t).float().mean() + (different < t).float().mean() for t in places])
    return float(places[right.argmax()])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Score the starter generator on unseen heads.")
    parser.add_argument("--generator", default="starter", help='"starter" or a .safetensors file')
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--seed", type=int, default=778_000)
    parser.add_argument("--face-models", type=Path, default=None, help="also detection and identity")
    parser.add_argument("--sheet", type=Path, default=None, help="write a contact sheet here (.jpg or .png)")
    parser.add_argument("--samples", type=Path, default=None, help="write random heads here")
    arguments = parser.parse_args()
    generator = load_generator(arguments.generator)
    select_backend(generator, "auto")
    held_out = HeldOut.make(arguments.heads, arguments.views, arguments.seed)
    views = f"{arguments.heads} unseen heads x {arguments.views} views"
    print(f"{views}, yaw +-60, pitch +-25, 128 px, truncation 1")  # noqa: T201
    print(f"starter:   {measure(generator, held_out)}")  # noqa: T201
    whole, within = mean_head_scores(held_out)
    print(f"mean head: PSNR {whole:.2f} dB (inside {within:.2f})")  # noqa: T201
    with torch.no_grad():
        ws = latents(generator, held_out.z[:1])
        start = time.time()
        planes = generator.planes(ws)
        middle = time.time()
        generator.render(ws, held_out.cameras[0, :1], planes=planes)
        print(f"one latent's planes {middle - start:.2f} s, one frame of 128 px {time.time() - middle:.2f} s")  # noqa: T201
    if arguments.face_models is not None:
        models = FaceModels.from_folder(arguments.face_models)
        print(identity_scores(generator, models, arguments.heads))  # noqa: T201
        for swept in sweeps(generator, models):
            print(swept)  # noqa: T201
    for path, draw in (
        (arguments.sheet, lambda: comparison_sheet(generator, held_out)),
        (arguments.samples, lambda: sample_sheet(generator)),
    ):
        if path is not None:
            Image.fromarray(draw()).save(path, quality=90)


if __name__ == "__main__":
    main()
