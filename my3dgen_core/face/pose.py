"""Camera labels of face crops, by a maximum-a-posteriori fit of a linear shape model to landmarks.

An EG3D crop is a pinhole picture with a focal length of 4.2647 crop widths, so a head pose solved in crop
pixels with that focal length gives the camera label. The shape model (mean and modes of 5 and of 21 + 5 face
points) is made from CC0 heads of MakeHuman; it replaces the licensed face model of the original
preprocessing.

Angles: the camera is at the viewer's right (+x) for yaw > 0 and above for pitch > 0; the head leans clockwise
in the picture for roll > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..camera import FOCAL
from .crop import CROP_SIZE, weak_perspective
from .face_mesh import rotation_of_mesh

RADIUS = 2.7
_PIXELS = FOCAL * CROP_SIZE  # focal length in crop pixels
_DISTANCE = 10.0  # of the camera from the face's origin, in decimeters
_WORLD_PER_DECIMETER = 0.27
_WORLD_OFFSET = np.array([0.0, 0.006, 0.161])  # of the face's origin in EG3D's world
SIGMA_DETECTED = 4.0
"""Standard deviation of landmarks in crop pixels, including what the shape modes cannot represent."""
# Prior of the pitch. Photos of persons have a mean of 5 and a deviation of 6 degrees; the prior is at least
# twice as wide, so that heads seen from above or below are not biased. Five points constrain the pitch less
# than 24.
_PITCH_MEAN, _PITCH_SD_DENSE, _PITCH_SD_FIVE = math.radians(4.0), math.radians(16.0), math.radians(12.0)


@dataclass(frozen=True)
class ShapePrior:
    """Linear model of face points: points = mean + coefficients @ modes with coefficients ~ N(0, 1)."""

    mean: np.ndarray
    """Mean points [M,3] in decimeters."""
    modes: np.ndarray
    """Shape modes [m,M,3] in decimeters."""
    dense: np.ndarray
    """Indices of the first points among the 106 landmarks; empty if there are none."""
    detected: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Indices of the last points among the detector's five."""
    pitch_sd: float = _PITCH_SD_DENSE
    """Standard deviation of the head's pitch in radians."""


@lru_cache(maxsize=1)
def _prior_arrays() -> dict[str, np.ndarray]:
    """Load the arrays of `pose_prior.npz`: means and modes of 5 and 26 points, landmark indices."""
    with np.load(Path(__file__).with_name("pose_prior.npz")) as data:
        return {name: data[name].astype(np.int64 if name == "idx106" else np.float64) for name in data.files}


def shape_prior(dense: bool, detected: tuple[int, ...] = (2, 3, 4)) -> ShapePrior:
    """Return the shape model for a set of points.

    Args:
        dense: True for 21 landmarks of eyes and nose with some of the detector's points (15 modes), False for
            the detector's five points alone (8 modes).
        detected: indices of the detector's points in the dense model; the default leaves out the eyes, which
            the landmarks locate better.
    """
    arrays = _prior_arrays()
    if dense:
        used = [*range(21), *(21 + point for point in detected)]
        return ShapePrior(arrays["mean26"][used], arrays["modes26"][:, used], arrays["idx106"], detected)
    return ShapePrior(arrays["mean5"], arrays["modes5"], np.zeros(0, np.int64), pitch_sd=_PITCH_SD_FIVE)


def mean_face() -> np.ndarray:
    """Return the five points (eyes, nose, mouth corners) of the mean face in EG3D's world [5,3]."""
    return shape_prior(dense=False).mean * _WORLD_PER_DECIMETER + _WORLD_OFFSET


@dataclass(frozen=True)
class PoseFit:
    """Pose of one view: x_cam = rotation @ X + translation.

    The camera is that of OpenCV; X is in decimeters with y up and z out of the face.
    """

    rotation: np.ndarray
    """World-to-camera rotation [3,3]."""
    translation: np.ndarray
    """Translation [3] in decimeters."""
    coefficients: np.ndarray
    """Coefficients [m] of the shape modes."""
    error: float
    """Root mean square of the reprojection errors, in pixels of a 512 crop."""
    cost: float
    """Value of the objective, that of all views if they were solved together."""


def solve_pose(
    points: np.ndarray,
    landmarks: np.ndarray | None = None,
    sigma: float = SIGMA_DETECTED,
    mesh: np.ndarray | None = None,
) -> PoseFit:
    """Solve the head pose of one crop.

    Args:
        points: detector's points [5,2] in the 512 crop, in edge coordinates.
        landmarks: landmarks [106,2] in the same crop, or None.
        sigma: standard deviation of a point's error in pixels.
        mesh: landmarks with depth [468 or more,3] in the same crop, or None, see `rotation_of_mesh`.
    """
    return solve_poses([points], [landmarks], sigma, [mesh])[0]


def solve_poses(
    points: Sequence[np.ndarray],
    landmarks: Sequence[np.ndarray | None],
    sigma: float = SIGMA_DETECTED,
    meshes: Sequence[np.ndarray | None] | None = None,
) -> list[PoseFit]:
    """Solve the poses of several crops of one person with one shape, so that their labels agree.

    Args:
        points: detector's points [5,2] of each crop, as for `solve_pose`.
        landmarks: landmarks [106,2] of each crop, or None; they are used only if every crop has them.
        sigma: standard deviation of a point's error in pixels.
        meshes: landmarks with depth [468 or more,3] of each crop, or None. The rotation is then the mean of
            the one solved from the points and the one of the mesh, whose errors are independent: the first
            measures pitch too small, the second yaw.

    Returns:
        One pose for each crop.
    """
    dense = all(found is not None for found in landmarks)
    prior = shape_prior(dense)
    views = []
    for five, many in zip(points, landmarks, strict=True):
        first = np.zeros((0, 2)) if many is None or not dense else np.asarray(many, np.float64)[prior.dense]
        views.append(np.concatenate([first, np.asarray(five, np.float64)[list(prior.detected)]]))
    fits = solve_shape_and_poses(np.stack(views), prior, sigma)
    return [
        fit if mesh is None else replace(fit, rotation=_mean_rotation(fit.rotation, rotation_of_mesh(mesh)))
        for fit, mesh in zip(fits, meshes or [None] * len(fits), strict=True)
    ]


def _mean_rotation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rotation [3,3] in the middle between two."""
    u, _, vt = np.linalg.svd(one + other)
    return np.asarray(u * [1.0, 1.0, np.linalg.det(u @ vt)] @ vt)


def solve_shape_and_poses(views: np.ndarray, prior: ShapePrior, sigma: float) -> list[PoseFit]:
    """Minimize squared reprojection errors / sigma, coefficients and deviations of the pitch from its prior.

    Each view is first solved alone from two initial poses; then all views together.

    Args:
        views: points [K,M,2] in pixels of the 512 crops, in the order of the prior's points.
        prior: shape model; its coefficients are shared by the K views.
        sigma: standard deviation of a point's error in pixels.

    Returns:
        One pose for each view.
    """
    singles = []
    for view in views:
        fits = [
            _levenberg_marquardt(view[None], [start], prior, sigma)[0]
            for start in _initial_poses(view, prior.mean)
        ]
        singles.append(min(fits, key=lambda fit: fit.cost))
    if len(views) == 1:
        return singles
    return _levenberg_marquardt(views, [(fit.rotation, fit.translation) for fit in singles], prior, sigma)


def _initial_poses(view: np.ndarray, mean: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Initial poses of a view [M,2]: its weak-perspective fit, and the same with a pitch of 0.

    Returns:
        Rotation [3,3] and translation [3] of each.
    """
    rows, scale, shift = weak_perspective(view * [1, -1], mean)
    right, up = rows[0], rows[1] - rows[0] * (rows[0] @ rows[1])
    up = up / max(float(np.linalg.norm(up)), 1e-9)
    rotation = np.stack([right, -up, -np.cross(right, up)])
    depth = _PIXELS / max(scale, 1e-6)
    translation = np.array([shift[0] - CROP_SIZE / 2, -shift[1] - CROP_SIZE / 2, _PIXELS]) * depth / _PIXELS
    yaw, _, roll = angles_of_rotation(rotation)
    return [(rotation, translation), (rotation_of_angles(yaw, 0.0, roll), translation)]


def _levenberg_marquardt(
    views: np.ndarray,
    starts: Sequence[tuple[np.ndarray, np.ndarray]],
    prior: ShapePrior,
    sigma: float,
    steps: int = 60,
) -> list[PoseFit]:
    """Levenberg-Marquardt over K poses and the shared shape coefficients.

    Args:
        views: points [K,M,2] in crop pixels.
        starts: initial rotation [3,3] and translation [3] of each view.
        prior: shape model.
        sigma: standard deviation of a point's error in pixels.
        steps: largest number of iterations.
    """
    count, modes = len(views), len(prior.modes)
    rotations = np.stack([start[0] for start in starts])
    translations = np.stack([start[1] for start in starts])
    coefficients = np.zeros(modes)
    residual, jacobian = _linearize(views, rotations, translations, coefficients, prior, sigma)
    cost, damping = float(residual @ residual), 1e-3
    for _ in range(steps):
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -gradient)
        moves = step[: 6 * count].reshape(count, 6)
        trial_r = np.stack(
            [_rotation_from_vector(move[:3]) @ r for move, r in zip(moves, rotations, strict=True)]
        )
        trial_t, trial_c = translations + moves[:, 3:], coefficients + step[6 * count :]
        trial, trial_jacobian = _linearize(views, trial_r, trial_t, trial_c, prior, sigma)
        trial_cost = float(trial @ trial)
        if trial_cost < cost:
            done = cost - trial_cost < 1e-9 * (1 + cost)
            rotations, translations, coefficients = trial_r, trial_t, trial_c
            residual, jacobian, cost, damping = trial, trial_jacobian, trial_cost, max(damping / 5, 1e-9)
            if done:
                break
        else:
            damping *= 8
            if damping > 1e9:
                break
    pixels = residual[: views.size].reshape(count, -1, 2) * sigma
    errors = np.sqrt((pixels**2).sum(-1).mean(-1))
    return [
        PoseFit(rotations[k], translations[k], coefficients, float(errors[k]), cost) for k in range(count)
    ]


def _linearize(
    views: np.ndarray,
    rotations: np.ndarray,
    translations: np.ndarray,
    coefficients: np.ndarray,
    prior: ShapePrior,
    sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of the objective and their Jacobian.

    Args:
        views: points [K,M,2] in crop pixels.
        rotations: rotations [K,3,3].
        translations: translations [K,3].
        coefficients: shape coefficients [m].
        prior: shape model.
        sigma: standard deviation of a point's error in pixels.

    Returns:
        Residuals [2KM + K + m] of points, pitch and coefficients; Jacobian [2KM + K + m, 6K + m] with respect
            to a rotation vector on the left and the translation of each view, and the coefficients.
    """
    count, points, modes = len(views), views.shape[1], len(coefficients)
    shape = prior.mean + np.tensordot(coefficients, prior.modes, 1)
    turned = shape @ rotations.transpose(0, 2, 1)  # [K,M,3]
    camera = turned + translations[:, None]
    depth = camera[..., 2:].clip(0.5)
    ratio = camera[..., :2] / depth
    by_camera = np.zeros((count, points, 2, 3))  # d pixel / d camera point
    by_camera[..., 0, 0] = by_camera[..., 1, 1] = 1
    by_camera[..., 2] = -ratio
    by_camera *= (_PIXELS / sigma) / depth[..., None]

    rows = 2 * points
    jacobian = np.zeros((count * rows + count + modes, 6 * count + modes))
    pitch_residual = np.zeros(count)
    moved_modes = np.einsum("kij,mpj->kpim", rotations, prior.modes)
    for k in range(count):
        at = slice(k * rows, (k + 1) * rows)
        cross = np.zeros((points, 3, 3))  # d (w x turned) / d w
        x, y, z = turned[k].T
        cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 0] = z, -y, -z
        cross[:, 1, 2], cross[:, 2, 0], cross[:, 2, 1] = x, y, -x
        jacobian[at, 6 * k : 6 * k + 3] = (by_camera[k] @ cross).reshape(rows, 3)
        jacobian[at, 6 * k + 3 : 6 * k + 6] = by_camera[k].reshape(rows, 3)
        jacobian[at, 6 * count :] = (by_camera[k] @ moved_modes[k]).reshape(rows, modes)
        sine = float(np.clip(-rotations[k, 2, 1], -0.999, 0.999))
        pitch_residual[k] = (math.asin(sine) - _PITCH_MEAN) / prior.pitch_sd
        slope = 1 / (math.sqrt(1 - sine * sine) * prior.pitch_sd)
        jacobian[count * rows + k, 6 * k : 6 * k + 2] = [
            -rotations[k, 1, 1] * slope,
            rotations[k, 0, 1] * slope,
        ]
    jacobian[count * rows + count :, 6 * count :] = np.eye(modes)
    pixels = (ratio * _PIXELS + CROP_SIZE / 2 - views) / sigma
    return np.concatenate([pixels.reshape(-1), pitch_residual, coefficients]), jacobian


def _rotation_from_vector(w: np.ndarray) -> np.ndarray:
    """Rotation matrix [3,3] of a rotation vector [3] (Rodrigues)."""
    angle = float(np.linalg.norm(w))
    if angle < 1e-12:
        return np.eye(3)
    k = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]) / angle
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def project_to_crop(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Project face points [M,3] in decimeters to pixels [M,2] of the 512 crop."""
    camera = points @ rotation.T + translation
    return camera[:, :2] / camera[:, 2:] * _PIXELS + CROP_SIZE / 2


def angles_of_rotation(rotation: np.ndarray) -> tuple[float, float, float]:
    """Return yaw, pitch and roll in radians of a world-to-camera rotation [3,3]."""
    forward = rotation[2]
    yaw = math.atan2(-forward[0], -forward[2])
    pitch = math.asin(float(np.clip(-forward[1], -1, 1)))
    level = rotation_of_angles(yaw, pitch, 0.0)
    lean = rotation @ level.T  # a rotation about the camera's z axis
    return yaw, pitch, math.atan2(lean[1, 0], lean[0, 0])


def rotation_of_angles(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the world-to-camera rotation [3,3] (OpenCV camera, y-up world) of angles in radians."""
    forward = -np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    level = np.stack([right, np.cross(forward, right), forward])
    c, s = math.cos(roll), math.sin(roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ level


def label_of_rotation(rotation: np.ndarray) -> np.ndarray:
    """Return the camera label [25] of a world-to-camera rotation [3,3] of the head.

    EG3D's labels depend on the rotation alone: the camera looks at the face from a distance of 2.7 to the
    origin.
    """
    position = -rotation[2] * _DISTANCE * _WORLD_PER_DECIMETER + _WORLD_OFFSET
    cam2world = np.eye(4)
    cam2world[:3, :3] = rotation.T
    cam2world[:3, 3] = position / np.linalg.norm(position) * RADIUS
    intrinsics = np.array([FOCAL, 0, 0.5, 0, FOCAL, 0.5, 0, 0, 1])
    return np.concatenate([cam2world.reshape(-1), intrinsics]).astype(np.float32)


def angles_from_labels(cameras: torch.Tensor) -> torch.Tensor:
    """Convert camera labels [N,25] to yaw, pitch and roll of the head in radians [N,3]."""
    matrices = cameras[:, :16].detach().double().cpu().numpy().reshape(-1, 4, 4)[:, :3, :3]
    return torch.tensor([angles_of_rotation(m.T) for m in matrices], dtype=torch.float32).reshape(-1, 3)


def labels_from_angles(angles: torch.Tensor) -> torch.Tensor:
    """Convert yaw, pitch and roll of the head in radians [N,3] to camera labels [N,25]."""
    rows = [label_of_rotation(rotation_of_angles(*row)) for row in angles.detach().double().cpu().tolist()]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 25)
