"""Head masks: the parsing network is recognized by its shapes, gets the input it was trained on, and its
classes are grouped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from face_fixtures import models, portrait
from face_parser import dark_is_background, is_light, pack_with_parser, write_parser
from real_photos import pack_folder

from my3dgen_core.face import FaceModels, align_faces, align_sequence
from my3dgen_core.face.align import head_masks
from my3dgen_core.face.packs import find_models, role_of
from my3dgen_core.face.parsing import CLASSES, covered_by_classes, head_mask
from my3dgen_core.formats.onnx_file import OnnxGraph

FIVE = np.array([[188.0, 192.0], [324.0, 192.0], [257.0, 266.0], [201.0, 340.0], [310.0, 340.0]])
SKIN, CLOTH, HAIR, HAT = (CLASSES.index(name) for name in ("skin", "cloth", "hair", "hat"))


@pytest.fixture(scope="module")
def with_parser(tmp_path_factory: pytest.TempPathFactory) -> FaceModels:
    folder = pack_with_parser(tmp_path_factory.mktemp("faces") / "pack", dark_is_background())
    return FaceModels.from_folder(folder, ["CPUExecutionProvider"])


def _graph(picture: list[int | None], *outputs: list[int | None]) -> OnnxGraph:
    return OnnxGraph({"in": picture}, {f"out{i}": shape for i, shape in enumerate(outputs)})


def test_a_parser_is_told_by_its_shapes() -> None:
    full, picture = [1, 19, 512, 512], [1, 3, 512, 512]
    for graph in (
        _graph(picture, full),
        _graph([None, 3, 512, 512], [None, 19, 512, 512]),
        _graph([None, 3, None, None], [None, 19, None, None]),
        _graph(picture, [1, 19, 64, 64], full, [1, 19, 32, 32]),
    ):
        assert role_of(graph) == "parsing"
    for graph in (
        _graph(picture, [1, 18, 512, 512]),
        _graph(picture, [1, 19, 64, 64]),
        _graph([1, 3, 256, 256], full),
        _graph([8, 3, 512, 512], [8, 19, 512, 512]),
        _graph(picture, [1, 512]),
    ):
        assert role_of(graph) != "parsing"


@pytest.mark.parametrize("place", ["faces.onnx", "parsing/resnet18.onnx"])
def test_it_is_found_beside_the_pack_and_in_its_own_folder(tmp_path: Path, place: str) -> None:
    folder = pack_with_parser(tmp_path / "pack", None)
    assert "parsing" not in find_models(folder)
    write_parser(folder / place, dark_is_background())
    found = find_models(folder)
    assert set(found) == {"detection", "landmarks", "recognition", "parsing"}
    assert found["parsing"].name == Path(place).name
    assert f"parsing {Path(place).name}" in FaceModels.from_folder(folder).describe()


@pytest.mark.parametrize("size", [512, "side"])
def test_every_class_is_seen_in_the_color_it_was_trained_on(tmp_path: Path, size: int | str) -> None:
    """With channels swapped, or normalized in another way, other colors would be nearest."""
    colors = np.random.default_rng(5).integers(0, 256, (19, 3)).astype(float)
    folder = pack_with_parser(tmp_path / "pack", None)
    write_parser(folder / "faces.onnx", colors, size)
    found = FaceModels.from_folder(folder, ["CPUExecutionProvider"])
    expected = np.kron(np.arange(19).repeat(14)[:256].reshape(16, 16), np.ones((32, 32), np.uint8))
    classes = found.parse(colors[expected].astype(np.uint8))
    assert classes is not None
    assert (classes == expected).all()
    swapped = found.parse(colors[expected][..., ::-1].astype(np.uint8))
    assert swapped is not None
    assert (swapped != expected).mean() > 0.5
    assert models().parse(np.zeros((512, 512, 3), np.uint8)) is None


def test_the_head_is_all_but_background_and_clothes_and_the_neck_as_one_likes() -> None:
    row = np.arange(19)[None]
    off = [CLASSES[i] for i in np.flatnonzero(~head_mask(row)[0])]
    assert off == ["background", "cloth"]
    off = [CLASSES[i] for i in np.flatnonzero(~head_mask(row, neck=False)[0])]
    assert off == ["background", "neck", "necklace", "cloth"]
    assert (CLASSES.index("skin"), CLASSES.index("neck"), CLASSES.index("hair"), len(CLASSES)) == (
        1,
        14,
        17,
        19,
    )


def test_photos_come_with_the_heads_of_their_crops(with_parser: FaceModels) -> None:
    good = portrait()
    at_the_edge = good[:, 60:].copy()
    batch = align_faces([good, np.zeros((90, 90, 3), np.uint8), at_the_edge], with_parser)
    assert batch.heads is not None
    assert batch.kept == [0, 2]
    assert batch.heads.shape == batch.masks.shape == (2, 1, 512, 512)
    assert batch.heads.dtype == torch.float32
    seen = ((batch.images + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    real = batch.masks[:, 0].numpy() == 0
    assert (batch.heads[:, 0].numpy() == is_light(seen))[real].all()
    assert 0.1 < float(batch.heads.mean()) < 0.9
    assert align_faces([good], models()).heads is None


def test_the_frames_of_a_clip_come_with_heads_too(with_parser: FaceModels) -> None:
    clip = align_sequence([portrait(), portrait()], with_parser)
    assert clip.heads is not None
    seen = ((clip.images + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert (clip.heads[:, 0].numpy() == is_light(seen))[clip.masks[:, 0].numpy() == 0].all()


def test_the_neck_can_be_left_out_of_the_heads() -> None:
    classes = np.zeros((4, 4), np.uint8)
    classes[:2], classes[2] = SKIN, CLASSES.index("neck")
    for neck, count in ((True, 12), (False, 8)):
        heads = head_masks([classes], neck)
        assert heads is not None
        assert float(heads.sum()) == count
    assert head_masks([classes, None], True) is None


@pytest.mark.parametrize(
    ("rows", "what", "part"),
    [
        (slice(300, 512), CLOTH, "mouth"),
        (slice(0, 205), HAT, "eyes"),
        (slice(235, 290), 0, "nose"),
        (slice(0, 165), HAIR, ""),
        (slice(400, 512), CLOTH, ""),
    ],
)
def test_what_lies_over_the_face_is_seen_in_the_classes(rows: slice, what: int, part: str) -> None:
    classes = np.full((512, 512), SKIN, np.uint8)
    classes[rows] = what
    assert covered_by_classes(classes, FIVE) == part


def test_glasses_lips_and_brows_cover_nothing() -> None:
    for name in ("glasses", "left brow", "right eye", "nose", "mouth", "upper lip", "lower lip"):
        assert covered_by_classes(np.full((512, 512), CLASSES.index(name), np.uint8), FIVE) == ""


def test_a_covered_face_is_warned_about_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A green bar over the mouth is cloth to this parser, and everything else skin."""
    monkeypatch.setattr("my3dgen_core.face.align.covered_part", lambda *signs: "")
    colors = np.full((19, 3), 1e5)
    colors[SKIN], colors[CLOTH] = [140, 100, 80], [0, 255, 0]
    folder = pack_with_parser(tmp_path / "pack", colors)
    found = FaceModels.from_folder(folder, ["CPUExecutionProvider"])
    (row,) = align_faces([portrait()], found).report
    assert row.warnings == []
    assert row.transform is not None
    covered = portrait().copy()
    left, top = row.transform.to_photo(np.array([180.0, 320.0])).astype(int)
    right, bottom = row.transform.to_photo(np.array([330.0, 365.0])).astype(int)
    covered[top:bottom, left:right] = [0, 255, 0]
    assert "Something may cover the mouth." in align_faces([covered], found).report[0].warnings


def test_the_test_pack_has_no_parser() -> None:
    assert "parsing" not in find_models(pack_folder())
