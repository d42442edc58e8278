"""Scores of the shipped starter on heads it has not seen, and a contact sheet of truth against render.

python -m my3dgen_core.starter.evaluate --heads 24 --views 3 --sheet sheet.jpg
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ..eg3d.generator import Generator
from .heads import truth
from .metrics import HeldOut, inside, measure, psnr
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
    """uint8 [H, W, 3]: for each head one row, for each view truth and render side by side."""
    rows = []
    for i in range(min(heads, len(held_out.z))):
        ws = latents(generator, held_out.z[i : i + 1])
        images = generator.render(ws, held_out.cameras[i], planes=generator.planes(ws)).image
        pairs = torch.stack([held_out.images[i], images], dim=1).flatten(0, 1)
        rows.append(torch.cat(list(pairs), dim=2))
    sheet = torch.cat(rows, dim=1).clamp(-1, 1)
    return ((sheet + 1) * 127.5 + 0.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def main() -> None:
    from ..checkpoint import load_generator

    parser = argparse.ArgumentParser(description="Score the starter generator on unseen heads.")
    parser.add_argument("--generator", default="starter", help='"starter" or a .safetensors file')
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--seed", type=int, default=778_000)
    parser.add_argument("--sheet", type=Path, default=None, help="write a contact sheet here (.jpg or .png)")
    arguments = parser.parse_args()
    generator = load_generator(arguments.generator)
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
    if arguments.sheet is not None:
        from PIL import Image

        Image.fromarray(contact_sheet(generator, held_out)).save(arguments.sheet, quality=90)


if __name__ == "__main__":
    main()
