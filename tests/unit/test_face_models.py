"""Face models come from a folder and are never downloaded; the identity network is the same in PyTorch."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from face_fixtures import OTHERS, SAME_MAN, as_image, first_face, models, portrait, real_batch
from real_photos import pack_folder, photo

from my3dgen_core.face import FaceModelError, FaceModels, IdentityNetwork, align_faces, embed
from my3dgen_core.face.detect import _accept_batched_outputs
from my3dgen_core.face.packs import find_models, role_of
from my3dgen_core.face.recognition import ARCFACE_POINTS, align_to_template, similarity_transform
from my3dgen_core.formats.onnx_file import OnnxGraph, read_onnx


def test_roles_are_told_by_shape_and_not_by_name(tmp_path: Path) -> None:
    for i, file in enumerate(sorted(pack_folder().glob("*.onnx"))):
        shutil.copyfile(file, tmp_path / f"{i}.onnx")
    roles = {role: read_onnx(file, weights=False) for role, file in find_models(tmp_path).items()}
    assert set(roles) == {"detection", "landmarks", "recognition"}
    assert len(roles["detection"].outputs) == 9
    assert next(iter(roles["landmarks"].inputs.values()))[2:] == [192, 192]
    assert next(iter(roles["recognition"].outputs.values()))[-1] == 512


@pytest.mark.parametrize(
    ("size", "outputs", "role"),
    [
        (None, [[12800, 1], [3200, 1], [800, 1]] + [[12800, 4]] * 3 + [[12800, 10]] * 3, "detection"),
        (640, [[12800, 1]] * 9, "detection"),
        (192, [[1, 212]], "landmarks"),
        (192, [[1, 3309]], None),  # 1k3d68
        (96, [[1, 3]], "age and gender"),
        (112, [[1, 512]], "recognition"),  # w600k_r50, w600k_mbf and glintr100
    ],
)
def test_the_networks_of_the_known_packs_are_told_apart(
    size: int | None, outputs: list[list[int | None]], role: str | None
) -> None:
    """The shapes of the files in buffalo_l, buffalo_s and antelopev2."""
    graph = OnnxGraph({"input": [None, 3, size, size]}, {f"{i}": shape for i, shape in enumerate(outputs)})
    assert role_of(graph) == role


@pytest.mark.parametrize(
    "offered", [["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]]
)
def test_the_gpu_is_asked_for_where_onnxruntime_has_it(
    monkeypatch: pytest.MonkeyPatch, offered: list[str]
) -> None:
    import onnxruntime
    from insightface import model_zoo

    asked = []
    real = model_zoo.get_model

    def get_model(file: str, providers: list[str], **options: object) -> object:
        asked.append(providers)
        return real(file, providers=["CPUExecutionProvider"], **options)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(model_zoo, "get_model", get_model)
    found = FaceModels.from_folder(pack_folder())
    assert asked == [offered] * 3
    assert found.provider == "CPUExecutionProvider"  # the one that really runs
    with pytest.raises(FaceModelError, match="onnxruntime offers"):
        FaceModels.from_folder(pack_folder(), providers=["NoSuchProvider"])


# The portrait's five points in the crop as each version of insightface gave them: they must agree, and
# whichever is installed must give them again.
_RECORDED = {
    "0.7.3": [[190.4, 212.9], [322.2, 212.7], [258.7, 296.4], [186.2, 340.0], [326.3, 340.2]],
    "2.1": [[190.4, 212.9], [322.3, 212.6], [258.7, 296.1], [186.2, 339.9], [326.3, 340.0]],
}


@pytest.mark.parametrize("version", _RECORDED)
def test_every_version_of_insightface_finds_the_same_face(version: str) -> None:
    (row,) = align_faces([portrait()], models()).report
    assert row.points is not None
    assert np.abs(row.points - _RECORDED[version]).max() < 1.0
    assert row.score == pytest.approx(0.888, abs=0.01)
    assert row.agreement == pytest.approx(4.2, abs=0.5)


class _OldDetector:
    """insightface 0.7.3: no `batched`, and outputs read as if they had no batch dimension."""

    def __init__(self, session: object) -> None:
        self.session = session

    def first_output(self) -> np.ndarray:
        picture = np.zeros((1, 3, 320, 320), np.float32)
        return self.session.run(None, {self.session.get_inputs()[0].name: picture})[0]  # type: ignore[attr-defined]


def test_a_detector_of_the_old_version_gets_outputs_without_a_batch() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(pack_folder() / "scrfd_500m_bnkps.onnx"), providers=["CPUExecutionProvider"]
    )
    detector = _OldDetector(session)
    assert detector.first_output().ndim == 3
    _accept_batched_outputs(detector)
    assert detector.first_output().shape == (3200, 1)
    assert detector.session.get_providers() == ["CPUExecutionProvider"]


def test_a_pack_unpacked_one_folder_too_deep_is_found(tmp_path: Path) -> None:
    shutil.copytree(pack_folder(), tmp_path / "pack" / "pack")
    assert len(find_models(tmp_path / "pack")) == 3


def test_the_provider_that_runs_is_named() -> None:
    assert models().provider == "CPUExecutionProvider"
    assert "CPUExecutionProvider" in models().describe()


def test_missing_models_are_one_message_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / "gone", tmp_path):
        with pytest.raises(FaceModelError, match="buffalo_l") as caught:
            FaceModels.from_folder(folder)
        assert "Nothing is downloaded" in str(caught.value)
    shutil.copyfile(pack_folder() / "w600k_mbf.onnx", tmp_path / "w600k_mbf.onnx")
    with pytest.raises(FaceModelError, match="No face detector"):
        FaceModels.from_folder(tmp_path)
    (tmp_path / "broken.onnx").write_bytes((pack_folder() / "2d106det.onnx").read_bytes()[:100_000])
    with pytest.raises(FaceModelError, match=r"broken\.onnx cannot be read"):
        FaceModels.from_folder(tmp_path)
    assert not (tmp_path / ".insightface").exists()


class _Unimportable:
    """Finder of modules that raises an error when insightface is imported."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "insightface":
            raise self.error


def _break_insightface(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "insightface"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Unimportable(error), *sys.meta_path])


def test_a_missing_package_is_one_message_for_cpu_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _break_insightface(monkeypatch, ImportError("No module named 'insightface'"))
    with pytest.raises(FaceModelError, match="pip install --no-deps insightface") as caught:
        FaceModels.from_folder(pack_folder())
    assert "onnxruntime-gpu" in str(caught.value)
    assert "(The import of insightface said: No module named 'insightface'.)" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("numpy.dtype size changed, may indicate binary incompatibility"),
        AttributeError("module 'numpy' has no attribute 'int'"),
        OSError("libcudart.so.12: cannot open shared object file"),
    ],
)
def test_a_package_whose_import_fails_is_named_with_its_error_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _break_insightface(monkeypatch, error)
    said = f"insightface is installed, but its import fails with {type(error).__name__}: {error}."
    with pytest.raises(FaceModelError, match=rf"^{re.escape(said)}.* Reinstall insightface"):
        FaceModels.from_folder(pack_folder())


def test_a_gpu_that_cannot_start_is_replaced_by_the_cpu_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime
    from insightface import model_zoo

    real = model_zoo.get_model

    def get_model(file: str, providers: list[str], **options: object) -> object:
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA_PATH is set but CUDA wasn't able to be loaded")
        return real(file, providers=providers, **options)

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(model_zoo, "get_model", get_model)
    with pytest.warns(UserWarning, match=r"run on the CPU: CUDAExecutionProvider .*CUDA_PATH is set"):
        found = FaceModels.from_folder(pack_folder())
    assert found.provider == "CPUExecutionProvider"
    with pytest.raises(RuntimeError, match="CUDA_PATH"):  # the CPU was not asked for
        FaceModels.from_folder(pack_folder(), ["CUDAExecutionProvider"])


def test_a_detector_alone_is_enough_for_crops(tmp_path: Path) -> None:
    shutil.copyfile(pack_folder() / "scrfd_500m_bnkps.onnx", tmp_path / "det.onnx")
    alone = FaceModels.from_folder(tmp_path)
    assert not alone.has_landmarks
    assert not alone.has_recognition
    batch = align_faces([portrait(), np.rot90(portrait(), 2).copy()], alone)
    assert batch.kept == [0, 1]
    assert batch.embeddings is None
    assert batch.report[0].agreement is None
    assert abs(abs(batch.report[1].photo_roll or 0) - 180) < 6
    with pytest.raises(FaceModelError, match="ArcFace"):
        embed(batch.images, alone)


def test_photos_of_one_man_are_alike_and_others_are_not() -> None:
    vectors = real_batch().embeddings
    assert vectors is not None
    cosine = (vectors @ vectors.T).numpy()
    same = cosine[:3, :3][np.triu_indices(3, 1)]
    different = np.concatenate([cosine[:3, 3:].reshape(-1), cosine[3:, 3:][np.triu_indices(3, 1)]])
    assert same.min() > 0.55
    assert different.max() < 0.36


def test_embeddings_are_found_in_crops_and_say_where_not() -> None:
    crops = torch.cat([real_batch().images[:2], torch.zeros(1, 3, 512, 512)])
    vectors, found = embed(crops, models())
    assert found.tolist() == [True, True, False]
    assert torch.allclose(vectors.norm(dim=1), torch.tensor([1.0, 1.0, 0.0]))
    assert float(vectors[0] @ vectors[1]) > 0.55


def test_swapped_channels_are_another_embedding() -> None:
    """Models want BGR or RGB, and a mistake is silent: the right order is the one that photos agree in."""
    pixels = photo("obama.jpg")
    points = first_face(pixels).points[None]
    right, _ = embed(as_image(pixels), models(), points)
    swapped, _ = embed(as_image(pixels[:, :, ::-1].copy()), models(), points)
    other = real_batch().embeddings
    assert other is not None
    assert float(right @ swapped.T) < 0.97
    assert float(right @ other[1]) > float(swapped @ other[1])


def test_the_torch_network_equals_onnxruntime() -> None:
    network = IdentityNetwork.from_models(models())
    batch = real_batch()
    points = np.stack([row.points for row in batch.report if row.points is not None])
    ours = network(batch.images, points)
    theirs, _ = embed(batch.images, models(), points)
    assert float((ours - theirs).abs().max()) < 1e-4
    assert not list(network.parameters())


def test_the_torch_network_has_gradients_to_the_picture() -> None:
    network = IdentityNetwork.from_models(models())
    batch = real_batch()
    image = batch.images[:1].clone().requires_grad_()
    assert batch.embeddings is not None
    loss = 1 - (network(image, batch.report[0].points[None]) * batch.embeddings[1]).sum()  # type: ignore[index]
    loss.backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    step = image.detach() - 0.02 * image.grad / image.grad.abs().max()
    better = 1 - (network(step, batch.report[0].points[None]) * batch.embeddings[1]).sum()  # type: ignore[index]
    assert better < loss


def test_alignment_puts_the_points_on_the_template() -> None:
    points = first_face(portrait()).points
    matrix = similarity_transform(points, ARCFACE_POINTS)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(moved - ARCFACE_POINTS, axis=1).mean() < 4
    exact = similarity_transform(ARCFACE_POINTS @ np.array([[0, 3.0], [-3.0, 0]]) + 7, ARCFACE_POINTS)
    assert np.allclose(exact[:, :2], [[0, 1 / 3], [-1 / 3, 0]], atol=1e-9)
    aligned = align_to_template(as_image(portrait()), points[None])
    assert aligned.shape == (1, 3, 112, 112)


@pytest.mark.parametrize("name", [*SAME_MAN, *OTHERS])
def test_the_face_is_found_in_every_photo_and_its_points_are_in_order(name: str) -> None:
    points = first_face(photo(name)).points
    assert points[0, 0] < points[2, 0] < points[1, 0]
    assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()
    assert points[3, 0] < points[4, 0]
