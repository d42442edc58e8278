"""Own anchors against a shared one while training: views, photos, expressions and alpha samples of a person.

    python -m studies.personalization.persons --out build/study/persons 100 --photos 24 --plain    # once
    python -m benchmarks.anchors build/study/persons/100.npz --face-models FOLDER

Photos have exact cameras. Views are rendered from the mean anchor and compared with held-out truth, photos
each from its own anchor. The face models need landmarks and a recognition network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from my3dgen_core import (
    AlphaSpace,
    FaceModels,
    Identity,
    InversionConfig,
    TuningConfig,
    invert,
    load_generator,
    personalize,
    personalized,
)
from my3dgen_core.common.image_ops import resize, to_uint8
from my3dgen_core.eg3d import Generator
from my3dgen_core.eg3d.rendering.backend import select_backend
from my3dgen_core.evaluation import IdentitySimilarity, psnr
from my3dgen_core.evaluation.protocols import alpha_samples, render
from studies.personalization.persons import Person, read

EYES, MOUTH = (range(33, 43), range(87, 97)), range(52, 72)
"""Indices into InsightFace's 106 landmarks."""


def landmarks(face_models: FaceModels, image: Tensor) -> np.ndarray | None:
    """Return the landmarks [106, 2] of a picture [3, H, W] in pixels of 512, or None without a face."""
    pixels = to_uint8(resize(image[None].float(), 512))[0].permute(1, 2, 0).contiguous().numpy()
    faces = face_models.detect(pixels, pad=0.5)
    return face_models.landmarks(pixels, max(faces, key=lambda face: face.size).box) if faces else None


def expression_error(face_models: FaceModels, images: Tensor, photos: Tensor) -> float:
    """Return the mean distance of the landmarks of mouth and lids, in percent of that between the eyes."""
    parts = [*EYES[0], *EYES[1], *MOUTH]
    errors = []
    for image, photo in zip(images, photos, strict=True):
        mine, theirs = landmarks(face_models, image), landmarks(face_models, photo)
        if mine is not None and theirs is not None:
            left, right = (theirs[list(eye)].mean(0) for eye in EYES)
            distance = np.linalg.norm(mine[parts] - theirs[parts], axis=1).mean()
            errors.append(100 * distance / np.linalg.norm(left - right))
    return float(np.mean(errors))


@torch.no_grad()
def measure(generator: Generator, identity: Identity, person: Person, face_models: FaceModels) -> list[str]:
    """Return the cells of a row of the table."""
    count, anchors = len(identity.anchors), identity.anchors
    photos = person.photos[:count]
    similarity = IdentitySimilarity(photos, face_models)
    with personalized(generator, identity):
        views = render(generator, anchors.mean(), person.view_cameras)
        images = render(generator, anchors.ws, person.cameras[:count])
        samples = alpha_samples(generator, AlphaSpace(anchors), similarity, count=16)
    return [
        f"{float(psnr(views, person.views).mean()):.2f}",
        f"{similarity.mean(views) or 0:.3f}",
        f"{float(psnr(images, photos).mean()):.2f}",
        f"{expression_error(face_models, images, photos):.2f}",
        f"{samples['identity'] or 0:.3f}",
        f"{samples['diversity'] or 0:.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("persons", type=Path, nargs="+", help="files of studies.personalization.persons")
    parser.add_argument("--face-models", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--method", default="lora", choices=("lora", "full"))
    args = parser.parse_args()
    generator, face_models = load_generator(), FaceModels.from_folder(args.face_models)
    select_backend(generator, "auto")
    columns = ["person", "anchors", "views dB", "identity", "photos dB", "mouth and lids %"]
    columns += ["alpha identity", "alpha diversity", "s"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for file in args.persons:
        person = read(file)
        photos, cameras = person.photos[: args.photos], person.cameras[: args.photos]
        found = invert(generator, photos, cameras, InversionConfig(preview_every=0))
        for name, steps in (("own", 25), ("shared", 25), ("shared", 50)):
            config = TuningConfig(
                steps=args.steps, method=args.method, preview_every=0, anchors=name, anchor_steps=steps
            )
            start = time.perf_counter()
            identity = personalize(generator, photos, found, config)
            seconds = time.perf_counter() - start
            row = measure(generator, identity, person, face_models)
            label = name if name == "own" else f"{name}, {steps} steps"
            print(f"| {file.stem} | {label} | {' | '.join(row)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
