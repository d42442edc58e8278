"""Error of the estimated camera poses, on synthetic heads whose cameras are known.

    python -m benchmarks.pose --cache FILE [--persons 20] [--first 0] [--views 5] [--json FILE]

Renders photos of each person (seeds from `--first` on, expressions and glasses included; yaw +-60, pitch +-25
degrees, 256 pixels), runs the face models once, saves their landmarks in FILE, and prints the error of the
rotation in degrees (median, 95 %, largest) for each solver.

The true pose of a view is that of its camera, turned to look at the face and rolled, as the crop is. (A
camera that looks at the world's origin from 60 degrees sees the face, .16 units in front of it, from 63
degrees.)

"exact + 1.5 px": projected vertices with noise instead of detected landmarks: the head model's own five
points, and for each point of the dense shape model the nearest vertex of the average head. Occluded points
are used too.

"51 points" are brows, nose, eyes and mouth of the 106 landmarks. "heads' own" is a shape model (15 modes) of
150 other persons of the same head model with two expressions each, at the vertices nearest to the landmarks
in frontal views. It separates the error of the solver from that of the shape model; on photographs such a
model has no advantage, see docs/faces.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from my3dgen_core.common.image_ops import to_pixels
from my3dgen_core.face.pose import (
    SIGMA_DETECTED,
    PoseFit,
    ShapePrior,
    angles_of_rotation,
    shape_prior,
    solve_pose,
    solve_poses,
    solve_shape_and_poses,
)

RESOLUTION, YAW, PITCH = 256, 60.0, 25.0
# 51 of the 106 landmarks: brows, the nose and eyes of the shipped model, mouth
BROWS, MOUTH = (43, 48, 49, 51, 50, 102, 103, 104, 105, 101), tuple(range(52, 72))
OTHER_PERSONS = range(1000, 1150)  # persons of the heads' own shape model
FACE = np.array([0.0, 0.006, 0.161])  # origin of the shape model's coordinates in the world


def degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    """Return the angle between two rotations [3,3]."""
    return float(np.degrees(np.arccos(np.clip((np.trace(one @ other.T) - 1) / 2, -1, 1))))


def true_rotation(camera: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Return the world-to-camera rotation [3,3] of a crop.

    Args:
        camera: the view's camera [25]; it is turned to look at the face.
        transform: photo to crop, [2,3]; its rotation is the camera's roll.
    """
    angle = np.arctan2(transform[1, 0], transform[0, 0])
    roll = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return roll @ aimed(camera)


def aimed(camera: np.ndarray) -> np.ndarray:
    """Return the world-to-camera rotation [3,3] of a camera [25] turned to look at the face."""
    matrix = camera[:16].reshape(4, 4)
    rotation, position = matrix[:3, :3].T, matrix[:3, 3]
    wanted = FACE - position
    wanted = wanted / np.linalg.norm(wanted)
    axis, cosine = np.cross(rotation[2], wanted), float(rotation[2] @ wanted)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + cross + cross @ cross / (1 + cosine)
    return rotation @ turn.T


def project(vertices: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Project world points [M,3] to pixels [M,2] of a camera [25]."""
    matrix = camera[:16].reshape(4, 4)
    seen = (vertices - matrix[:3, 3]) @ matrix[:3, :3]
    return (seen[:, :2] / seen[:, 2:] * 4.2647 + 0.5) * RESOLUTION


def mesh_points() -> np.ndarray:
    """Return the vertex indices [24] of the average head nearest to the shape model's points."""
    from my3dgen_core.starter.synthetic.head_model import head_model

    points = shape_prior(dense=True).mean * 0.27 + FACE
    distance = np.linalg.norm(head_model().canonical[None] - points[:, None], axis=2)
    return distance.argmin(axis=1)


def landmark_vertices(data: dict[str, np.ndarray]) -> np.ndarray:
    """Return the vertex indices [106] nearest to the detected landmarks in nearly frontal views."""
    from scipy.spatial import cKDTree

    from my3dgen_core.starter.synthetic.head_mesh import SKIN
    from my3dgen_core.starter.synthetic.head_model import head_model

    model = head_model()
    skin = np.unique(model.triangles[model.parts == SKIN])
    skin = skin[model.canonical[skin, 2] > 0]
    places = []
    for vertices, camera, matrix, landmarks in zip(
        data["vertices"], data["camera"], data["transform"], data["landmarks"], strict=True
    ):
        yaw, pitch, _ = np.degrees(angles_of_rotation(true_rotation(camera, matrix)))
        if abs(yaw) > 18 or abs(pitch) > 12:
            continue
        seen = project(vertices[skin], camera) @ matrix[:, :2].T + matrix[:, 2]
        depth = np.linalg.norm(vertices[skin] - camera[[3, 7, 11]], axis=1)
        distance, near = cKDTree(seen).query(landmarks, 6)
        front = np.where(distance < distance[:, :1] + 6, depth[near], np.inf).argmin(1)
        places.append(model.canonical[skin[near[np.arange(106), front]]])
    return skin[cKDTree(model.canonical[skin]).query(np.median(places, axis=0))[1]]


def heads_own(
    vertices: np.ndarray, dense: Sequence[int], detected: tuple[int, ...], modes: int = 15
) -> ShapePrior:
    """Compute a shape model from other persons.

    Args:
        vertices: vertex indices [106] of the landmarks.
        dense: indices of the landmarks that the model has.
        detected: indices of the detector's five points that it has.
        modes: number of principal components.
    """
    faces = (head_points() - FACE) / 0.27
    points = np.concatenate([faces[:, 5:][:, vertices[list(dense)]], faces[:, list(detected)]], axis=1)
    mean = points.mean(0)
    _, sizes, axes = np.linalg.svd((points - mean).reshape(len(points), -1), full_matrices=False)
    scaled = (sizes[:modes, None] * axes[:modes] / np.sqrt(len(points) - 1)).reshape(modes, -1, 3)
    return ShapePrior(mean, scaled, np.asarray(dense), detected)


@lru_cache(maxsize=1)
def head_points() -> np.ndarray:
    """Return the five points and all vertices [n,5+V,3] of other persons in world coordinates."""
    import dataclasses

    import torch

    from my3dgen_core.starter import person
    from my3dgen_core.starter.synthetic.head_model import head_model
    from my3dgen_core.starter.synthetic.heads import posed_vertices
    from my3dgen_core.starter.synthetic.persons import random_expression

    faces = []
    for seed in OTHER_PERSONS:
        look, rng = person(seed).look, np.random.default_rng([seed, 5])
        for _ in range(2):
            vertices = posed_vertices(
                dataclasses.replace(look, expression=random_expression(rng)), head_model()
            )
            five = head_model().landmarks(torch.from_numpy(vertices)).numpy()
            faces.append(np.concatenate([five[0], vertices[0]]))
    return np.stack(faces)


def collect(persons: range, views: int) -> dict[str, np.ndarray]:
    """Render the persons and return the solvers' inputs for every view in which a face was found."""
    import dataclasses

    import torch
    from face_fixtures import models

    from my3dgen_core.face.face_search import chooser, search_face
    from my3dgen_core.face.report import FaceReport
    from my3dgen_core.starter import person
    from my3dgen_core.starter.synthetic.head_model import head_model
    from my3dgen_core.starter.synthetic.heads import posed_vertices
    from my3dgen_core.starter.synthetic.persons import random_expression

    networks = models()
    choose = chooser("largest", None, networks)
    rows: dict[str, list[np.ndarray]] = {
        name: []
        for name in (
            *("person", "camera", "points", "landmarks", "exact", "exact_five", "transform", "vertices"),
        )
    }
    chosen = mesh_points()
    for seed in persons:
        someone = person(seed)
        images, cameras = someone.photos(views, 0, RESOLUTION, YAW, PITCH)
        rng = np.random.default_rng([seed, 0, 1])
        rng.permutation(views), rng.random(views), rng.uniform(-PITCH, PITCH, views)  # as photos() drew them
        for image, camera in zip(images, cameras.double().numpy(), strict=True):
            look = dataclasses.replace(someone.look, expression=random_expression(rng))
            pixels = to_pixels(image)
            report = FaceReport(0, f"person {seed}")
            found = search_face(pixels, report, networks, choose, 320)
            if found is None or found.landmarks is None:
                print(f"person {seed}: {report.reason}", flush=True)
                continue
            vertices = posed_vertices(look, head_model())[0]
            five = head_model().landmarks(torch.from_numpy(vertices)[None])[0].numpy()
            exact, exact_five = (
                found.transform.to_crop(project(v, camera)) for v in (vertices[chosen], five)
            )
            for name, value in (
                ("person", seed),
                ("camera", camera),
                ("points", found.transform.to_crop(found.face.points)),
                ("landmarks", found.landmarks),
                ("exact", exact),
                ("exact_five", exact_five),
                ("transform", found.transform.matrix),
                ("vertices", vertices),
            ):
                rows[name].append(np.asarray(value, np.float64))
        print(f"person {seed}: {len(rows['person'])} faces", flush=True)
    return {name: np.stack(values) for name, values in rows.items()}


def measure(data: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the median, 95 % and largest error in degrees of each solver."""
    truth = [true_rotation(*view) for view in zip(data["camera"], data["transform"], strict=True)]
    rng = np.random.default_rng(0)
    exact = data["exact"] + rng.normal(size=data["exact"].shape) * 1.5
    exact_five = data["exact_five"] + rng.normal(size=data["exact_five"].shape) * 1.5

    def errors(fits: list[PoseFit]) -> list[float]:
        found = [degrees_between(fit.rotation, turn) for fit, turn in zip(fits, truth, strict=True)]
        return [float(value) for value in np.percentile(found, [50, 95, 100])]

    groups = [np.flatnonzero(data["person"] == number) for number in np.unique(data["person"])]
    together: list[PoseFit | None] = [None] * len(truth)
    for group in groups:
        fits = solve_poses(list(data["points"][group]), list(data["landmarks"][group]))
        for index, fit in zip(group, fits, strict=True):
            together[index] = fit
    pairs = list(zip(data["points"], data["landmarks"], strict=True))
    places = landmark_vertices(data)
    seen = np.stack(
        [
            project(vertices[places], camera) @ matrix[:, :2].T + matrix[:, 2]
            for vertices, camera, matrix in zip(
                data["vertices"], data["camera"], data["transform"], strict=True
            )
        ]
    )
    seen += rng.normal(size=seen.shape) * 1.5

    def solved(views: np.ndarray, prior: ShapePrior) -> list[PoseFit]:
        return [solve_shape_and_poses(v[None], prior, SIGMA_DETECTED)[0] for v in views]

    def views(landmarks: np.ndarray, five: np.ndarray, prior: ShapePrior) -> np.ndarray:
        return np.concatenate([landmarks[:, prior.dense], five[:, list(prior.detected)]], axis=1)

    shipped, five_points = shape_prior(dense=True), shape_prior(dense=False)
    all_five = shape_prior(dense=True, detected=(0, 1, 2, 3, 4))
    own = heads_own(places, list(shipped.dense), shipped.detected)
    own_51 = heads_own(places, (*BROWS, *shipped.dense, *MOUTH), ())
    found, points = data["landmarks"], data["points"]
    exact_all = np.concatenate([exact[:, :21], exact_five], axis=1)
    return {
        "5 points, detected": errors([solve_pose(five) for five in points]),
        "21 + 5 points, detected": errors(solved(views(found, points, all_five), all_five)),
        "21 + 3 points, detected": errors([solve_pose(five, many) for five, many in pairs]),
        "the same, one shape a person": errors([fit for fit in together if fit is not None]),
        "21 + 3, heads' own, detected": errors(solved(views(found, points, own), own)),
        "51, heads' own, detected": errors(solved(views(found, points, own_51), own_51)),
        "5 points, exact + 1.5 px": errors(solved(exact_five, five_points)),
        "21 + 5 points, exact + 1.5 px": errors(solved(exact_all, all_five)),
        "21 + 3 points, exact + 1.5 px": errors(solved(exact, shipped)),
        "21 + 3, heads' own, exact": errors(solved(views(seen, exact_five, own), own)),
        "51, heads' own, exact": errors(solved(views(seen, exact_five, own_51), own_51)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, required=True, help="landmarks of the views; written if missing"
    )
    parser.add_argument("--persons", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first person")
    parser.add_argument("--views", type=int, default=5, help="photos of each person")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not options.cache.exists():
        persons = range(options.first, options.first + options.persons)
        np.savez(options.cache, **collect(persons, options.views))  # type: ignore[arg-type]
    with np.load(options.cache) as file:
        data = {name: file[name] for name in file.files}
    start = time.process_time()
    results = measure(data)
    print(f"{len(data['camera'])} views, {time.process_time() - start:.1f} s of solving")
    for name, (median, most, worst) in results.items():
        print(f"{name:32s} median {median:5.2f}   95 % {most:5.2f}   max {worst:5.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
