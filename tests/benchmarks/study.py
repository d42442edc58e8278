"""What personalisation buys, on persons whose truth is known from every side. Hours on two cores; resumable.

    python tests/benchmarks/study.py --quick         # one person, minutes; cells go to build/study
    python tests/benchmarks/study.py --face-models build/face/models/insightface/models/testpack
    python tests/benchmarks/study.py --report        # tables and plots of what is there, into docs/study

Every finished cell is one line of cells.jsonl. A cell that is there is skipped, unless generator or settings
have changed since; the report is of the latest. All persons are synthetic (`my3dgen_core.starter.person`);
the generator has not seen them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from study_report import MEAN, NEAREST, PIVOTAL
from torch import Tensor

from my3dgen_core import (
    FaceModels,
    Generator,
    Identity,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    kernels,
    load_generator,
    look_at,
    personalized,
)
from my3dgen_core.evaluation import Likeness, held_out_inversion, multi_view_identity, render, truth_scores
from my3dgen_core.evaluation.protocols import HELD_OUT, nearness, quick
from my3dgen_core.training import Training

CELLS, PERSONS, GRID = "cells.jsonl", range(100, 106), (100, 101)
POSE_ERROR = 3.5  # degrees rms
PRETRAINED = (MEAN, NEAREST, PIVOTAL)
TRAINED: dict[str, dict[str, Any]] = {
    "LoRA r=1": {"rank": 1},
    "LoRA r=2": {"rank": 2},
    "LoRA r=4": {"rank": 4},
    "LyCORIS r=1": {"rank": 1, "layout": "lycoris"},
    "LyCORIS r=2": {"rank": 2, "layout": "lycoris"},
    "full": {"method": "full"},
}
YAWS = tuple(range(-60, 61, 15))


@dataclass(frozen=True)
class Cell:
    """One training, or one answer of the pretrained generator."""

    person: int
    method: str
    photos: int = 50
    cameras: str = "exact"
    steps: int = 800
    seed: int = 0
    refine: bool = False
    background: str = "plain"
    background_weight: float = 1.0

    @property
    def name(self) -> str:
        return "-".join(str(value).replace(" ", "_") for value in asdict(self).values())


@dataclass(frozen=True)
class Settings:
    """How thoroughly is measured."""

    inversion: InversionConfig = field(default_factory=InversionConfig)
    alone: InversionConfig = field(default_factory=lambda: InversionConfig(steps=300, shared_steps=0))
    """Of a single photo, as one would do it without the others."""
    held_out: InversionConfig = field(default_factory=lambda: quick(HELD_OUT, 200))
    pivotal_steps: int = 150
    held_photos: int = 6
    views: int = 8
    orbit: int = 24
    resolution: int = 128
    curve_every: int = 100
    """Steps between two looks at the held-out views during a training; its time is not counted."""


SMOKE = Settings(
    inversion=InversionConfig(steps=2, shared_steps=2, rays_per_image=64),
    alone=InversionConfig(steps=2, shared_steps=0, rays_per_image=64),
    held_out=quick(dataclasses.replace(HELD_OUT, rays_per_image=64), 2),
    pivotal_steps=2, held_photos=1, views=2, orbit=1, curve_every=2,
)  # fmt: skip


def plan(is_quick: bool) -> list[Cell]:
    """All cells, the main table first."""
    if is_quick:
        methods = (*PRETRAINED, "LoRA r=1", "LyCORIS r=1", "full")
        return [Cell(PERSONS[0], method, photos=10, steps=100) for method in methods]
    cells = [Cell(person, method) for person in PERSONS for method in (*PRETRAINED, *TRAINED)]
    for person in GRID:
        for photos in (50, 20, 10):
            for cameras in ("exact", "noisy"):
                cells += [Cell(person, m, photos, cameras) for m in (*PRETRAINED, "LoRA r=1", "full")]
                cells.append(Cell(person, "LoRA r=1", photos, cameras, refine=True))
        cells += [Cell(person, m, seed=seed) for m in ("LoRA r=1", "full") for seed in (1, 2)]
        for background in ("plain", "cluttered"):
            for weight in (1.0, 0.3, 0.05):
                cells.append(Cell(person, "LoRA r=1", background=background, background_weight=weight))
    cells += [Cell(PERSONS[0], "LoRA r=1", steps=steps) for steps in (1000, 6000)]
    return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Album:
    """A person's photos with the labels that training gets, and what it never sees."""

    photos: Tensor
    labels: Tensor
    held_photos: Tensor
    held_cameras: Tensor
    views: Tensor
    view_cameras: Tensor
    depth: Tensor
    mask: Tensor


@lru_cache(maxsize=2)
def album(seed: int, count: int, cameras: str, background: str, settings: Settings) -> Album:
    """Photos of a person: one album to train on, held-out ones of another; views all around.

    "noisy" cameras are off by 3.5 degrees rms. A "cluttered" background is another one in every photo;
    held-out photos and views are plain.
    """
    from my3dgen_core.starter import person

    who, size = person(seed), settings.resolution
    photos, labels = who.photos(
        count, resolution=size, pose_error=POSE_ERROR if cameras == "noisy" else 0.0,
        cluttered=background == "cluttered",
    )  # fmt: skip
    held_photos, held_cameras = who.photos(settings.held_photos, seed=1, resolution=size)
    spread = torch.linspace(-1, 1, settings.views)
    # between the photos' cameras and beyond them: yaw to 50, pitch to 15 degrees
    view_cameras = look_at(torch.deg2rad(50 * spread), torch.deg2rad(15 * (7 * spread).sin()))
    views, depth, mask = who.render(view_cameras, size)
    return Album(photos, labels, held_photos, held_cameras, views, view_cameras, depth, mask)


class PeakMemory:
    """Most memory of this process since it was made, in bytes; None where the system does not say."""

    def __init__(self) -> None:
        self.known = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self.known = True

    def read(self) -> int | None:
        if not self.known:
            return None
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)


class Study:
    """Runs cells and writes what they gave."""

    def __init__(
        self, generator: Generator, face_models: FaceModels | None, settings: Settings, out: Path
    ) -> None:
        self.generator, self.face_models, self.settings, self.out = generator, face_models, settings, out
        (out / "views").mkdir(parents=True, exist_ok=True)
        made_with = json.dumps([generator.base_hash(), asdict(settings), TuningConfig().what_counts])
        self.stamp = hashlib.sha256(made_with.encode()).hexdigest()[:12]

    def run(self, cells: list[Cell]) -> None:
        """Skips cells that are there, of this generator and these settings."""
        done = {row["name"] for row in read_cells(self.out) if row["stamp"] == self.stamp}
        for number, cell in enumerate(cells):
            if cell.name in done:
                continue
            print(f"{number + 1}/{len(cells)} {cell.name}", flush=True)
            row = {"name": cell.name, "stamp": self.stamp, "cell": asdict(cell), **self.measure(cell)}
            with (self.out / CELLS).open("a") as file:
                file.write(f"\n{json.dumps(row)}\n")  # a fresh line, also behind one that was cut off

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Everything about one cell."""
        data = album(cell.person, cell.photos, cell.cameras, cell.background, self.settings)
        if cell.method in (NEAREST, PIVOTAL):
            return self._nearest(cell, data)
        anchors = self._invert(data.photos, data.labels, self.settings.inversion)
        identity, row = None, {}
        if cell.method != MEAN:
            identity, row = self._train(cell, data, anchors)
            anchors = identity.anchors
        inside = contextlib.nullcontext() if identity is None else personalized(self.generator, identity)
        mean, seen_from = anchors.mean(), anchors.cameras
        assert seen_from is not None
        with inside:
            parts = [self._view(mean, data, index) for index in range(len(data.views))]
            row |= self._summed(cell, parts, data)
            row["held-out photos"], _ = held_out_inversion(
                self.generator, data.held_photos, data.held_cameras,
                face_models=self.face_models, config=self._kept(self.settings.held_out),
            )  # fmt: skip
            row |= self._identity(mean, data)
            row["train"] = row.get("train", {}) | nearness(
                render(self.generator, anchors.ws[:8], seen_from[:8]), data.photos[:8]
            )
        if identity is not None:
            row |= self._file(cell, identity, mean, data)
        return row

    def _kept(self, config: InversionConfig) -> InversionConfig:
        return dataclasses.replace(config, cache_dir=str(self.out / "inversions"), preview_every=0)

    def _invert(self, photos: Tensor, labels: Tensor, config: InversionConfig) -> Latents:
        return invert(self.generator, photos, labels, self._kept(config))

    def _train(self, cell: Cell, data: Album, anchors: Latents) -> tuple[Identity, dict[str, Any]]:
        config = TuningConfig(
            steps=cell.steps, seed=cell.seed, refine=cell.refine, preview_every=0,
            background_weight=cell.background_weight, **TRAINED[cell.method],
        )  # fmt: skip
        memory, seconds, curve = PeakMemory(), 0.0, []
        with torch.enable_grad():
            training = Training(self.generator, data.photos, anchors, config, None, None, None)
            while training.done < cell.steps:
                start = time.perf_counter()
                training.advance()
                seconds += time.perf_counter() - start
                if training.done % self.settings.curve_every == 0 or training.done == cell.steps:
                    curve.append(self._look(training, data))
        identity, last = training.identity(), max(1, cell.steps // 20)
        return identity, {
            "seconds": seconds,
            "peak memory": memory.read(),
            "curve": curve,
            "train": {"loss": sum(training.history[-last:]) / last},
            "settings": config.what_counts,
        }

    def _look(self, training: Training, data: Album) -> list[float]:
        """Step, PSNR of training photos, PSNR of held-out views."""
        identity = training.identity()
        with personalized(self.generator, identity):
            cameras = identity.anchors.cameras
            assert cameras is not None
            mine = render(self.generator, identity.anchors.ws[:4], cameras[:4])
            novel = render(self.generator, identity.anchors.mean(), data.view_cameras)
        scores = nearness(mine, data.photos[:4])["PSNR dB"], nearness(novel, data.views)["PSNR dB"]
        return [training.done, *(float(score or 0) for score in scores)]

    def _nearest(self, cell: Cell, data: Album) -> dict[str, Any]:
        """Each view from the one photo whose camera is nearest, as one would do without the other photos."""
        places = data.labels[:, [3, 7, 11]]
        front = look_at(0.0, 0.0)
        wanted = torch.cat([data.view_cameras, front])[:, [3, 7, 11]]
        nearest = torch.cdist(wanted, places).argmin(1).tolist()
        memory, seconds, parts = PeakMemory(), 0.0, []
        known: dict[int, tuple[Tensor, Identity | None]] = {}
        for index in dict.fromkeys(nearest):
            photo, label = data.photos[index, None], data.labels[index, None]
            latents = self._invert(photo, label, self.settings.alone)
            known[index] = latents.ws, None
            if cell.method == PIVOTAL:
                config = TuningConfig(
                    steps=self.settings.pivotal_steps, method="full", seed=cell.seed, preview_every=0
                )
                with torch.enable_grad():
                    start = time.perf_counter()
                    training = Training(self.generator, photo, latents, config, None, None, None)
                    while training.done < config.steps:
                        training.advance()
                    seconds += time.perf_counter() - start
                known[index] = latents.ws, training.identity()
        row: dict[str, Any] = {"seconds": seconds / len(known), "peak memory": memory.read()}
        for i, index in enumerate(nearest[:-1]):
            ws, identity = known[index]
            with contextlib.nullcontext() if identity is None else personalized(self.generator, identity):
                parts.append(self._view(ws, data, i))
        row |= self._summed(cell, parts, data)
        ws, identity = known[nearest[-1]]
        with contextlib.nullcontext() if identity is None else personalized(self.generator, identity):
            row |= self._identity(ws, data)
        if identity is not None:
            row |= {"parameters": identity.adapter.parameter_count, "bytes": identity.nbytes}
        return row

    def _view(self, ws: Tensor, data: Album, index: int) -> dict[str, Any]:
        """One held-out view: measures, and the "picture" [1, 3, R, R]."""
        one = slice(index, index + 1)
        cameras, truth = data.view_cameras[one], (data.views[one], data.depth[one], data.mask[one])
        measures = truth_scores(self.generator, ws, cameras, *truth)
        return {**measures, "picture": render(self.generator, ws, cameras)}

    def _summed(self, cell: Cell, parts: list[dict[str, Any]], data: Album) -> dict[str, Any]:
        """Means over the held-out views; two of them are kept as pictures."""
        pictures = torch.cat([part.pop("picture") for part in parts])
        shown = [len(parts) // 4, 3 * len(parts) // 4]
        save_views(self.out / "views" / f"{cell.name}.png", pictures[shown])
        save_views(self.out / "views" / f"{cell.person}-target.png", data.views[shown])
        means: dict[str, Any] = {}
        for key in parts[0]:
            values = [part[key] for part in parts if part[key] is not None and math.isfinite(part[key])]
            means[key] = sum(values) / len(values) if values else None
        if self.face_models is not None:
            means["identity"] = Likeness(data.photos, self.face_models).mean(pictures)
        return {"held-out views": means}

    def _identity(self, ws: Tensor, data: Album) -> dict[str, Any]:
        """Multi-view identity error in both ways, and identity by yaw."""
        if self.face_models is None:
            return {}
        aligned, paper = (Likeness(data.photos, self.face_models, way) for way in (True, False))
        path = look_at(torch.deg2rad(torch.tensor([float(yaw) for yaw in YAWS])), 0.0)
        around = render(self.generator, ws, path).split(1)
        return {
            "multi-view identity error": {
                name: multi_view_identity(self.generator, ws, likeness, views=self.settings.orbit)
                for name, likeness in (("aligned", aligned), ("unaligned", paper))
            },
            "identity by yaw": [[yaw, aligned.mean(view)] for yaw, view in zip(YAWS, around, strict=True)],
        }

    def _file(self, cell: Cell, identity: Identity, mean: Tensor, data: Album) -> dict[str, Any]:
        """How large the person is, and what half precision costs."""
        path = self.out / "half.safetensors"
        identity.save(path, torch.float16)
        half = Identity.load(path)
        with personalized(self.generator, half):
            views = render(self.generator, half.anchors.mean(), data.view_cameras)
        measures = nearness(views, data.views)
        if self.face_models is not None:
            measures["identity"] = Likeness(data.photos, self.face_models).mean(views)
        return {
            "parameters": identity.adapter.parameter_count,
            "bytes": identity.nbytes,
            "half": {"bytes": path.stat().st_size, **measures},
        }


def save_views(path: Path, views: Tensor) -> None:
    """Pictures side by side."""
    from PIL import Image

    pixels = ((torch.cat(list(views.cpu()), dim=2).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def read_cells(out: Path) -> list[dict[str, Any]]:
    """Finished cells; a line that was cut off is left out, and its cell runs again."""
    file, rows = out / CELLS, []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/study"))
    parser.add_argument("--quick", action="store_true", help="one person, minutes")
    parser.add_argument("--smoke", action="store_true", help="one person, a few steps: does it run at all")
    parser.add_argument("--report", action="store_true", help="tables and plots of what is there")
    parser.add_argument("--docs", type=Path, default=Path("docs/study"), help="where the report goes")
    parser.add_argument("--generator", default="starter")
    parser.add_argument("--face-models", type=Path, help="ONNX folder; without it nothing of identity")
    args = parser.parse_args(arguments)
    if args.report:
        from study_report import write_report

        rows = read_cells(args.out)
        latest = [row for row in rows if row["stamp"] == rows[-1]["stamp"]]
        print(write_report(latest, args.out / "views", args.docs))
        return
    cells, settings = plan(args.quick), Settings()
    if args.smoke:
        settings = SMOKE
        methods = (*PRETRAINED, "LoRA r=1", "full")
        cells = [Cell(PERSONS[0], method, photos=3, steps=4) for method in methods]
        hard = {"cameras": "noisy", "refine": True, "background": "cluttered", "background_weight": 0.3}
        cells.append(Cell(PERSONS[0], "LoRA r=1", photos=3, steps=4, **hard))  # type: ignore[arg-type]
    face_models = None if args.face_models is None else FaceModels.from_folder(args.face_models)
    generator = load_generator(args.generator)
    if kernels.available():
        generator.renderer = "compiled"
    Study(generator, face_models, settings, args.out).run(cells)


if __name__ == "__main__":
    sys.exit(main())
