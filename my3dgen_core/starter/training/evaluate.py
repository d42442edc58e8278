"""Scores of the shipped starter on heads it has not seen, and pictures to look at.

python -m my3dgen_core.starter.training.evaluate --heads 200 --views 6 --sheet sheet.jpg --samples samples.jpg
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ... import evaluation
from ...camera import look_at
from ...common.image_ops import to_pixels
from ...eg3d.generator import Generator
from ...face import FaceModels
from ..synthetic.factors import Z_DIM
from ..synthetic.heads import random_cameras, truth
from .direction_effects import sweeps
from .held_out import HeldOut, inside, measure, psnr
from .objectives import latents


def mean_head_scores(held_out: HeldOut) -> tuple[float, float]:
    """PSNR, whole image and two pixels inside the head, of the constant mean head on the same views."""
    whole, within = [], []
    for i in range(len(held_out.z)):
        target, mask = held_out.images[i], held_out.mask[i]
        guess = truth(torch.zeros(1, held_out.z.shape[1]), held_out.cameras[i], target.shape[-1])[0]
        whole.append(psnr(guess, target))
        within.append(psnr(guess, target, inside(mask)))
    return float(torch.cat(whole).mean()), float(torch.cat(within).mean())


@torch.no_grad()
def contact_sheet(generator: Generator, held_out: HeldOut, heads: int = 6) -> np.ndarray:
    """uint8 [H, W, 3]: for each head one row, for each view truth, render and where they differ (white: not
    at all, black: by half the range or more)."""
    rows = []
    for i in range(min(heads, len(held_out.z))):
        ws = latents(generator, held_out.z[i : i + 1])
        images = generator.render(ws, held_out.cameras[i], planes=generator.planes(ws)).image.clamp(-1, 1)
        truths = held_out.images[i]
        errors = (1 - 2 * (images - truths).abs().mean(dim=1, keepdim=True)).expand(-1, 3, -1, -1)
        rows.append(torch.cat(list(torch.stack([truths, images, errors], dim=1).flatten(0, 1)), dim=2))
    return _pixels(torch.cat(rows, dim=1))


@torch.no_grad()
def sample_sheet(generator: Generator, truncation_psi: float = 0.7) -> np.ndarray:
    """uint8 [H, W, 3]: the mean latent from three sides, then random heads: 27 pictures, nine a row."""
    yaws = torch.tensor([-0.5, 0.0, 0.5])
    mean = generator.w_avg.expand(1, generator.num_ws, -1)
    views = [generator.render(mean, look_at(yaws, 0.0)).image]
    z = torch.randn(24, Z_DIM, generator=torch.Generator().manual_seed(7))
    ws = generator.mapping(z, z.new_zeros(24, generator.config.c_dim), truncation_psi)
    for i, one in enumerate(ws):
        views.append(generator.render(one[None], look_at(float(yaws[i % 3]) * 0.8, 0.05)).image)
    rows = torch.cat(views).unflatten(0, (3, 9)).permute(0, 2, 3, 1, 4).flatten(3).permute(1, 0, 2, 3)
    return _pixels(rows.flatten(1, 2))


def _pixels(image: torch.Tensor) -> np.ndarray:
    return to_pixels(image)


@torch.no_grad()
def identity_scores(generator: Generator, face_models: FaceModels, heads: int) -> str:
    """What face networks make of the renders: how many they find, and whether they know a head again.

    Frontal views count for detection; AUC is of cosines between two views of one head (yaw to 34, pitch to
    15 degrees) against those of different heads.
    """
    from ...face import embed

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
        f"others; AUC same head against different heads {evaluation.auc(alike, different):.4f}, best told "
        f"apart at cosine {threshold(alike, different):.3f}"
    )


def threshold(alike: torch.Tensor, different: torch.Tensor) -> float:
    """The cosine that tells pairs of one head from pairs of two with the fewest errors, both kinds weighing
    the same."""
    places = torch.cat([alike, different]).sort().values
    right = torch.stack([(alike >= t).float().mean() + (different < t).float().mean() for t in places])
    return float(places[right.argmax()])


def main() -> None:
    from ...checkpoint import load_generator
    from ...eg3d.rendering.backend import select_backend

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
        (arguments.sheet, lambda: contact_sheet(generator, held_out)),
        (arguments.samples, lambda: sample_sheet(generator)),
    ):
        if path is not None:
            Image.fromarray(draw()).save(path, quality=90)


if __name__ == "__main__":
    main()
