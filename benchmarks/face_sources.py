"""MediaPipe's networks beside an InsightFace pack, on synthetic heads whose cameras are known.

    python -m benchmarks.face_sources --cache FILE [--persons 20] [--first 0] [--views 5] [--json FILE]
    python -m benchmarks.face_sources --cache FILE --first 200 --persons 40 --write

Renders photos as `benchmarks/pose.py` does (yaw +-60, pitch +-25 degrees, 256 pixels), keeps them in FILE,
and prints for both sources how many faces `search_face` accepts, the error of the camera in degrees, and, for
MediaPipe, how far the pack's eyes and mouth lie from their place in the pack's crop, in percent of its width.

`--write` makes `my3dgen_core/face/face_mesh.npz` of the faces of heads within 45 degrees of yaw: the
canonical face is the mean of the meshes turned back by the true rotation, the weight of a point is the
inverse of its variance, and each of the 106 landmarks is the point nearest to the pack's on
average.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from face_fixtures import mediapipe_models, models

from benchmarks.pose import PITCH, RESOLUTION, YAW, degrees_between, true_rotation
from my3dgen_core.common.image_ops import to_pixels
from my3dgen_core.face import FaceModels, face_mesh
from my3dgen_core.face.detect import MIRRORED
from my3dgen_core.face.face_search import Candidate, chooser, search_face
from my3dgen_core.face.pose import angles_of_rotation, solve_pose
from my3dgen_core.face.report import FaceReport

NEAR = 50.0  # degrees of yaw within which errors are also given


def render(persons: range, views: int) -> dict[str, np.ndarray]:
    """Render pictures [N,H,W,3] uint8 of persons and return them with their cameras [N,25]."""
    from my3dgen_core.starter import person

    pictures, cameras = [], []
    for seed in persons:
        images, labels = person(seed).photos(views, 0, RESOLUTION, YAW, PITCH)
        pictures += [to_pixels(image) for image in images]
        cameras += list(labels.double().numpy())
    return {"image": np.stack(pictures), "camera": np.stack(cameras)}


def search(pictures: np.ndarray, networks: FaceModels) -> tuple[list[Candidate | None], float]:
    """Search the face of each picture; also return the mean processor time in seconds."""
    choose = chooser("largest", None, networks)
    search_face(pictures[0], FaceReport(0, ""), networks, choose, 320)  # warm up
    start = time.process_time()
    found = [search_face(picture, FaceReport(0, ""), networks, choose, 320) for picture in pictures]
    return found, (time.process_time() - start) / len(pictures)


def errors(
    found: list[Candidate | None], cameras: np.ndarray, use: str = "both"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the poses and the true yaws in degrees, of the faces found.

    Args:
        found: the faces.
        cameras: true cameras [N,25].
        use: "points" or "depth" for the rotation of one of them alone, "both" for what Align Faces uses.
    """
    wrong, yaws = [], []
    for candidate, camera in zip(found, cameras, strict=True):
        if candidate is None:
            continue
        points = candidate.transform.to_crop(candidate.face.points)
        mesh = None if use == "points" else candidate.mesh
        rotation = solve_pose(points, candidate.landmarks, mesh=mesh).rotation
        if use == "depth" and mesh is not None:
            rotation = face_mesh.rotation_of_mesh(mesh)
        truth = true_rotation(camera, candidate.transform.matrix)
        wrong.append(degrees_between(rotation, truth))
        yaws.append(np.degrees(angles_of_rotation(truth)[0]))
    return np.array(wrong), np.array(yaws)


def parity(ours: list[Candidate | None], theirs: list[Candidate | None]) -> np.ndarray:
    """Return how far the pack's eyes and mouth [K,4] lie from their place in its crop, in percent."""
    moved = []
    for one, other in zip(ours, theirs, strict=True):
        if one is None or other is None:
            continue
        distances = one.transform.to_crop(other.face.points) - other.transform.to_crop(other.face.points)
        moved.append(np.linalg.norm(distances, axis=1)[[0, 1, 3, 4]] / one.transform.crop_size * 100)
    return np.array(moved)


def canonical_face(
    ours: list[Candidate | None], theirs: list[Candidate | None], cameras: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the arrays of `face_mesh.npz`, see the top of this file."""
    from scipy.optimize import linear_sum_assignment

    heads, apart = [], []
    for one, other, camera in zip(ours, theirs, cameras, strict=True):
        if one is None or other is None or one.mesh is None or other.landmarks is None:
            continue
        truth = true_rotation(camera, one.transform.matrix)
        if abs(np.degrees(angles_of_rotation(truth)[0])) > 45:
            continue
        mesh = one.mesh * [1.0, 1.0, face_mesh.DEPTH_SCALE]
        mesh = (mesh - mesh.mean(0)) @ truth
        heads.append(mesh / np.sqrt((mesh**2).sum(1).mean()))
        landmarks = one.transform.to_crop(other.transform.to_photo(other.landmarks))
        squares = ((landmarks[:, None] - one.mesh[None, :, :2]) ** 2).sum(-1)
        apart.append(np.minimum(squares, 900))
    mean, variance = np.mean(heads, 0), np.var(heads, 0).sum(1)
    to_other = ((mean[:, None] * [-1, 1, 1] - mean[None]) ** 2).sum(-1)
    _, mirrored = linear_sum_assignment(to_other + to_other.T)
    squares = np.mean(apart, 0)
    nearest = (squares + squares[list(MIRRORED)][:, mirrored]).argmin(1)
    for index, other_side in enumerate(MIRRORED):
        if other_side > index:
            nearest[other_side] = mirrored[nearest[index]]
    weights = 1 / (variance + 0.3 * np.median(variance))
    weights = weights + weights[mirrored]
    canonical = (mean + mean[mirrored] * [-1, 1, 1]) / 2
    weights = weights / weights.sum()
    return {
        "canonical": (canonical - (weights[:, None] * canonical).sum(0)).astype(np.float32),
        "weights": weights.astype(np.float32),
        "mirrored": mirrored.astype(np.int16),
        "landmarks_106": nearest.astype(np.int16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="the pictures; written if missing")
    parser.add_argument("--persons", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first person")
    parser.add_argument("--views", type=int, default=5, help="photos of each person")
    parser.add_argument("--write", action="store_true", help="make face_mesh.npz")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not options.cache.exists():
        persons = range(options.first, options.first + options.persons)
        np.savez(options.cache, **render(persons, options.views))  # type: ignore[arg-type]
    with np.load(options.cache) as file:
        pictures, cameras = file["image"], file["camera"]
    found = {
        name: search(pictures, one) for name, one in (("pack", models()), ("MediaPipe", mediapipe_models()))
    }
    ours, theirs = found["MediaPipe"][0], found["pack"][0]
    if options.write:
        arrays: dict[str, Any] = canonical_face(ours, theirs, cameras)
        np.savez_compressed(Path(face_mesh.__file__).with_name("face_mesh.npz"), **arrays)
        return
    results: dict[str, Any] = {"views": len(pictures)}
    for name, (candidates, seconds) in found.items():
        wrong, yaws = errors(candidates, cameras)
        results[name] = {
            "found": len(wrong),
            "median, 95 %, max": np.percentile(wrong, [50, 95, 100]).round(2).tolist(),
            f"within {NEAR:.0f} degrees of yaw": np.percentile(wrong[abs(yaws) < NEAR], [50, 95])
            .round(2)
            .tolist(),
            "processor seconds": round(seconds, 3),
        }
    for use in ("points", "depth"):
        wrong, _ = errors(ours, cameras, use)
        results[f"MediaPipe, {use} alone"] = np.percentile(wrong, [50, 95]).round(2).tolist()
    moved = parity(ours, theirs)
    results["eyes and mouth moved, % of width"] = np.percentile(moved, [50, 90]).round(2).tolist()
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
