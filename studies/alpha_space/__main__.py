"""The alpha-space study: alpha samples, interpolation, edits, held-out photos and inpainting, in numbers.

    python -m studies.personalization.persons --out build/study/persons 100 101 102 103 104 105 --plain
    python -m studies.alpha_space --face-models build/face/models/insightface/models/testpack
    python -m studies.alpha_space --quick --face-models ...     # one person, few steps, two minutes
    python -m studies.alpha_space --identities build/study/identities --face-models ...   # trains nothing
    python -m studies.alpha_space --report        # write studies/alpha_space/README.md from what is measured

Each person is one line of persons.jsonl. A person who is there is skipped, unless the generator, the settings
or the identity have changed. The persons are those of the personalization study, synthetic and unknown to the
generator. The pretrained generator is measured beside the personal one, with the same anchors.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
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
"""Directions other than the smile."""


@dataclass(frozen=True)
class Settings:
    """Sample sizes and numbers of steps."""

    photos: int = 50
    """Photos of the identity."""
    held_photos: int = 2
    """Held-out photos."""
    tuning_steps: int = 400
    """Training steps, if no identity is given."""
    samples: int = 64
    """Alpha samples."""
    pairs: int = 1
    """Interpolations, each from one anchor to another."""
    way: int = 7
    """Steps of an interpolation."""
    poses: int = 10
    """Cameras from which each step is seen."""
    sweep: float = 4.0
    """Largest strength of the starter's smile, in both directions."""
    sweep_steps: int = 17
    """Strengths of a smile, evenly spaced."""
    held_sweep: tuple[float, float] = (-12.0, 20.0)
    """Lowest and highest strength of the identity-preserving smile."""
    finder: LocalFinderConfig = field(default_factory=LocalFinderConfig)
    """Search of the identity-preserving smile."""
    inversion: InversionConfig = field(default_factory=lambda: InversionConfig(preview_every=0))
    """Inversion of the photos, if no identity is given."""
    alone: InversionConfig = field(default_factory=lambda: in_w(50))
    """Inversion of a held-out photo in the pretrained generator."""
    projection: ProjectionConfig = field(default_factory=lambda: in_alpha(50))
    """Projection of a held-out photo into alpha space, with the same number of steps."""
    hidden: float = 0.4
    """Share of the picture that is hidden, a square over the face."""


def in_w(steps: int) -> InversionConfig:
    """Return the settings of an inversion into W."""
    return dataclasses.replace(quick(HELD_OUT, steps), space="w", preview_every=0)


def in_alpha(steps: int) -> ProjectionConfig:
    """Return the settings of a projection into alpha space; few steps get a higher learning rate."""
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
    """Folders of the study."""

    out: Path
    """Output: rows, pictures, trained identities."""
    persons: Path
    """Persons as `studies.personalization.persons` writes them."""
    identities: Path | None = None
    """Trained identities, SEED.safetensors; others are trained."""


class AlphaSpaceStudy:
    """Measures persons and writes one row each."""

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
        """Measure the persons that have no row of this generator, these settings and their identity."""
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
                file.write(f"\n{json.dumps(row)}\n")  # starts a new line, also after an incomplete one
            print(f"person {number}: {row['seconds']:.0f} s", flush=True)

    def measure(self, number: int, person: Person, identity: Identity) -> dict[str, Any]:
        """Return the row of one person."""
        space, photos = AlphaSpace(identity.anchors), person.photos[: self.settings.photos]
        similarity = IdentitySimilarity(photos, self.face_models)
        own, known = self._own_smiles(photos, person.cameras, similarity, identity)
        row: dict[str, Any] = {"clocks": {}, "own smiles": known}
        clock = Clock(row["clocks"])
        self.shelf = Shelf(self.out / "pictures", number)
        for model in MODELS:
            with self._as(model, identity):
                row[model] = {
                    "samples": clock("samples", self.samples, model, space, similarity),
                    "interpolation": clock("interpolation", self.interpolation, model, space, similarity),
                    "smile": clock("smile", self.smile_sweep, model, space, similarity, own),
                    "edits": clock("edits", self.edits, space, similarity),
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
        """Return the person's identity: a given one, or one that is trained here and saved."""
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

    def samples(self, model: str, space: AlphaSpace, similarity: IdentitySimilarity) -> dict[str, Any]:
        """Measure uncurated alpha samples: identity similarity to the photos, and diversity."""
        looks = space.sample(self.settings.samples, seed=0, anchors_per_sample=min(3, len(space)))
        assert looks.cameras is not None
        front = self._front()
        each = zip(looks.ws.split(1), looks.cameras.split(1), strict=True)
        both = [render(self.generator, ws, torch.cat((camera, front))) for ws, camera in each]
        own, frontal = (torch.stack(views) for views in zip(*both, strict=True))
        self.shelf.keep("samples", **{model: own[:8]})
        features = similarity.embed(own)
        cosines = (features @ similarity.photos.T).mean(1)
        return {
            "identity": float(cosines.mean()) if len(cosines) else None,
            "worst": float(cosines.min()) if len(cosines) else None,
            "faces": len(features) / len(own),
            "diversity": pairwise(own),
            "diversity, pose-free": pairwise(frontal),
        }

    def interpolation(self, model: str, space: AlphaSpace, similarity: IdentitySimilarity) -> dict[str, Any]:
        """Measure the identity similarity along interpolations of anchors, each step from several poses."""
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
                features = similarity.embed(self._around(ws, poses))
                by_step[step] += (features @ similarity.photos.T).mean(1).tolist()
        means = [mean(values) for values in by_step]
        known = [value for value in means if value is not None]
        return {"identity": mean(known), "worst step": min(known, default=None), "by step": means}

    @torch.no_grad()
    def _around(self, ws: Tensor, cameras: Tensor) -> Tensor:
        """Render one head from many cameras with quality "fast" (72 dB PSNR to "exact")."""
        device = self.generator.w_avg.device
        ws, planes = ws.to(device), self.generator.planes(ws.to(device))
        return self.generator.render(ws, cameras.to(device), planes=planes, quality="fast").image.cpu()

    # --- Edits --------------------------------------------------------------------------------------------

    def _own_smiles(
        self, photos: Tensor, cameras: Tensor, similarity: IdentitySimilarity, identity: Identity
    ) -> tuple[Tensor, dict[str, Any]]:
        """Measure the smiles of the nearly frontal photos, and the identity drop between them.

        Nearly frontal are photos within 20 degrees, or the five most frontal ones. A turn of the head alone
        changes the landmark measure; therefore its value for the person's unedited head from the photo's
        camera, minus the value from the front, is subtracted.

        Returns:
            Smiles [n], and the results of `own_drop` with the ranges before the correction.
        """
        yaw = angles(cameras[: len(photos)])[0].abs()
        ahead = yaw <= max(0.35, float(yaw.sort().values[min(4, len(yaw) - 1)]))
        features, found = embed(photos[ahead], self.face_models)
        measured, mean_anchor = self.smile(photos[ahead])[SMILE], identity.anchors.mean()
        with personalized(self.generator, identity):
            turned = self.smile(self._around(mean_anchor, cameras[: len(photos)][ahead]))[SMILE]
            front = self.smile(self._around(mean_anchor, self._front()))[SMILE]
        smiles = measured - turned + front
        seen = found & torch.isfinite(smiles)
        known = own_drop(smiles[seen], (features @ similarity.photos.T).mean(1)[seen])
        known["as measured"] = [float(measured[seen].min()), float(measured[seen].max())]
        known["of turns alone"] = [float(turned[seen].min()), float(turned[seen].max())]
        return smiles[seen], known

    def smile_sweep(
        self, model: str, space: AlphaSpace, similarity: IdentitySimilarity, own: Tensor
    ) -> dict[str, Any]:
        """Measure the identity drop of the mean anchor when its smile is varied, seen from the front.

        Args:
            own: smiles [n] of the person's own photos, whose range is judged.
        """
        count, sweep = self.settings.sweep_steps, self.settings.sweep
        steps, held_steps = (
            torch.linspace(*ends, count) for ends in ((-sweep, sweep), self.settings.held_sweep)
        )
        starter_smile, middle = self.directions[SMILE], space.anchors.mean()
        held = find_local_directions(
            self.generator, middle, self.smile, lambda images: embed(images, self.face_models), [SMILE],
            self.settings.finder,
        )[SMILE]  # fmt: skip
        found: dict[str, Any] = {"photos": [float(own.min()), float(own.max())] if len(own) else None}
        half = list(range(middle.shape[1] // 2, middle.shape[1]))
        for name, ws in (
            ("all layers", starter_smile.apply(middle, steps)),
            ("later layers", starter_smile.apply(middle, steps, half)),
            ("within the hull", starter_smile.apply(middle, steps, None, space, "project")),
            ("identity held", held.apply(middle, held_steps)),
        ):
            views = render(self.generator, ws, self._front().expand(len(ws), -1))
            smiles = self.smile(views)[SMILE]
            cosines = [similarity.mean(view) for view in views.split(1)]
            strengths = held_steps if name == "identity held" else steps
            found[name] = smile_claim(strengths, smiles, cosines, own)
            if len(own):
                shown = nearest_smiles(strengths, smiles, own)
                self.shelf.keep("smile", **{f"{model}, {name}": views[shown]})
        found["identity held"]["direction"] = held.meta
        return found

    def edits(self, space: AlphaSpace, similarity: IdentitySimilarity) -> dict[str, Any]:
        """Measure the identity of the mean anchor after other edits of two standard deviations, both ways."""
        middle, amounts = space.anchors.mean(), torch.tensor([-2.0, 2.0])
        found: dict[str, Any] = {"unedited": similarity.mean(render(self.generator, middle, self._front()))}
        for name, within in (("within", space), ("free", None)):
            others = [self.directions[edit] for edit in EDITS]
            ws = torch.cat([one.apply(middle, amounts, within=within, edge="project") for one in others])
            found[name] = similarity.mean(render(self.generator, ws, self._front().expand(len(ws), -1)))
        return found

    def _front(self) -> Tensor:
        config = self.generator.config
        return look_at(0.0, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal)


def origin(identity: Identity) -> str:
    """Describe the training of an identity."""
    made = identity.provenance
    settings = made["settings"]
    way = f"LoRA r={settings['rank']}" if settings["method"] == "lora" else settings["method"]
    return f"{way}, {made['photos']} photos, {settings['steps']} steps"


class Clock:
    """Sums processor seconds of calls by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def __call__(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = work(*arguments)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of finished persons; an incomplete line is skipped."""
    file, rows = out / ROWS, []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("seeds", type=int, nargs="*", help="persons; all six by default")
    parser.add_argument("--out", type=Path, default=Path("build/alpha_space"))
    parser.add_argument("--persons", type=Path, default=Path("build/study/persons"), help="their pictures")
    parser.add_argument("--identities", type=Path, help="folder of SEED.safetensors; others are trained")
    parser.add_argument("--quick", action="store_true", help="one person, few steps, minutes")
    parser.add_argument("--smoke", action="store_true", help="one person, two steps, as a test")
    parser.add_argument("--report", action="store_true", help="write the page from the rows that are there")
    parser.add_argument("--docs", type=Path, default=PAGE, help="file of the page")
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
        parser.error("The study measures identity similarity: name a folder with --face-models.")
    generator = load_generator(args.generator, device=args.device)
    select_backend(generator, "auto")
    folders = Folders(args.out, args.persons, args.identities)
    AlphaSpaceStudy(generator, FaceModels.from_folder(args.face_models), settings, folders).run(persons)


if __name__ == "__main__":
    main()
