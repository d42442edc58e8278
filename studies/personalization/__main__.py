"""The personalization study: gains of low-rank adaptation on persons with ground truth from every side.

    python -m studies.personalization.persons --out build/study/persons 100    # once; more persons as needed
    python -m studies.personalization --quick --arcface FOLDER                 # one person
    python -m studies.personalization --rates --device cuda --workers 6        # learning rates; then
    python -m studies.personalization --device cuda --workers 6 --arcface FOLDER --minutes 9
    python -m studies.personalization --report            # tables and plots, into studies/personalization

Each finished cell is one line of cells.jsonl (rates.jsonl for --rates). A cell that is there is skipped,
unless the generator or the settings have changed; the report leaves out outdated cells. The most important
cells come first, so that a run can be interrupted at any time. All persons are synthetic and unknown to the
generator.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from my3dgen_core import (
    Generator,
    Identity,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    load_generator,
    look_at,
    personalized,
    pivotal_tune,
)
from my3dgen_core.common.image_ops import resize, to_uint8
from my3dgen_core.eg3d.rendering import compiled  # fmt: skip
from my3dgen_core.face import IdentityNetwork
from my3dgen_core.fitting.camera_refinement import CameraRefinement
from my3dgen_core.fitting.trainer import Training
from studies.personalization.measures import (
    PersonSimilarity,
    identity_network,
    inside,
    nearness,
    render,
    surface,
)
from studies.personalization.persons import Person, read
from studies.personalization.plan import (
    GRID,
    PERSONS,
    QUICK,
    SMOKE,
    Cell,
    Settings,
    plan,
    plan_quick,
    plan_rates,
    plan_smoke,
    stamp,
)  # fmt: skip
from studies.personalization.rows import MEAN, NEAREST, PIVOTAL
from studies.personalization.work import CELLS, RATE_CELLS, best_rates, read_cells, run_workers, valid, work

PEOPLE, PEOPLE_FOUND = "persons", "identities"
YAWS = tuple(range(-60, 61, 15))
LONG = 2000
"""Trainings of at least this many steps save a checkpoint every 500 steps."""


class PeakMemory:
    """Peak memory in bytes since its creation: of tensors on the GPU, or of this process on the CPU.

    None on systems that do not report it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.known = device, device.type == "cuda"
        if self.known:
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self.known = True

    def read(self) -> int | None:
        """Return the peak so far."""
        if not self.known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)


class Study:
    """Measures cells."""

    def __init__(
        self, generator: Generator, arcface: IdentityNetwork | None, settings: Settings, out: Path
    ) -> None:
        self.generator, self.arcface, self.settings, self.out = generator, arcface, settings, out
        self.device = generator.w_avg.device
        for folder in ("views", PEOPLE_FOUND):
            (out / folder).mkdir(parents=True, exist_ok=True)
        self.base_hash = generator.base_hash()
        self.person = lru_cache(maxsize=2)(self._person)

    def _person(self, seed: int) -> tuple[Person, PersonSimilarity | None]:
        person = read(self.out / PEOPLE / f"{seed}.npz", self.device)
        return person, None if self.arcface is None else PersonSimilarity(self.arcface, person)

    def stamp(self, cell: Cell) -> str:
        """Return the hash of all that a row of this cell depends on."""
        return stamp(self.base_hash, self.settings, cell)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Return the row of one cell."""
        return self._measure(cell) | {"device": self._device_name()}

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    def _measure(self, cell: Cell) -> dict[str, Any]:
        person, _ = self.person(cell.person)
        photos = (person.cluttered if cell.background == "cluttered" else person.photos)[: cell.photos]
        if len(photos) == 0:
            raise SystemExit(f"Person {cell.person} was made without cluttered pictures (--plain).")
        labels = (person.noisy if cell.cameras == "noisy" else person.cameras)[: cell.photos]
        if cell.method in (NEAREST, PIVOTAL):
            return self._nearest(cell, person, photos, labels)
        config = dataclasses.replace(self.settings.inversion, space=cell.space, refine_cameras=cell.refine)
        if cell.refine:
            config = dataclasses.replace(config, shared_steps=self.settings.refined)
        anchors = self._invert(photos, labels, config)
        identity: Identity | None = None
        row: dict[str, Any] = {}
        if cell.method != MEAN:
            identity, row = self._train(cell, person, photos, anchors)
            anchors = identity.anchors
        applied = contextlib.nullcontext() if identity is None else personalized(self.generator, identity)
        mean, seen_from = anchors.mean(), anchors.cameras
        assert seen_from is not None
        with applied:
            pictures = render(self.generator, mean, person.view_cameras)
            row |= self._views(cell, person, pictures, [surface(self.generator, mean, person)])
            if cell.method == "LoRA r=1":
                row["registered views"] = self._registered(mean, person)
            if cell.thorough:
                row["held-out photos"] = self._held_out(person, cell.person)
                row |= self._identity(mean, cell.person)
                if cell.person in GRID:
                    row["one photo by yaw"] = self._one_photo(cell, person)
            row["train"] = row.get("train", {}) | nearness(
                render(self.generator, anchors.ws[:8], seen_from[:8]), photos[:8]
            )
        if identity is not None:
            row |= self._file(identity, cell.person)
        return row

    def _invert(self, photos: Tensor, labels: Tensor, config: InversionConfig) -> Latents:
        kept = dataclasses.replace(config, cache_dir=str(self.out / "inversions"), preview_every=0)
        if self.device.type == "cuda":  # all photos at once: the latents do not depend on the batch size
            kept = dataclasses.replace(kept, batch_size=len(photos))
        return invert(self.generator, photos, labels, kept)

    def _train(
        self, cell: Cell, person: Person, photos: Tensor, anchors: Latents
    ) -> tuple[Identity, dict[str, Any]]:
        config = cell.config()
        folder = self.out / "checkpoints" / cell.name
        if cell.steps >= LONG:
            config = dataclasses.replace(config, checkpoint_dir=str(folder))
        memory, most, seconds, curve = PeakMemory(self.device), None, 0.0, []
        with torch.enable_grad():
            training = Training(self.generator, photos, anchors, config, None, None, None)
            if config.checkpoint_dir is not None:
                training.restore(folder)
            while training.done < cell.steps:
                start = time.perf_counter()
                training.advance()
                seconds += time.perf_counter() - start
                if config.checkpoint_dir is not None and training.done % 500 == 0:
                    training.save(folder)
                if training.done % self.settings.curve_every == 0 or training.done == cell.steps:
                    most = most or memory.read()  # before the first evaluation
                    curve.append(self._evaluate(training, person, photos))
        identity, last = training.identity(), max(1, cell.steps // 20)
        if cell.thorough and cell.method == "LoRA r=1":
            identity.save(self.out / PEOPLE_FOUND / f"{cell.person}.safetensors")
        return identity, {
            "seconds": seconds,
            "peak memory": most,
            "curve": curve,
            "train": {"loss": fmean(training.history[-last:])},
            "settings": config.fingerprint_settings,
        }

    def _evaluate(self, training: Training, person: Person, photos: Tensor) -> list[float]:
        """Return the step, the PSNR of training photos, and the PSNR of held-out views."""
        identity = training.identity()
        with personalized(self.generator, identity):
            cameras = identity.anchors.cameras
            assert cameras is not None
            mine = render(self.generator, identity.anchors.ws[:4], cameras[:4])
            novel = render(self.generator, identity.anchors.mean(), person.view_cameras)
        scores = nearness(mine, photos[:4])["PSNR dB"], nearness(novel, person.views)["PSNR dB"]
        return [training.done, *(float(score or 0) for score in scores)]

    def _nearest(self, cell: Cell, person: Person, photos: Tensor, labels: Tensor) -> dict[str, Any]:
        """Measure views rendered from the inversion of the one photo whose camera is nearest.

        Identity by yaw and on the orbit is measured for the photo nearest to the front.
        """
        front = look_at(0.0, 0.0, device=self.device)
        wanted = torch.cat([person.view_cameras, front])[:, [3, 7, 11]]
        nearest = torch.cdist(wanted, labels[:, [3, 7, 11]]).argmin(1).tolist()
        distinct = list(dict.fromkeys(nearest))
        found = self._invert(photos[distinct], labels[distinct], self.settings.alone)
        config = dataclasses.replace(cell.config(), steps=self.settings.pivotal_steps)
        seconds = 0.0
        views: dict[int, Tensor] = {}
        measures: list[dict[str, float | None]] = []
        row: dict[str, Any] = {}
        for number, index in enumerate(distinct):
            alone = slice(number, number + 1)
            latents = Latents(found.ws[alone], labels[index, None])
            identity = None
            if cell.method == PIVOTAL:
                with torch.enable_grad():
                    start = time.perf_counter()
                    training = Training(
                        self.generator, photos[index, None], latents, config, None, None, None
                    )
                    while training.done < config.steps:
                        training.advance()
                    seconds += time.perf_counter() - start
                identity = training.identity()
                row |= {"parameters": identity.adapter.parameter_count, "bytes": identity.nbytes}
            applied = contextlib.nullcontext() if identity is None else personalized(self.generator, identity)
            mine = [view for view, one in enumerate(nearest[:-1]) if one == index]
            with applied:
                for view, picture in zip(
                    mine, render(self.generator, latents.ws, person.view_cameras[mine]) if mine else (),
                    strict=True,
                ):  # fmt: skip
                    views[view] = picture
                measures += [surface(self.generator, latents.ws, person)] * len(mine)
                if index == nearest[-1] and cell.thorough:
                    row |= self._identity(latents.ws, cell.person)
        row |= {"seconds": seconds / len(distinct)}
        pictures = torch.stack([views[view] for view in sorted(views)])
        return row | self._views(cell, person, pictures, measures)

    def _views(
        self, cell: Cell, person: Person, pictures: Tensor, measures: list[dict[str, float | None]]
    ) -> dict[str, Any]:
        """Measure the held-out views, and save two of them as pictures."""
        shown = [len(pictures) // 4, 3 * len(pictures) // 4]
        save_views(self.out / "views" / f"{cell.name}.png", pictures[shown])
        save_views(self.out / "views" / f"{cell.person}-target.png", person.views[shown])
        means: dict[str, Any] = nearness(pictures, person.views) | {
            "head PSNR dB": inside(pictures, person.views, person.mask)
        }
        for key in measures[0]:
            known = [number for one in measures if (number := one[key]) is not None]
            means[key] = fmean(known) if known else None
        similarity = self.person(cell.person)[1]
        if similarity is None:
            return {"held-out views": means}
        means["identity"] = float(similarity.seen(pictures, person.view_cameras).mean())
        truth = float(similarity.seen(person.views, person.view_cameras).mean())
        return {"held-out views": means, "truth": {"identity": truth}}

    def _registered(self, mean: Tensor, person: Person) -> dict[str, Any]:
        """Measure the held-out views, each from the camera that aligns the head with it.

        Pictures cannot distinguish a rotation of all cameras from a rotation of the head, so such a rotation
        is no error of the head.
        """
        found = CameraRefinement(person.view_cameras, True)
        views = resize(person.views, self.generator.config.neural_resolution)
        for _ in range(6):
            found.gauss_newton_step(self.generator, mean, views, None, list(range(len(views))))
        return dict(nearness(render(self.generator, mean, found.cameras()), person.views))

    def _held_out(self, person: Person, seed: int) -> dict[str, Any]:
        """Measure held-out photos, inverted into W+ on the generator as it is."""
        found = self._invert(person.held_photos, person.held_cameras, self.settings.held_out)
        views = render(self.generator, found.ws, person.held_cameras)
        measures: dict[str, Any] = nearness(views, person.held_photos)
        similarity = self.person(seed)[1]
        if similarity is not None:
            mine, theirs = (
                similarity.aligned(images, person.held_points * images.shape[-1])
                for images in (views, person.held_photos)
            )
            measures["identity"] = float((mine * theirs).sum(1).mean())
        return measures

    def _identity(self, ws: Tensor, seed: int) -> dict[str, Any]:
        """Measure the multi-view identity error, aligned and unaligned, and the identity by yaw."""
        similarity = self.person(seed)[1]
        if similarity is None:
            return {}
        return {
            "multi-view identity error": similarity.around(self.generator, ws, self.settings.orbit),
            "identity by yaw": self._by_yaw(ws, similarity),
        }

    def _by_yaw(self, ws: Tensor, similarity: PersonSimilarity) -> list[list[float]]:
        """Return pairs of yaw in degrees and cosine."""
        yaws = torch.tensor([float(yaw) for yaw in YAWS], device=self.device)
        path = look_at(torch.deg2rad(yaws), 0.0, device=self.device)
        cosines = similarity.seen(render(self.generator, ws, path), path).mean(1).tolist()
        return [list(pair) for pair in zip(YAWS, cosines, strict=True)]

    def _one_photo(self, cell: Cell, person: Person) -> dict[str, list[list[float]]]:
        """Measure the identity by yaw of one held-out photo, on the generator as the method left it.

        Returns:
            "before": after inversion into W; "after": after pivotal tuning as well.
        """
        similarity = self.person(cell.person)[1]
        if similarity is None:
            return {}
        photo, camera = person.held_photos[:1], person.held_cameras[:1]
        pivot = self._invert(photo, camera, self.settings.alone)
        config = TuningConfig(method="full", steps=self.settings.pivotal_steps, preview_every=0)
        with torch.enable_grad():
            tuned = pivotal_tune(self.generator, photo, pivot, config)
        before = self._by_yaw(pivot.ws, similarity)
        with personalized(self.generator, tuned):
            return {"before": before, "after": self._by_yaw(pivot.ws, similarity)}

    def _file(self, identity: Identity, seed: int) -> dict[str, Any]:
        """Measure the size of the identity, and the loss of quality in float16 and int8."""
        row: dict[str, Any] = {"parameters": identity.adapter.parameter_count, "bytes": identity.nbytes}
        for name, dtype in (("half", torch.float16), ("int8", torch.int8)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "person.safetensors"
                identity.save(path, dtype)
                row[name] = {"bytes": path.stat().st_size} | self._reloaded(Identity.load(path), seed)
        return row

    def _reloaded(self, identity: Identity, seed: int) -> dict[str, Any]:
        """Measure the held-out views of an identity from a file."""
        person, similarity = self.person(seed)
        with personalized(self.generator, identity):
            views = render(self.generator, identity.anchors.mean().to(self.device), person.view_cameras)
        measures: dict[str, Any] = nearness(views, person.views)
        if similarity is not None:
            measures["identity"] = float(similarity.seen(views, person.view_cameras).mean())
        return measures


def save_views(path: Path, views: Tensor) -> None:
    """Save pictures [N, 3, R, R] in [-1, 1] side by side."""
    from PIL import Image

    pixels = to_uint8(torch.cat(list(views.cpu()), dim=2))
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="folder of the measured cells")
    parser.add_argument("--quick", action="store_true", help="one person")
    parser.add_argument("--smoke", action="store_true", help="one person, a few steps, as a test")
    parser.add_argument("--rates", action="store_true", help="learning rates, on persons of no table")
    parser.add_argument("--report", action="store_true", help="write tables and plots of the finished cells")
    parser.add_argument(
        "--docs", type=Path, default=Path("studies/personalization"), help="where the report goes"
    )
    parser.add_argument("--generator", default="starter", help="generator file, or 'starter'")
    parser.add_argument("--arcface", type=Path, help="ONNX file or folder; without it no identity measures")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="parallel processes")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="time limit of the run")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    settings = SMOKE if args.smoke else QUICK if args.quick else Settings()
    generator = load_generator(args.generator, device=args.device)
    if compiled.available(generator.w_avg.device.type):
        generator.renderer = "compiled"

    def rows_of(name: str) -> list[dict[str, Any]]:
        return valid(read_cells(args.out / name), lambda cell: stamp(generator.base_hash(), settings, cell))

    rates = best_rates(rows_of(RATE_CELLS))
    if args.report:
        from studies.personalization.report import write_report

        rows = [row for row in rows_of(CELLS) if row["cell"]["person"] in PERSONS]
        print(write_report(rows, args.out / "views", args.docs, rows_of(RATE_CELLS), rates))
        return
    if not args.worker:  # cells that an earlier run left unfinished may be claimed again
        for claim in (args.out / "claims").glob("*"):
            claim.unlink()
    until = args.until or time.time() + 60 * args.minutes
    if args.workers > 1 and not args.worker:
        run_workers(args.workers, until)
    else:
        study = Study(generator, identity_network(args.arcface, args.device), settings, args.out)
        if args.rates:
            work(study.measure, study.stamp, plan_rates(), args.out / RATE_CELLS, until)
        else:
            cells = plan_smoke() if args.smoke else plan_quick() if args.quick else plan(rates)
            work(study.measure, study.stamp, cells, args.out / CELLS, until)
    if args.rates and not args.worker:
        print("Best factors of the learning rates:", best_rates(rows_of(RATE_CELLS)))


if __name__ == "__main__":
    main()
