"""What lives in a person, in numbers: alpha samples, interpolation, edits, held-out photos, hidden parts.

    python -m studies.personalization.persons --out build/study/persons 100 101 102 103 104 105 --plain
    python -m studies.alpha_space --face-models build/face/models/insightface/models/testpack
    python -m studies.alpha_space --quick --face-models ...     # one person, few steps, two minutes
    python -m studies.alpha_space --identities build/study/identities --face-models ...   # trains nothing
    python -m studies.alpha_space --report        # studies/alpha_space/README.md of what is there

A person is one line of persons.jsonl; one that is there is skipped, unless the generator, the settings or the
identity have changed. The persons are those of the study, synthetic, and unknown to the generator; the
pretrained generator answers every question beside the personal one, with the same anchors.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from my3dgen_core import (
    AlphaSpace,
    Direction,
    FaceModels,
    Generator,
    Identity,
    InversionConfig,
    TuningConfig,
    invert,
    load_generator,
    look_at,
    personalize,
    personalized,
    starter,
)
from my3dgen_core.camera import angles
from my3dgen_core.editing.face_scores import SMILE, FaceGeometry
from my3dgen_core.editing.identity_preserving import LocalFinderConfig, find_local_directions
from my3dgen_core.eg3d.rendering.backend import select_backend
from my3dgen_core.evaluation import IdentitySimilarity, render
from my3dgen_core.evaluation.protocols import HELD_OUT, quick
from my3dgen_core.face import embed
from my3dgen_core.fitting.alpha_projection import ProjectionConfig
from studies.alpha_space.measures import mean, nearest_smiles, own_drop, pairwise, smile_claim
from studies.alpha_space.photos import Restoring
from studies.alpha_space.pictures import Shelf
from studies.personalization.persons import Person, read

ROWS, PERSONS = "persons.jsonl", range(100, 106)
PAGE = Path("studies/alpha_space/README.md")
DIRECTIONS = Path(starter.__file__).parent / "directions"
MODELS = PRETRAINED, PERSONAL = "pretrained", "personal"
EDITS = ("age", "weight", "jaw")
"""Directions beside the smile."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly is measured."""

    photos: int = 50
    held_photos: int = 2
    tuning_steps: int = 400
    """Where no identity is given."""
    samples: int = 64
    pairs: int = 1
    """Ways from one anchor to another."""
    way: int = 7
    """Steps of each."""
    poses: int = 10
    sweep: float = 4.0
    """Strengths of the starter's smile, both ways."""
    sweep_steps: int = 17
    held_sweep: tuple[float, float] = (-12.0, 20.0)
    """Strengths of the smile that is found about the person, in as many steps."""
    finder: LocalFinderConfig = field(default_factory=LocalFinderConfig)
    inversion: InversionConfig = field(default_factory=lambda: InversionConfig(preview_every=0))
    alone: InversionConfig = field(default_factory=lambda: in_w(50))
    """Of a single photo in the pretrained generator."""
    projection: ProjectionConfig = field(default_factory=lambda: in_alpha(50))
    """As many steps."""
    hidden: float = 0.4
    """Share of the picture that is hidden, a square over the face."""


def in_w(steps: int) -> InversionConfig:
    return dataclasses.replace(quick(HELD_OUT, steps), space="w", preview_every=0)


def in_alpha(steps: int) -> ProjectionConfig:
    return ProjectionConfig(steps=steps, lr=0.01 * max(1.0, (150 / steps) ** 0.5), preview_every=0)


QUICK = Settings(
    photos=12, held_photos=2, tuning_steps=120, samples=12, pairs=1, way=5, poses=4, sweep_steps=9,
    finder=LocalFinderConfig(samples=100), alone=in_w(20), projection=in_alpha(20),
)  # fmt: skip
SMOKE = Settings(
    photos=3, held_photos=1, tuning_steps=2, samples=3, pairs=1, way=2, poses=1, sweep_steps=3,
    finder=LocalFinderConfig(samples=48),
    inversion=InversionConfig(steps=2, shared_steps=2, rays_per_image=64, preview_every=0),
    alone=in_w(2), projection=in_alpha(2),
)  # fmt: skip


@dataclass(frozen=True)
class Folders:
    """Where things lie: what is written, persons as study_persons.py makes them, identities by seed."""

    out: Path
    persons: Path
    identities: Path | None = None


class Living:
    """Measures persons and writes what they gave."""

    def __init__(
        self, generator: Generator, face_models: FaceModels, settings: Settings, folders: Folders
    ) -> None:
        self.generator, self.face_models, self.settings = generator, face_models, settings
        self.folders, self.out = folders, folders.out
        self.smile = FaceGeometry(face_models)
        self.directions = {
            name: Direction.load(DIRECTIONS / f"{name}.safetensors") for name in (SMILE, *EDITS)
        }
        self.out.mkdir(parents=True, exist_ok=True)
        made_with = json.dumps([generator.base_hash(), asdict(settings), TuningConfig().fingerprint_settings])
        self.stamp = hashlib.sha256(made_with.encode()).hexdigest()[:12]

    def run(self, persons: list[int]) -> None:
        """Skips persons that are there, of this generator, these settings and their identity."""
        done = {(row["person"], row["stamp"], row["identity"]) for row in read_rows(self.out)}
        for number in persons:
            start = time.process_time()
            person = read(self.folders.persons / f"{number}.npz")
            identity = self._identity(number, person)
            trained, start = time.process_time() - start, time.process_time()
            key = {"person": number, "stamp": self.stamp, "identity": identity.content_hash()[:12]}
            if tuple(key.values()) in done:
                continue
            row = key | {"settings": asdict(self.settings), "origin": origin(identity)}
            row |= {"training seconds": trained}
            row |= self.measure(number, person, identity) | {"seconds": time.process_time() - start}
            row["device"] = str(self.generator.w_avg.device)
            with (self.out / ROWS).open("a") as file:
                file.write(f"\n{json.dumps(row)}\n")  # a fresh line, also behind one that was cut off
            print(f"person {number}: {row['seconds']:.0f} s", flush=True)

    def measure(self, number: int, person: Person, identity: Identity) -> dict[str, Any]:
        """Everything about one person."""
        space, photos = AlphaSpace(identity.anchors), person.photos[: self.settings.photos]
        likeness = IdentitySimilarity(photos, self.face_models)
        own, known = self._own_smiles(photos, person.cameras, likeness, identity)
        row: dict[str, Any] = {"clocks": {}, "own smiles": known}
        clock = Clock(row["clocks"])
        self.shelf = Shelf(self.out / "pictures", number)
        for model in MODELS:
            with self._as(model, identity):
                row[model] = {
                    "samples": clock("samples", self.samples, model, space, likeness),
                    "interpolation": clock("interpolation", self.interpolation, model, space, likeness),
                    "smile": clock("smile", self.smile_sweep, model, space, likeness, own),
                    "edits": clock("edits", self.edits, space, likeness),
                }
        restoring = Restoring(self.generator, identity, person, self.face_models, self.settings, self.shelf)
        row["held-out photos"] = clock("held-out photos", restoring.held_out)
        row["hidden"] = clock("hidden", restoring.hidden)
        self.shelf.write()
        return row

    @contextmanager
    def _as(self, model: str, identity: Identity) -> Iterator[None]:
        with personalized(self.generator, identity) if model == PERSONAL else contextlib.nullcontext():
            yield

    def _identity(self, number: int, person: Person) -> Identity:
        """The person's identity: given, or trained here and kept."""
        given = self.folders.identities
        if given is not None and (given / f"{number}.safetensors").is_file():
            identity = Identity.load(given / f"{number}.safetensors")
            identity.check_base(self.generator.base_hash())
            return identity
        count, steps = self.settings.photos, self.settings.tuning_steps
        path = self.out / "identities" / f"{number}-{self.stamp}.safetensors"
        if not path.is_file():
            photos, cameras = person.photos[:count], person.cameras[:count]
            anchors = invert(self.generator, photos, cameras, self.settings.inversion)
            personalize(self.generator, photos, anchors, TuningConfig(steps=steps, preview_every=0)).save(
                path
            )
        return Identity.load(path)

    # --- Alpha space --------------------------------------------------------------------------------------

    def samples(self, model: str, space: AlphaSpace, likeness: IdentitySimilarity) -> dict[str, Any]:
        """Uncurated alpha samples: likeness to the photos, and how they differ among themselves."""
        looks = space.sample(self.settings.samples, seed=0, anchors_per_sample=min(3, len(space)))
        assert looks.cameras is not None
        front = self._front()
        each = zip(looks.ws.split(1), looks.cameras.split(1), strict=True)
        both = [render(self.generator, ws, torch.cat((camera, front))) for ws, camera in each]
        own, frontal = (torch.stack(views) for views in zip(*both, strict=True))
        self.shelf.keep("samples", **{model: own[:8]})
        features = likeness.embed(own)
        cosines = (features @ likeness.photos.T).mean(1)
        return {
            "identity": float(cosines.mean()) if len(cosines) else None,
            "worst": float(cosines.min()) if len(cosines) else None,
            "faces": len(features) / len(own),
            "diversity": pairwise(own),
            "diversity, pose-free": pairwise(frontal),
        }

    def interpolation(self, model: str, space: AlphaSpace, likeness: IdentitySimilarity) -> dict[str, Any]:
        """Likeness on the ways from anchor to anchor, each step seen from several poses."""
        settings = self.settings
        draw = torch.Generator().manual_seed(0)
        yaws = torch.linspace(-0.6, 0.6, settings.poses)
        poses = look_at(yaws, 0.1 * (4 * yaws).sin())
        by_step: list[list[float]] = [[] for _ in range(settings.way)]
        for number in range(settings.pairs):
            i, j = torch.randperm(len(space), generator=draw)[:2].tolist()
            way = space.interpolate(i, j, torch.linspace(0, 1, settings.way))
            assert way.cameras is not None
            if number == 0:
                self.shelf.keep("interpolation", **{model: render(self.generator, way.ws, way.cameras)})
            for step, ws in enumerate(way.ws.split(1)):
                features = likeness.embed(self._around(ws, poses))
                by_step[step] += (features @ likeness.photos.T).mean(1).tolist()
        means = [mean(values) for values in by_step]
        known = [value for value in means if value is not None]
        return {"identity": mean(known), "worst step": min(known, default=None), "by step": means}

    @torch.no_grad()
    def _around(self, ws: Tensor, cameras: Tensor) -> Tensor:
        """One head from many sides, in the quality of camera paths (72 dB from the exact one)."""
        device = self.generator.w_avg.device
        ws, planes = ws.to(device), self.generator.planes(ws.to(device))
        return self.generator.render(ws, cameras.to(device), planes=planes, quality="fast").image.cpu()

    # --- Edits --------------------------------------------------------------------------------------------

    def _own_smiles(
        self, photos: Tensor, cameras: Tensor, likeness: IdentitySimilarity, identity: Identity
    ) -> tuple[Tensor, dict[str, Any]]:
        """The smiles of the photos that look ahead (within 20 degrees, or the five that do most), as they
        would be measured from the front, and how much less the most and the least smiling are like all
        photos than those between.

        A turn alone changes what landmarks measure: what the person's unedited head gives from a photo's
        camera, less what it gives from the front, is taken off."""
        yaw = angles(cameras[: len(photos)])[0].abs()
        ahead = yaw <= max(0.35, float(yaw.sort().values[min(4, len(yaw) - 1)]))
        features, found = embed(photos[ahead], self.face_models)
        measured, middle = self.smile(photos[ahead])[SMILE], identity.anchors.mean()
        with personalized(self.generator, identity):
            turned = self.smile(self._around(middle, cameras[: len(photos)][ahead]))[SMILE]
            front = self.smile(self._around(middle, self._front()))[SMILE]
        smiles = measured - turned + front
        seen = found & torch.isfinite(smiles)
        known = own_drop(smiles[seen], (features @ likeness.photos.T).mean(1)[seen])
        known["as measured"] = [float(measured[seen].min()), float(measured[seen].max())]
        known["of turns alone"] = [float(turned[seen].min()), float(turned[seen].max())]
        return smiles[seen], known

    def smile_sweep(
        self, model: str, space: AlphaSpace, likeness: IdentitySimilarity, own: Tensor
    ) -> dict[str, Any]:
        """The smile up and down from the mean anchor, seen from the front: how much the likeness drops over
        the range of smiles that the person's own frontal photos span."""
        count, sweep = self.settings.sweep_steps, self.settings.sweep
        steps, held_steps = (
            torch.linspace(*ends, count) for ends in ((-sweep, sweep), self.settings.held_sweep)
        )
        starters, middle = self.directions[SMILE], space.anchors.mean()
        held = find_local_directions(
            self.generator, middle, self.smile, lambda images: embed(images, self.face_models), [SMILE],
            self.settings.finder,
        )[SMILE]  # fmt: skip
        found: dict[str, Any] = {"photos": [float(own.min()), float(own.max())] if len(own) else None}
        half = list(range(middle.shape[1] // 2, middle.shape[1]))
        for name, ws in (
            ("all layers", starters.apply(middle, steps)),
            ("later layers", starters.apply(middle, steps, half)),
            ("within the hull", starters.apply(middle, steps, None, space, "project")),
            ("identity held", held.apply(middle, held_steps)),
        ):
            views = render(self.generator, ws, self._front().expand(len(ws), -1))
            smiles = self.smile(views)[SMILE]
            cosines = [likeness.mean(view) for view in views.split(1)]
            strengths = held_steps if name == "identity held" else steps
            found[name] = smile_claim(strengths, smiles, cosines, own)
            if len(own):
                shown = nearest_smiles(strengths, smiles, own)
                self.shelf.keep("smile", **{f"{model}, {name}": views[shown]})
        found["identity held"]["direction"] = held.meta
        return found

    def edits(self, space: AlphaSpace, likeness: IdentitySimilarity) -> dict[str, Any]:
        """Likeness of the mean anchor edited by other attributes, two standard deviations both ways."""
        middle, amounts = space.anchors.mean(), torch.tensor([-2.0, 2.0])
        found: dict[str, Any] = {"unedited": likeness.mean(render(self.generator, middle, self._front()))}
        for name, within in (("within", space), ("free", None)):
            others = [self.directions[edit] for edit in EDITS]
            ws = torch.cat([one.apply(middle, amounts, within=within, edge="project") for one in others])
            found[name] = likeness.mean(render(self.generator, ws, self._front().expand(len(ws), -1)))
        return found

    def _front(self) -> Tensor:
        config = self.generator.config
        return look_at(0.0, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal)


def origin(identity: Identity) -> str:
    """How an identity came about."""
    made = identity.provenance
    settings = made["settings"]
    way = f"LoRA r={settings['rank']}" if settings["method"] == "lora" else settings["method"]
    return f"{way}, {made['photos']} photos, {settings['steps']} steps"


class Clock:
    """Calls functions and adds up their processor seconds by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def __call__(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = work(*arguments)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Finished persons; a line that was cut off is left out, and its person runs again."""
    file, rows = out / ROWS, []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("seeds", type=int, nargs="*", help="persons; all six by default")
    parser.add_argument("--out", type=Path, default=Path("build/living"))
    parser.add_argument("--persons", type=Path, default=Path("build/study/persons"), help="their pictures")
    parser.add_argument("--identities", type=Path, help="folder of SEED.safetensors; others are trained")
    parser.add_argument("--quick", action="store_true", help="one person, few steps, minutes")
    parser.add_argument("--smoke", action="store_true", help="one person, two steps: does it run at all")
    parser.add_argument("--report", action="store_true", help="write the tables of what is there")
    parser.add_argument("--docs", type=Path, default=PAGE, help="where they go")
    parser.add_argument("--generator", default="starter")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--face-models", type=Path, help="ONNX folder with detection and recognition")
    args = parser.parse_args(arguments)
    if args.report:
        from studies.alpha_space.report import write_report

        print(write_report(read_rows(args.out), args.docs, args.out / "pictures"))
        return
    settings = SMOKE if args.smoke else QUICK if args.quick else Settings()
    persons = args.seeds or list(PERSONS)[: 1 if args.quick or args.smoke else None]
    if args.face_models is None:
        parser.error("Likeness is what is measured: name a folder with --face-models.")
    generator = load_generator(args.generator, device=args.device)
    select_backend(generator, "auto")
    folders = Folders(args.out, args.persons, args.identities)
    Living(generator, FaceModels.from_folder(args.face_models), settings, folders).run(persons)


if __name__ == "__main__":
    sys.exit(main())
