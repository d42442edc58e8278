"""Demo person: bundled synthetic photos and held-out views, and the evaluation on them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor

from ..common.image_ops import from_uint8
from ..eg3d import Generator
from ..face import FaceModels, align_faces, load_photo
from ..fitting.inversion import InversionConfig, invert
from ..fitting.tuning import TuningConfig, personalize
from .held_out_views import HeldOutScores, evaluate

DEMO_PERSON = Path(__file__).parent.parent / "starter" / "demo_person"
"""Folder of the demo person's pictures and cameras.json."""


def read_demo_person() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the demo person.

    Returns:
        photos [N, 3, H, H] in [-1, 1], their cameras [N, 25], held-out views [M, 3, H, H] and their cameras
        [M, 25].
    """
    labels = json.loads((DEMO_PERSON / "cameras.json").read_text())

    def read(part: str) -> tuple[Tensor, Tensor]:
        names = sorted(labels[part])
        pictures = [torch.from_numpy(load_photo(DEMO_PERSON / name).copy()) for name in names]
        images = from_uint8(torch.stack(pictures).permute(0, 3, 1, 2))
        return images, torch.tensor([labels[part][name] for name in names])

    return *read("train"), *read("held_out")


def personalize_demo_person(
    generator: Generator,
    inversion: InversionConfig,
    tuning: TuningConfig,
    face_models: FaceModels | None = None,
) -> tuple[dict[str, dict[str, HeldOutScores]], dict[str, float]]:
    """Invert, personalize and evaluate the demo person with exact and with estimated cameras.

    Args:
        generator: not changed.
        inversion: settings of the inversion.
        tuning: settings of the personalization.
        face_models: for alignment and identity; None: exact cameras only, without identity.

    Returns:
        scores by kind of camera and by model (see `evaluate`), and seconds by stage.
    """
    photos, cameras, views, view_cameras = read_demo_person()
    results: dict[str, dict[str, HeldOutScores]] = {}
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

    run("exact (synthetic)", photos, cameras, None, views, view_cameras)
    if face_models is not None:
        train = align_faces(photos, face_models)
        held = align_faces(views, face_models, max_yaw=90)
        name = f"aligned (synthetic; {len(train.kept)} photos, {len(held.kept)} of {len(views)} views)"
        run(name, train.images, train.cameras, train.masks, held.images, held.cameras)
    return results, seconds
