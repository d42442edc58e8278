"""The bundled person: her photos, views that no photo has, and the README's table. All of it is synthetic."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.image_ops import from_uint8
from ..eg3d import Generator
from ..fitting.inversion import InversionConfig, invert
from ..fitting.tuning import TuningConfig, personalize
from .held_out_views import Scores, evaluate

if TYPE_CHECKING:
    from ..face import FaceModels

DEMO_PERSON = Path(__file__).parent.parent / "starter" / "demo_person"


def read_demo_person() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bundled person: photos [N, 3, H, H], their cameras [N, 25], held-out views and theirs."""
    from ..face import load_photo

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

    run("exact (synthetic)", photos, cameras, None, views, view_cameras)
    if face_models is not None:
        from ..face import align_faces

        train = align_faces(photos, face_models)
        held = align_faces(views, face_models, max_yaw=90)
        name = f"aligned (synthetic; {len(train.kept)} photos, {len(held.kept)} of {len(views)} views)"
        run(name, train.images, train.cameras, train.masks, held.images, held.cameras)
    return results, seconds
