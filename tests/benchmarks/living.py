"""What lives in a person, in numbers: alpha samples, interpolation, edits, held-out photos, hidden parts.

    python tests/benchmarks/living.py --face-models build/face/models/insightface/models/testpack
    python tests/benchmarks/living.py --quick --face-models ...     # one person, minutes
    python tests/benchmarks/living.py --prepare       # the persons' pictures alone, for another machine
    python tests/benchmarks/living.py --device cuda --face-models ...    # on that one
    python tests/benchmarks/living.py --report        # docs/living.md of what is there

A person is one line of persons.jsonl; one that is there is skipped, unless generator or settings have
changed. Half an hour a person on one core.
The persons are those of the study, synthetic, and unknown to the generator; the pretrained generator answers
every question beside the personal one, with the same anchors.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from living_measures import hidden_part, mean, pairwise, smile_claim
from safetensors.torch import load_file, save_file
from torch import Tensor

from my3dgen_core import (
    AlphaSpace,
    Direction,
    FaceModels,
    Generator,
    Identity,
    InversionConfig,
    Latents,
    TuningConfig,
    inpaint,
    invert,
    kernels,
    load_generator,
    look_at,
    personalize,
    personalized,
    sharpen,
)
from my3dgen_core import starter as starter_package
from my3dgen_core.alpha_projection import ProjectionConfig
from my3dgen_core.camera import angles
from my3dgen_core.direction_finder import SMILE, FaceGeometry
from my3dgen_core.evaluation import Likeness, render
from my3dgen_core.evaluation.protocols import HELD_OUT, nearness, quick
from my3dgen_core.losses import resize
from my3dgen_core.restoration import blend, enlarge

ROWS, PERSONS = "persons.jsonl", range(100, 106)
DIRECTIONS = Path(starter_package.__file__).parent / "directions"
MODELS = PRETRAINED, PERSONAL = "pretrained", "personal"
EDITS = ("age", "weight", "jaw")
"""Directions beside the smile."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly is measured."""

    photos: int = 50
    held_photos: int = 6
    resolution: int = 128
    tuning_steps: int = 800
    samples: int = 64
    pairs: int = 3
    """Ways from one anchor to another."""
    way: int = 11
    """Steps of each."""
    poses: int = 10
    sweep: float = 6.0
    """Strengths of the smile, both ways."""
    sweep_steps: int = 25
    inversion: InversionConfig = field(default_factory=InversionConfig)
    alone: InversionConfig = field(default_factory=lambda: quick(HELD_OUT, 200))
    """Of a single photo in the pretrained generator (W+), and in W with `space` changed."""
    projection: ProjectionConfig = field(default_factory=lambda: ProjectionConfig(steps=200, preview_every=0))
    hidden: float = 0.4
    """Share of the picture that is hidden, a square over the face."""
    small: int = 24
    """Pixels of the small photos."""


QUICK = Settings(
    photos=12, held_photos=2, tuning_steps=120, samples=12, pairs=1, way=5, poses=4, sweep_steps=9,
    alone=quick(HELD_OUT, 40), projection=ProjectionConfig(steps=40, preview_every=0),
)  # fmt: skip
SMOKE = Settings(
    photos=3, held_photos=1, tuning_steps=2, samples=3, pairs=1, way=2, poses=1, sweep_steps=3,
    inversion=InversionConfig(steps=2, shared_steps=2, rays_per_image=64), alone=quick(HELD_OUT, 2),
    projection=ProjectionConfig(steps=2, preview_every=0),
)  # fmt: skip


@dataclass(frozen=True)
class Album:
    """A person's photos, and others that training does not see; pictures [N, 3, H, H] in [-1, 1]."""

    photos: Tensor
    cameras: Tensor
    held_photos: Tensor
    held_cameras: Tensor


def album(seed: int, settings: Settings, folder: Path) -> Album:
    """From the folder, or made and kept there (which needs the `starter` extra)."""
    size = settings.resolution
    path = folder / f"{seed}-{settings.photos}-{settings.held_photos}-{size}.safetensors"
    if not path.is_file():
        from my3dgen_core.starter import person

        who = person(seed)
        photos, cameras = who.photos(settings.photos, resolution=size)
        held, held_cameras = who.photos(settings.held_photos, seed=1, resolution=size)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {"photos": photos, "held_photos": held}
        pixels = {name: ((p.clamp(-1, 1) + 1) * 127.5).round().byte() for name, p in pictures.items()}
        save_file(pixels | {"cameras": cameras, "held_cameras": held_cameras}, path)
    kept = load_file(path)
    for name in ("photos", "held_photos"):
        kept[name] = kept[name].float() / 127.5 - 1
    return Album(**kept)


class Living:
    """Measures persons and writes what they gave."""

    def __init__(self, generator: Generator, face_models: FaceModels, settings: Settings, out: Path) -> None:
        self.generator, self.face_models, self.settings, self.out = generator, face_models, settings, out
        self.smile = FaceGeometry(face_models)
        self.directions = {
            name: Direction.load(DIRECTIONS / f"{name}.safetensors") for name in (SMILE, *EDITS)
        }
        out.mkdir(parents=True, exist_ok=True)
        made_with = json.dumps([generator.base_hash(), asdict(settings), TuningConfig().what_counts])
        self.stamp = hashlib.sha256(made_with.encode()).hexdigest()[:12]

    def run(self, persons: list[int]) -> None:
        """Skips persons that are there, of this generator and these settings."""
        done = {row["person"] for row in read_rows(self.out) if row["stamp"] == self.stamp}
        for person in persons:
            if person in done:
                continue
            start = time.perf_counter()
            row = {"person": person, "stamp": self.stamp, "settings": asdict(self.settings)}
            row |= self.measure(person) | {"seconds": time.perf_counter() - start}
            row["device"] = str(self.generator.w_avg.device)
            with (self.out / ROWS).open("a") as file:
                file.write(f"\n{json.dumps(row)}\n")  # a fresh line, also behind one that was cut off
            print(f"person {person}: {row['seconds']:.0f} s", flush=True)

    def measure(self, person: int) -> dict[str, Any]:
        """Everything about one person."""
        data = album(person, self.settings, self.out / "albums")
        identity = self._identity(person, data)
        space = AlphaSpace(identity.anchors)
        likeness = Likeness(data.photos, self.face_models)
        row: dict[str, Any] = {}
        for model in MODELS:
            with self._as(model, identity):
                row[model] = {
                    "samples": self.samples(space, likeness),
                    "interpolation": self.interpolation(space, likeness),
                    "smile": self.smile_sweep(space, likeness, data),
                    "edits": self.edits(space, likeness),
                }
        row["held-out photos"] = self.held_out(identity, data)
        row["hidden"] = self.hidden(identity, data)
        row["small"] = self.small(identity, data)
        return row

    @contextmanager
    def _as(self, model: str, identity: Identity) -> Iterator[None]:
        with personalized(self.generator, identity) if model == PERSONAL else contextlib.nullcontext():
            yield

    def _identity(self, person: int, data: Album) -> Identity:
        path = self.out / "identities" / f"{person}-{self.stamp}.safetensors"
        if not path.is_file():
            anchors = invert(self.generator, data.photos, data.cameras, self.settings.inversion)
            config = TuningConfig(steps=self.settings.tuning_steps, preview_every=0)
            personalize(self.generator, data.photos, anchors, config).save(path)
        return Identity.load(path)

    # --- Alpha space --------------------------------------------------------------------------------------

    def samples(self, space: AlphaSpace, likeness: Likeness) -> dict[str, Any]:
        """Uncurated alpha samples: likeness to the photos, and how they differ among themselves."""
        looks = space.sample(self.settings.samples, seed=0, anchors_per_sample=min(3, len(space)))
        assert looks.cameras is not None
        own = render(self.generator, looks.ws, looks.cameras)
        front = render(self.generator, looks.ws, self._front().expand(len(looks), -1))
        features = likeness.embed(own)
        cosines = (features @ likeness.photos.T).mean(1)
        return {
            "identity": float(cosines.mean()) if len(cosines) else None,
            "worst": float(cosines.min()) if len(cosines) else None,
            "faces": len(features) / len(own),
            "diversity": pairwise(own),
            "diversity, pose-free": pairwise(front),
        }

    def interpolation(self, space: AlphaSpace, likeness: Likeness) -> dict[str, Any]:
        """Likeness on the ways from anchor to anchor, each step seen from several poses."""
        settings = self.settings
        draw = torch.Generator().manual_seed(0)
        yaws = torch.linspace(-0.6, 0.6, settings.poses)
        poses = look_at(yaws, 0.1 * (4 * yaws).sin())
        by_step: list[list[float]] = [[] for _ in range(settings.way)]
        for _ in range(settings.pairs):
            i, j = torch.randperm(len(space), generator=draw)[:2].tolist()
            way = space.interpolate(i, j, torch.linspace(0, 1, settings.way))
            for step, ws in enumerate(way.ws.split(1)):
                features = likeness.embed(render(self.generator, ws, poses))
                by_step[step] += (features @ likeness.photos.T).mean(1).tolist()
        means = [mean(values) for values in by_step]
        known = [value for value in means if value is not None]
        return {"identity": mean(known), "worst step": min(known, default=None), "by step": means}

    # --- Edits --------------------------------------------------------------------------------------------

    def smile_sweep(self, space: AlphaSpace, likeness: Likeness, data: Album) -> dict[str, Any]:
        """The smile up and down within the person, from the front; how much the likeness drops over the range
        of smiles that the person's own frontal photos span."""
        yaw = angles(data.cameras)[0].abs()
        frontal = data.photos[yaw < max(0.35, float(yaw.sort().values[min(4, len(yaw) - 1)]))]
        own = self.smile(frontal)[SMILE]
        own = own[torch.isfinite(own)]
        steps = torch.linspace(-self.settings.sweep, self.settings.sweep, self.settings.sweep_steps)
        direction, middle = self.directions[SMILE], space.anchors.mean()
        found: dict[str, Any] = {"photos": [float(own.min()), float(own.max())] if len(own) else None}
        for name, within in (("within", space), ("free", None)):
            ws = direction.apply(middle, steps, within=within, edge="project")
            views = render(self.generator, ws, self._front().expand(len(ws), -1))
            smiles = self.smile(views)[SMILE]
            cosines = [likeness.mean(view) for view in views.split(1)]
            found[name] = smile_claim(steps, smiles, cosines, own)
        return found

    def edits(self, space: AlphaSpace, likeness: Likeness) -> dict[str, Any]:
        """Likeness of the mean anchor edited by other attributes, two standard deviations both ways."""
        middle, amounts = space.anchors.mean(), torch.tensor([-2.0, 2.0])
        found: dict[str, Any] = {"unedited": likeness.mean(render(self.generator, middle, self._front()))}
        for name, within in (("within", space), ("free", None)):
            others = [self.directions[edit] for edit in EDITS]
            ws = torch.cat([one.apply(middle, amounts, within=within, edge="project") for one in others])
            found[name] = likeness.mean(render(self.generator, ws, self._front().expand(len(ws), -1)))
        return found

    # --- Photos that training has not seen ----------------------------------------------------------------

    def held_out(self, identity: Identity, data: Album) -> dict[str, Any]:
        """Reconstructions: alpha space of the person against inversion in the pretrained generator."""
        given = data.held_photos, data.held_cameras
        shown: dict[str, Tensor] = {}
        for space in ("w", "w+"):
            found = invert(self.generator, *given, self._alone(space))
            shown[f"{PRETRAINED}, {space.upper()}"] = render(self.generator, found.ws, given[1])
        for model in MODELS:
            for plus in (False, True):
                with self._as(model, identity):
                    found = self._projected(identity, *given, plus)
                    shown[f"{model}, alpha {'P+' if plus else 'P'}"] = render(
                        self.generator, found.ws, given[1]
                    )
        return {name: self._near(views, data.held_photos) for name, views in shown.items()}

    def hidden(self, identity: Identity, data: Album) -> dict[str, Any]:
        """Held-out photos with a part hidden, filled in."""
        photos, cameras = data.held_photos, data.held_cameras
        masks = hidden_part(photos, self.settings.hidden)
        spoilt = torch.where(masks > 0, torch.zeros_like(photos), photos)
        found = {"hidden": spoilt}
        for space in ("w", "w+"):
            latents = invert(self.generator, spoilt, cameras, self._alone(space), masks)
            views = render(self.generator, latents.ws, cameras)
            found[f"{PRETRAINED}, {space.upper()}"] = blend(photos, views, masks)
        for model in MODELS:
            for plus in (False, True):
                with self._as(model, identity):
                    filled = inpaint(
                        self.generator, AlphaSpace(identity.anchors), spoilt, cameras, masks,
                        self.settings.projection, plus=plus,
                    ).images.cpu()  # fmt: skip
                found[f"{model}, alpha {'P+' if plus else 'P'}"] = filled
        rows = {}
        for name, pictures in found.items():
            error = ((pictures.cpu() - photos).square() * masks).sum((1, 2, 3)) / 3 / masks.sum((1, 2, 3)) / 4
            rows[name] = self._near(pictures.cpu(), photos) | {
                "PSNR of the hidden part, dB": float((-10 * error.clamp(min=1e-10).log10()).mean())
            }
        return rows

    def small(self, identity: Identity, data: Album) -> dict[str, Any]:
        """Held-out photos shrunk, and made sharp again."""
        photos, cameras = data.held_photos, data.held_cameras
        small, full = resize(photos, self.settings.small), self.generator.config.img_resolution
        plain = torch.nn.functional.interpolate(small, (full, full), mode="bicubic", align_corners=False)
        found = {"bicubic": plain}
        latents = invert(self.generator, small, cameras, self._alone("w+"))
        found[f"{PRETRAINED}, W+"] = enlarge(small, render(self.generator, latents.ws, cameras))
        for plus in (False, True):
            with self._as(PERSONAL, identity):
                sharp = sharpen(
                    self.generator, AlphaSpace(identity.anchors), small, cameras,
                    self.settings.projection, plus=plus,
                ).images.cpu()  # fmt: skip
            found[f"{PERSONAL}, alpha {'P+' if plus else 'P'}"] = sharp
        return {name: self._near(pictures, photos) for name, pictures in found.items()}

    def _alone(self, space: str) -> InversionConfig:
        settings = asdict(self.settings.alone) | {"space": space, "preview_every": 0}
        return InversionConfig(**settings)

    def _projected(self, identity: Identity, photos: Tensor, cameras: Tensor, plus: bool) -> Latents:
        space = AlphaSpace(identity.anchors)
        return space.project(self.generator, photos, cameras, self.settings.projection, plus=plus, beta=0.03)

    def _near(self, views: Tensor, photos: Tensor) -> dict[str, Any]:
        """Nearness to the photos, and the cosine of each face with its own photo's."""
        from my3dgen_core.face import embed

        photos = resize(photos, views.shape[-1])
        mine, seen = embed(views, self.face_models)
        theirs, known = embed(photos, self.face_models)
        both = seen & known
        cosine = float((mine * theirs).sum(1)[both].mean()) if bool(both.any()) else None
        return nearness(views, photos) | {"identity": cosine, "faces": float(seen.float().mean())}

    def _front(self) -> Tensor:
        config = self.generator.config
        return look_at(0.0, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal)


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Finished persons; a line that was cut off is left out, and its person runs again."""
    file, rows = out / ROWS, []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/living"))
    parser.add_argument("--quick", action="store_true", help="one person, few steps, minutes")
    parser.add_argument("--smoke", action="store_true", help="one person, two steps: does it run at all")
    parser.add_argument("--persons", type=int, default=len(PERSONS), help="how many of the six")
    parser.add_argument("--prepare", action="store_true", help="make the persons' pictures and stop")
    parser.add_argument("--report", action="store_true", help="write the tables of what is there")
    parser.add_argument("--docs", type=Path, default=Path("docs/living.md"), help="where they go")
    parser.add_argument("--generator", default="starter")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--face-models", type=Path, help="ONNX folder with detection and recognition")
    args = parser.parse_args(arguments)
    if args.report:
        from living_report import write_report

        print(write_report(read_rows(args.out), args.docs))
        return
    settings = SMOKE if args.smoke else QUICK if args.quick else Settings()
    persons = list(PERSONS)[: 1 if args.quick or args.smoke else args.persons]
    if args.prepare:
        for person in persons:
            album(person, settings, args.out / "albums")
        print(f"{len(persons)} albums in {args.out / 'albums'}")
        return
    if args.face_models is None:
        parser.error("Likeness is what is measured: name a folder with --face-models.")
    generator = load_generator(args.generator, device=args.device)
    kernels.choose(generator, "auto")
    Living(generator, FaceModels.from_folder(args.face_models), settings, args.out).run(persons)


if __name__ == "__main__":
    sys.exit(main())
