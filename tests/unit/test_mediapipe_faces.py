"""MediaPipe's face networks in the place of a pack, and landmarks that ComfyUI found."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_fixtures import OTHERS, SAME_MAN, mediapipe_models, portrait, real_batch, wall_of
from occluders import KINDS, covered
from real_photos import photo, wheel

from my3dgen_core.face import AlignedFaces, FaceModelError, MediaPipeModels, align_faces
from my3dgen_core.face.blaze_face import merge, merge_windows
from my3dgen_core.face.crop import STANDARD_POINTS
from my3dgen_core.face.face_mesh import five_points, landmarks_106, mesh_arrays, rotation_of_mesh
from my3dgen_core.face.given_landmarks import GivenLandmarks
from my3dgen_core.face.mediapipe_models import download_command, find_wheel
from my3dgen_core.face.pose import rotation_of_angles

NAMES = (*SAME_MAN, *OTHERS)


@lru_cache(maxsize=1)
def batch() -> AlignedFaces:
    """The six real photos, aligned without a pack."""
    return align_faces([(name, photo(name)) for name in NAMES], mediapipe_models())


def test_crops_and_cameras_are_those_of_the_pack() -> None:
    """Eyes and mouth lie within 2 % of the crop's width of where the pack's crop has them."""
    distances, turns = [], []
    for ours, theirs in zip(batch().report, real_batch().report, strict=True):
        assert ours.kept
        assert theirs.points is not None
        assert theirs.transform is not None
        assert ours.transform is not None
        seen = ours.transform.to_crop(theirs.transform.to_photo(theirs.points))
        distances.append(np.linalg.norm(seen - theirs.points, axis=1)[[0, 1, 3, 4]])
        turns.append([abs((ours.yaw or 0) - (theirs.yaw or 0)), abs((ours.pitch or 0) - (theirs.pitch or 0))])
    assert np.median(distances) < 0.02 * 512
    assert np.max(distances) < 0.04 * 512
    assert np.max(np.array(turns), axis=0).tolist() < [5, 9]


def test_there_is_no_identity_network_and_it_is_said() -> None:
    assert batch().embeddings is None
    assert all(row.identity is None for row in batch().report)
    assert mediapipe_models().license == "MediaPipe: Apache-2.0"
    assert not mediapipe_models().has_recognition
    with pytest.raises(FaceModelError, match="identity network"):
        align_faces([photo("obama.jpg")], mediapipe_models(), which="nearest", reference=photo("obama2.jpg"))


def test_the_mesh_of_each_crop_is_in_the_report() -> None:
    for row in batch().report:
        assert row.mesh is not None
        assert row.points is not None
        assert row.mesh.shape == (468, 3)
        assert np.allclose(five_points(row.mesh), row.points)
        assert "mesh" not in row.to_dict()


def test_a_mirrored_photo_has_the_mirrored_camera() -> None:
    mirrored = align_faces([photo("obama2.jpg")[:, ::-1].copy()], mediapipe_models()).report[0]
    original = batch().report[1]
    assert mirrored.yaw == pytest.approx(-(original.yaw or 0), abs=1.5)
    assert mirrored.pitch == pytest.approx(original.pitch, abs=1.5)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_the_same_crop(turns: int) -> None:
    upright = align_faces([portrait()], mediapipe_models())
    turned = align_faces([np.rot90(portrait(), turns).copy()], mediapipe_models())
    assert (turned.images - upright.images).abs().mean() < 0.06


def test_small_faces_of_large_photos_are_found() -> None:
    (row,) = align_faces([wall_of(4000, 1600, 40, (1850, 900))], mediapipe_models()).report
    assert row.box is not None
    assert row.box[2] - row.box[0] == pytest.approx(40, rel=0.15)
    (row,) = align_faces(
        [wall_of(4000, 1600, 44, (1900, 300), (300, 800), (3700, 900))], mediapipe_models(), which=1
    ).report
    assert row.box is not None
    assert 1900 < row.box[0] < 2000
    assert row.faces == 3


def test_where_there_is_no_face_none_is_found() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (300, 400, 3), dtype=np.uint8), np.zeros((90, 90, 3), np.uint8)]
    left, _, right, _ = mediapipe_models().detect(portrait())[0].box.astype(int)
    pictures.append(portrait()[:, (left + right) // 2 + 5 :].copy())
    rows = align_faces([*pictures, portrait()], mediapipe_models()).report
    assert [row.kept for row in rows] == [False, False, False, True]


def test_no_bare_face_is_suspected_and_most_covered_ones_are() -> None:
    assert not [row.name for row in batch().report if any("cover" in said for said in row.warnings)]
    for kind in ("mask", "microphone", "brim"):
        said = []
        for image, row in list(zip(batch().images, batch().report, strict=True))[::2]:
            assert row.points is not None
            crop = ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            found = align_faces(
                [covered(crop, row.points, kind, row.index)], mediapipe_models(), det_size=320
            )
            said.append(" ".join(found.report[0].warnings))
        assert sum("may cover" in text for text in said) >= 2, said
        parts = (KINDS[kind], "nose" if kind == "mask" else KINDS[kind])  # a mask covers the nose too
        assert any(f"may cover the {part}" in text for text in said for part in parts), said


@pytest.mark.parametrize("yaw", [-50, 0, 35])
@pytest.mark.parametrize("pitch", [-20, 12])
def test_the_canonical_face_is_read_right(yaw: float, pitch: float) -> None:
    rotation = rotation_of_angles(*np.radians([yaw, pitch, 7]))
    mesh = mesh_arrays()["canonical"] @ rotation.T * 90 + 256
    mesh[:, 2] /= 1.2  # as flat as the network's depth
    assert np.allclose(rotation_of_mesh(mesh), rotation, atol=1e-6)


def test_the_canonical_face_is_symmetric_and_has_the_standard_points() -> None:
    arrays = mesh_arrays()
    mirrored = arrays["mirrored"]
    assert (mirrored[mirrored] == np.arange(468)).all()
    assert np.allclose(arrays["canonical"][mirrored] * [-1, 1, 1], arrays["canonical"], atol=1e-5)
    flat = arrays["canonical"] * [1, -1, 1]
    five = five_points(flat)
    scale = (STANDARD_POINTS[1, 0] - STANDARD_POINTS[0, 0]) / (five[1, 0] - five[0, 0])
    expected = STANDARD_POINTS[:, :2] * [1, -1]
    assert np.abs((five - five.mean(0)) * scale - (expected - expected.mean(0))).max() < 0.06
    assert landmarks_106(flat).shape == (106, 2)


def test_detections_of_one_face_are_averaged_by_their_scores() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    points = np.zeros((3, 6, 2))
    found = merge(boxes, points, np.array([0.6, 0.9, 0.7]))
    assert [round(face.score, 2) for face in found] == [0.9, 0.7]
    assert found[0].box.tolist() == pytest.approx([1.2, 0, 11.2, 10])
    assert len(merge_windows([*found, *found])) == 2
    assert merge(boxes[:0], points[:0], np.zeros(0)) == []


# the wheel


def test_without_a_wheel_the_message_has_the_command(tmp_path: Path) -> None:
    assert find_wheel(tmp_path) is None
    with pytest.raises(FaceModelError) as caught:
        MediaPipeModels.from_wheel(tmp_path)
    assert download_command(tmp_path) in str(caught.value)
    assert "--platform manylinux_2_28_x86_64" in download_command(tmp_path)


def test_a_wheel_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mediapipe-0.10.21-cp312-cp312-any.whl"
    damaged: dict[str, bytes] = {"cut": wheel().read_bytes()[:100_000], "no zip": b"no wheel", "empty": b""}
    for data in damaged.values():
        file.write_bytes(data)
        with pytest.raises(FaceModelError, match=r"any\.whl .* Delete the file and download it again"):
            MediaPipeModels.from_wheel(tmp_path)
    names = ("face_detection/face_detection_short_range", "face_detection/face_detection_full_range_sparse")
    members = [f"mediapipe/modules/{name}.tflite" for name in (*names, "face_landmark/face_landmark")]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(members[0], bytes(1 << 25))  # a bomb
    with pytest.raises(FaceModelError, match="is not in it"):
        MediaPipeModels.from_wheel(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for member in members[1:]:
            archive.writestr(member, b"x")
    with pytest.raises(FaceModelError, match="is larger than 16 MiB"):
        MediaPipeModels.from_wheel(file)
    with zipfile.ZipFile(wheel()) as whole, zipfile.ZipFile(file, "w") as archive:
        for member in members:  # the wrong networks under the right names
            archive.writestr(member, whole.read(members[2]))
    with pytest.raises(FaceModelError, match="none of MediaPipe's face detectors"):
        MediaPipeModels.from_wheel(file)


# landmarks that are given


def given(names: tuple[str, ...], points: int = 468) -> list[dict[str, Any]]:
    """FACE_LANDMARKS as ComfyUI's node gives them, one value for each photo."""
    values = []
    for name in names:
        pixels = photo(name)
        (face,) = mediapipe_models().detect(pixels)[:1]
        assert face.mesh is not None
        mesh = mediapipe_models().second_look(pixels, face.mesh).mean(0)
        mesh = np.concatenate([mesh, mesh[: points - 468]])
        found = {
            "bbox_xyxy": face.box.astype(np.float32),
            "landmarks_xy": mesh[:, :2].astype(np.float32),
            "landmarks_3d": (mesh / 3).astype(np.float32),  # another unit
            "presence": 9.0,
            "score": 0.9,
            "blendshapes": {"jawOpen": 0.25},
        }
        values.append({"frames": [[found]], "image_size": pixels.shape[:2], "connection_sets": {}})
    return values


@pytest.mark.parametrize("points", [468, 478])
def test_given_landmarks_give_the_crops_of_the_networks(points: int) -> None:
    names = ("obama2.jpg", "biden.jpg")
    known = GivenLandmarks.from_values(given(names, points))
    found = align_faces([(name, photo(name)) for name in names], known)
    for row, image, index in zip(found.report, found.images, (1, 3), strict=True):
        assert (image - batch().images[index]).abs().mean() < 0.02
        assert row.found_by == "face_landmarks"
        assert row.blendshapes == {"jawOpen": 0.25}
        assert row.mesh is not None
        assert row.mesh.shape == (points, 3)
        assert row.yaw == pytest.approx(batch().report[index].yaw, abs=1)
    small = align_faces(
        [photo("biden.jpg")[::2, ::2].copy()], GivenLandmarks.from_values(given(("biden.jpg",)))
    )
    assert (small.images[0] - batch().images[3]).abs().mean() < 0.05


def test_a_photo_without_landmarks_is_left_out() -> None:
    values = given(("obama.jpg", "biden.jpg"))
    values[0]["frames"] = [[]]
    found = align_faces([photo("obama.jpg"), photo("biden.jpg")], GivenLandmarks.from_values(values))
    assert found.kept == [1]
    assert found.report[0].reason == "No face was found."


def test_what_is_no_face_landmarks_is_refused() -> None:
    for value in (None, {}, {"frames": [[{}]], "image_size": (9, 9)}, {"frames": 3, "image_size": (0, 9)}):
        with pytest.raises(ValueError, match="face_landmarks cannot be read"):
            GivenLandmarks.from_values([value])
    (value,) = given(("obama.jpg",))
    value["frames"][0][0]["landmarks_xy"] = np.full((468, 2), np.nan)
    with pytest.raises(ValueError, match="landmarks of the shape"):
        GivenLandmarks.from_values([value])
    known = GivenLandmarks.from_values(given(("obama.jpg",)))
    with pytest.raises(ValueError, match="1 frames, fewer than there are photos"):
        align_faces([photo("obama.jpg"), photo("obama2.jpg")], known)
    with pytest.raises(ValueError, match="is of a picture of 910 x 1137 pixels"):
        align_faces([photo("obama2.jpg")], known)
    with pytest.raises(FaceModelError, match="identity network"):
        align_faces([photo("obama.jpg")], known, which="nearest", reference=photo("obama2.jpg"))


def test_a_pack_adds_the_identity_to_given_landmarks() -> None:
    from face_fixtures import models as pack

    known = GivenLandmarks.from_values(given(SAME_MAN), pack())
    found = align_faces([(name, photo(name)) for name in SAME_MAN], known)
    assert found.embeddings is not None
    assert (found.embeddings @ found.embeddings.T).min() > 0.5
    assert "InsightFace pack testpack" in known.license
    one = align_faces(
        [photo("obama.jpg")],
        GivenLandmarks.from_values(given(("obama.jpg",)), pack()),
        which="nearest",
        reference=photo("obama2.jpg"),
    )
    assert torch.equal(one.images[0], found.images[0])
