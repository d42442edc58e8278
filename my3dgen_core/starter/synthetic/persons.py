"""Synthetic persons outside the starter's training distribution, with ground truth, for personalization.

A person has local shape changes, colors and marks that no factor of z controls: ruddy skin, unusual hair, a
birthmark, moles, a scar, sometimes freckles, a face tattoo or glasses. Everything is determined by the seed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...camera import cam2world, intrinsics, look_at, rotate_cameras
from .factors import NAMES, Z_DIM, Expression, Looks, looks
from .glasses import glasses
from .head_mesh import GLASSES, SKIN, HeadModel
from .head_model import head_model
from .heads import ExtraGeometry, photograph, posed_vertices, scene_of

RESERVED_SEEDS = 9000
"""First of the seeds that are reserved for acceptance tests: no training, tuning or default may use them."""
_HAIR = np.array(
    [
        [0.62, 0.20, 0.08],
        [0.10, 0.32, 0.38],
        [0.45, 0.14, 0.38],
        [0.72, 0.62, 0.55],
        [0.70, 0.30, 0.12],
        [0.16, 0.17, 0.30],
    ]
)
_MAX_MARKS = 24  # rows of `Looks.marks`


@dataclass(frozen=True)
class AnnotatedPhotos:
    """Photos with their ground truth."""

    images: torch.Tensor
    """Photos [n,3,R,R] in [-1,1] on white."""
    cameras: torch.Tensor
    """Exact cameras [n,25]."""
    depths: torch.Tensor
    """Depth [n,1,R,R] along the ray, 0 outside the head."""
    masks: torch.Tensor
    """Covered fraction [n,1,R,R] of each pixel, 0..1."""
    landmarks: torch.Tensor
    """Eyes, nose and mouth corners in the world [n,5,3]."""
    pixels: torch.Tensor
    """The same in the photo [n,5,2], in units of its side from the upper left corner."""


@dataclass(frozen=True)
class Person:
    """Synthetic person: `photos` gives training data, `render` the ground truth of the neutral face."""

    seed: int
    """Seed that determines the person."""
    look: Looks
    """Head with a neutral expression, a batch of one."""
    extra: ExtraGeometry | None
    """Glasses, or None."""

    def photos(
        self,
        n: int,
        seed: int = 0,
        resolution: int = 256,
        yaw: float = 35.0,
        pitch: float = 15.0,
        pose_error: float = 0.0,
        cluttered: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Render photos with varied views and expressions.

        Args:
            n: number of photos.
            seed: seed of views and expressions; the same seed gives the same photos.
            resolution: side in pixels.
            yaw: largest yaw of the cameras in degrees, either way.
            pitch: largest pitch of the cameras in degrees, either way.
            pose_error: root mean square error of the returned cameras in degrees: they are rotated about the
                head in random directions. The photos stay the same.
            cluttered: put a different random background behind each photo instead of white.

        Returns:
            Photos [n,3,R,R] in [-1,1]; their cameras [n,25], exact without `pose_error`.

        Raises:
            ValueError: `n` is below 1.
        """
        album = self.album(n, seed, resolution, yaw, pitch)
        images, cameras = album.images, album.cameras
        own = np.random.default_rng([self.seed, seed, 2])
        turns = torch.from_numpy(own.normal(size=(n, 3))).float() * float(np.radians(pose_error)) / 3**0.5
        if pose_error:
            cameras = rotate_cameras(cameras, F.pad(turns, (0, 2)))
        if cluttered:
            backgrounds = torch.stack([_background(own, resolution) for _ in range(n)])
            # The photos are composited on white, which is 1: replace it where the head does not cover it.
            images = images + (1 - album.masks) * (backgrounds - 1)
        return images, cameras

    def album(
        self, n: int, seed: int = 0, resolution: int = 256, yaw: float = 35.0, pitch: float = 15.0
    ) -> AnnotatedPhotos:
        """Render the same photos as `photos`, with exact cameras and all ground truth."""
        if n < 1:
            raise ValueError(f"Ask for at least one photo, not {n}.")
        rng = np.random.default_rng([self.seed, seed, 1])
        cameras = _spread_cameras(n, rng, yaw, pitch)
        parts: list[tuple[torch.Tensor, ...]] = []
        model = head_model()
        for camera in cameras:
            look = dataclasses.replace(self.look, expression=random_expression(rng))
            taken = photograph(scene_of(look, self.extra), camera[None], np.zeros(1, int), resolution, 4)
            points = model.landmarks(torch.from_numpy(posed_vertices(look, model)).float())
            parts.append((*taken, points))
        images, depths, masks, points = (torch.cat(part) for part in zip(*parts, strict=True))
        return AnnotatedPhotos(images, cameras, depths, masks, points, _project_to_image(points, cameras))

    @property
    def landmarks(self) -> torch.Tensor:
        """Features of the neutral face in the world [5, 3], in the order of `head_mesh.LANDMARKS`."""
        model = head_model()
        return model.landmarks(torch.from_numpy(posed_vertices(self.look, model)).float())[0]

    def render(
        self, cameras: torch.Tensor, resolution: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Render the neutral face.

        Args:
            cameras: cameras [N, 25].
            resolution: side in pixels.

        Returns:
            Images [N,3,R,R] in [-1,1] on white; depth [N,1,R,R] along the ray, 0 outside the head; mask
                [N,1,R,R] in 0..1.
        """
        return photograph(
            scene_of(self.look, self.extra), cameras, np.zeros(len(cameras), int), resolution, 4
        )


def person(seed: int) -> Person:
    """Return the person of a seed, the same on every machine.

    Args:
        seed: any number; those from `RESERVED_SEEDS` on are reserved for acceptance tests.

    Raises:
        ImportError: the `starter` extra is not installed.
    """
    model = head_model()
    rng = np.random.default_rng([seed, 77])
    z = torch.from_numpy(rng.standard_normal((1, Z_DIM))).float()
    z[:, NAMES.index("skin")] = float(rng.uniform(-1.2, 0.6))
    look = looks(z, model)
    tint = torch.tensor([1.05, 0.84, 0.80]) ** float(rng.uniform(0.7, 1.3))
    skin = (look.colors["skin"] * tint).clamp(0, 1)
    hair = torch.from_numpy(_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.85, 1.15)).float()[None]
    brow = hair * float(rng.uniform(0.35, 0.7))
    frame = torch.tensor([[0.05, 0.05, 0.06]]) if rng.random() < 0.6 else torch.tensor([[0.45, 0.10, 0.08]])
    local = look.local + torch.from_numpy(_own_shape(model, rng)).float()
    look = dataclasses.replace(
        look,
        local=local,
        expression=Expression.neutral(1),
        colors=look.colors | {"skin": skin, "hair": hair, "brow": brow, "frame": frame},
        freckles=torch.full((1,), float(rng.uniform(0.5, 1.0)) if rng.random() < 0.6 else 0.0),
        marks=torch.from_numpy(_marks(model, rng, skin[0].numpy())).float()[None],
        brow_width=look.brow_width * float(rng.uniform(0.8, 1.4)),
    )
    wears_glasses = rng.random() < 0.35
    return Person(seed, look, _fitted_glasses(look, model) if wears_glasses else None)


def _own_shape(model: HeadModel, rng: np.random.Generator) -> np.ndarray:
    """Sample local shape changes [1, L], nearly symmetric."""
    labels = model.local_labels
    stems = [label[2:] if label[:2] in ("l-", "r-") else label for label in labels]
    common = {stem: rng.normal(scale=0.16) for stem in sorted(set(stems))}
    values = np.array([common[stem] + rng.normal(scale=0.05) for stem in stems])
    calm = np.array(
        [0.3 if "trans-out" in label or "neck" in label or "head-angle" in label else 1.0 for label in labels]
    )
    return (values * calm)[None]


def _on_skin(model: HeadModel, guess: tuple[float, float, float]) -> np.ndarray:
    """Return the skin vertex [3] nearest to a point in canonical coordinates."""
    skin = np.unique(model.triangles[model.parts == SKIN])
    points = model.canonical[skin]
    return points[np.argmin(((points - np.array(guess)) ** 2).sum(axis=1))]


def _marks(model: HeadModel, rng: np.random.Generator, skin: np.ndarray) -> np.ndarray:
    """Sample marks [M, 8] on the skin: a birthmark, moles, maybe a scar and a tattoo.

    Args:
        model: head model.
        rng: random generator.
        skin: RGB color of the skin [3].
    """
    side = rng.choice([-1.0, 1.0])
    dark, wine = skin * np.array([0.32, 0.24, 0.22]), skin * np.array([0.62, 0.26, 0.30])
    rows: list[np.ndarray] = []

    def disc(place: np.ndarray, radius: float, color: np.ndarray, soft: float) -> None:
        rows.append(np.concatenate([place, [radius], color, [soft]]))

    def line(a: np.ndarray, b: np.ndarray, width: float, color: np.ndarray) -> None:
        rows.append(np.concatenate([a, [width], color, [-0.5]]))
        rows.append(np.concatenate([b, [0.0], color, [0.5]]))

    # A birthmark from the cheek towards the ear, visible from the front and from that side.
    center = np.array([side * 0.130, rng.uniform(-0.05, 0.02), 0.135])
    disc(_on_skin(model, tuple(center)), rng.uniform(0.026, 0.036), wine, 0.25)
    disc(
        _on_skin(model, tuple(center + np.array([side * 0.022, -0.030, -0.03]))),
        rng.uniform(0.018, 0.026),
        wine,
        0.3,
    )
    for _ in range(int(rng.integers(3, 6))):
        guess = (rng.uniform(-0.14, 0.14), rng.uniform(-0.18, 0.20), 0.17)
        disc(_on_skin(model, guess), rng.uniform(0.006, 0.009), dark, 0.4)
    # A mole on each temple and one on the neck, visible in profile.
    for sign in (-1.0, 1.0):
        disc(
            _on_skin(model, (sign * 0.165, rng.uniform(0.05, 0.12), 0.05)),
            rng.uniform(0.007, 0.010),
            dark,
            0.4,
        )
    disc(_on_skin(model, (-side * 0.10, rng.uniform(-0.30, -0.24), 0.02)), 0.010, dark, 0.4)
    if rng.random() < 0.7:
        start = _on_skin(model, (-side * rng.uniform(0.03, 0.08), 0.205, 0.22))
        line(
            start,
            _on_skin(model, (start[0] - side * 0.035, 0.145, 0.22)),
            0.0045,
            skin * np.array([1.10, 0.72, 0.70]),
        )
    if rng.random() < 0.5:
        ink = np.array([0.10, 0.16, 0.24])
        for k in range(3):
            y = -0.060 - 0.022 * k
            line(
                _on_skin(model, (-side * 0.105, y, 0.155)),
                _on_skin(model, (-side * 0.150, y + 0.02, 0.08)),
                0.0055,
                ink,
            )
    marks = np.zeros((_MAX_MARKS, 8))
    marks[: len(rows)] = rows
    return marks


def _project_to_image(points: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
    """Project world points [N, M, 3] with cameras [N, 25] to image units [N, M, 2], 0..1 in the image."""
    pose = cam2world(cameras)
    local = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    return 0.5 + intrinsics(cameras)[:, None, :1, 0] * local[..., :2] / local[..., 2:]


def _background(rng: np.random.Generator, side: int) -> torch.Tensor:
    """Sample a background [3, side, side] in [-1, 1]: a smooth color field with random rectangles."""
    blotches = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 4, 4))).float()
    picture = torch.nn.functional.interpolate(blotches, (side, side), mode="bicubic", align_corners=True)[0]
    for _ in range(int(rng.integers(3, 9))):
        top, left = rng.integers(0, side, 2)
        height, width = rng.integers(side // 12 + 1, side // 2 + 2, 2)
        picture[:, top : top + height, left : left + width] = torch.from_numpy(
            rng.uniform(-1, 1, (3, 1, 1))
        ).float()
    return picture.clamp(-1, 1)


def random_expression(rng: np.random.Generator) -> Expression:
    """Sample an expression of one head: mostly mild, sometimes a laugh, rarely half-closed eyes."""

    def value(number: float) -> torch.Tensor:
        return torch.tensor([number], dtype=torch.float32)

    smile = rng.choice([rng.uniform(-0.15, 0.15), rng.uniform(0.2, 0.8)])
    return Expression(
        smile=value(smile),
        jaw=value(max(0.0, rng.normal(0.02, 0.10))),
        blink=value(rng.choice([rng.uniform(-0.05, 0.08), rng.uniform(0.1, 0.45)], p=[0.8, 0.2])),
        brows_up=value(max(0.0, rng.normal(0.0, 0.3))),
        frown=value(max(0.0, rng.normal(-0.1, 0.25))),
        gaze=value(rng.uniform(-0.2, 0.2)),
    )


def _spread_cameras(n: int, rng: np.random.Generator, yaw: float, pitch: float) -> torch.Tensor:
    """Sample cameras [n, 25] that cover the range in degrees: yaw stratified and shuffled, pitch uniform."""
    yaws = -yaw + 2 * yaw * (rng.permutation(n) + rng.random(n)) / n
    pitches = rng.uniform(-pitch, pitch, n)
    return torch.cat(
        [look_at(float(np.radians(y)), float(np.radians(p))) for y, p in zip(yaws, pitches, strict=True)]
    )


def _fitted_glasses(look: Looks, model: HeadModel) -> ExtraGeometry:
    """Build glasses that fit the neutral face."""
    actions = look.expression.actions(model.action_labels)
    vertices = model.vertices(model.coefficients(look.phenotypes, look.local, actions))
    points, triangles = glasses(model.landmarks(vertices)[0].numpy(), vertices[0].numpy(), model)
    return ExtraGeometry(points[None].astype(np.float32), triangles.astype(np.int32), GLASSES)
