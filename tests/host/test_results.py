"""Results of nodes: finite, not black, and written under the name that the user meant."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from micro import generator as micro_generator
from micro import latents as micro_latents

from my3dgen_core import Adapter, Direction, Identity, Latents, camera_path
from my3dgen_core.formats.atomic_file import atomic_path
from my3dgen_core.mesh import MeshError

pytestmark = pytest.mark.usefixtures("executor", "folders")


@pytest.fixture
def host(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.host"]


def refused(host: ModuleType, prefix: str) -> None:
    with host.save_path(prefix, ".glb"):
        pass


def latents_of(generator: Any, count: int) -> Latents:
    ws = micro_latents(generator, count).clone()
    return Latents(ws, camera_path("swing", count), base_hash=generator.base_hash())


def identity_of(generator: Any, anchors: Latents) -> Identity:
    return Identity(Adapter.create(generator), anchors, generator.base_hash())


def without_anchors(identity: Identity) -> Identity:
    empty = Latents(identity.anchors.ws[:0], identity.anchors.cameras[:0], base_hash=identity.base_hash)
    return dataclasses.replace(identity, anchors=empty)


@pytest.fixture
def broken(sockets: ModuleType) -> Any:
    """A model with one weight that is NaN."""
    made = micro_generator(0)
    made.superresolution.block1.torgb.bias[1] = torch.nan
    return sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(made), "broken")


@pytest.fixture
def dark(sockets: ModuleType) -> Any:
    made = micro_generator(0)
    made.superresolution.block1.torgb.bias -= 100
    return sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(made), "dark")


def test_a_rendering_that_is_not_finite_is_a_message_with_its_likely_cause(
    nodes: dict[str, Any], broken: Any
) -> None:
    heads = latents_of(broken.generator, 2)
    with pytest.raises(FloatingPointError, match=r"renderings came out with NaN.*number 1 is.*strength"):
        nodes["Render"].render(broken, heads, "every", 0, 1)
    with pytest.raises(FloatingPointError, match="came out with NaN"):
        nodes["Compare"].compare(broken, broken, torch.rand(2, 64, 64, 3), heads, 2, 30.0, 64)


def test_a_black_rendering_is_a_message_and_an_empty_depth_map_is_not(
    nodes: dict[str, Any], sockets: ModuleType, dark: Any, model: Any
) -> None:
    with pytest.raises(
        FloatingPointError, match=r"renderings came out entirely black .number 1 is the first"
    ):
        nodes["Render"].render(dark, latents_of(dark.generator, 3), "every", 0, 2)
    behind = nodes["Render"].render(model, latents_of(model.generator, 1), "mean", 0, 1, cut_behind=0.5,
                                    cameras=sockets.Cameras(camera_path("swing", 1)))["result"]  # fmt: skip
    assert float(behind[2].max()) < 1  # no head in front of the plane: a black map is the truth


def test_the_number_of_a_broken_rendering_counts_all_batches(sockets: ModuleType) -> None:
    pictures = torch.zeros(4, 3, 2, 2)
    pictures[3] = -1
    with pytest.raises(FloatingPointError, match="number 14 is the first"):
        sockets.check_render(pictures, before=10)
    pictures[2, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="number 13 is the first"):
        sockets.check_render(pictures, before=10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pictures_and_masks_are_checked_before_clamping_hides_infinity(
    sockets: ModuleType, bad: float
) -> None:
    pictures = torch.zeros(3, 3, 4, 4)
    pictures[1, 0, 2, 2] = bad
    with pytest.raises(FloatingPointError, match=r"number 2 is the first.*Likely cause: the mask\."):
        sockets.pictures_to_host(pictures, "The restored photos", "the mask")
    with pytest.raises(FloatingPointError, match="The masks came out"):
        sockets.mask_to_host(pictures[:, :1])
    with pytest.raises(FloatingPointError, match="The cameras came out"):
        sockets.Cameras(torch.full((1, 25), bad))
    parts = torch.zeros(1, 3, 3), torch.zeros(1, 1, 3), torch.zeros(1, 3, 3), torch.full((1, 3, 3), bad)
    with pytest.raises(FloatingPointError, match="The mesh came out"):
        sockets.make_mesh(*parts)


def test_latents_and_identities_that_are_not_finite_go_no_further(
    nodes: dict[str, Any], generator: Any
) -> None:
    heads = latents_of(generator, 2)
    huge = Direction("huge", torch.full((32,), 1e18), generator.base_hash())
    unbounded = type(nodes["ApplyDirection"]).apply.__wrapped__  # its bounds allow no such strength
    with pytest.raises(FloatingPointError, match=r"The latents came out.*number 1 is"):
        unbounded(nodes["ApplyDirection"], heads, huge, "mean", 0, 1e30, 1, 0.0, "", "continue", 0.02)
    person = identity_of(generator, heads)
    next(iter(person.adapter.tensors.values())).view(-1)[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"The identity's .* came out.*diverged"):
        nodes["MixPersons"].mix(person, identity_of(generator, heads), 0.5)


def test_a_mesh_of_a_density_that_is_not_finite_is_a_message_and_leaves_no_file(
    nodes: dict[str, Any], sockets: ModuleType, folders: Path
) -> None:
    made = micro_generator(0)
    made.decoder.net[2].bias[0] = torch.nan
    model = sockets.Model(sys.modules["my3dgen_pack.nodes.host"].manage(made), "broken")
    with pytest.raises(MeshError, match="density has NaN"):
        nodes["ExtractMesh"].extract(
            model, latents_of(made, 1), "mean", 0, 32, 20.0, -1.0, "my3dgen/meshes/head"
        )
    assert not list(folders.rglob("*.glb"))


def test_a_person_without_anchors_is_a_message_wherever_one_is_needed(
    nodes: dict[str, Any], sockets: ModuleType, model: Any, generator: Any
) -> None:
    heads = latents_of(generator, 2)
    person = identity_of(generator, heads)
    empty = without_anchors(person)
    smile = Direction("smile", torch.ones(32), generator.base_hash())
    camera, photo = sockets.Cameras(camera_path("swing", 1)), torch.rand(1, 64, 64, 3)
    edit = (0, 1.0, 1, 0.0, "", "stop", 0.02)
    calls = [
        *(lambda w=w: nodes["Render"].render(model, empty.anchors, w, 0, 1, camera) for w in
          ("mean", "every", "single")),
        lambda: nodes["ApplyDirection"].apply(empty.anchors, smile, "mean", *edit),
        lambda: nodes["ApplyDirection"].apply(heads, smile, "mean", *edit, identity=empty),
        lambda: nodes["Compare"].compare(model, model, photo, empty.anchors, 1, 32.0, 64, camera),
        lambda: nodes["ComparisonGrid"].compare(
            model, empty.anchors, "latents", "", "", "", 64, cameras=camera),
        lambda: nodes["ComponentSheet"].show(model, 1, 2.0, 2, 64, empty.anchors),
        lambda: nodes["ExtractMesh"].extract(model, empty.anchors, "mean", 0, 32, 20.0, -1.0, "head"),
        lambda: nodes["MixAnchors"].mix(empty, "0: 1", 0.02),
        lambda: nodes["SampleAlphaSpace"].sample(empty, 1, 3, 1.0, 0.02, 0),
        lambda: nodes["InterpolateLatents"].interpolate(empty.anchors, 0, 1, 3, False),
        lambda: nodes["InterpolatePersons"].interpolate(model, person, empty, "mean", 0, 0, 3, False),
        lambda: nodes["MixPersons"].mix(person, empty, 0.5),
        lambda: nodes["DirectionFromExamples"].find(heads, empty.anchors, "smile"),
        lambda: nodes["RestorePhotos"].restore(
            model, empty, photo, camera, "sharpen", 32, 1, "p", 0.03, 0),
        lambda: nodes["ProjectAlphaSpace"].project(
            model, empty, photo, camera, 1, "p", 0.03, 0.01, 1, 0),
    ]  # fmt: skip
    for number, call in enumerate(calls):
        with pytest.raises(ValueError, match="There are 0 latents, so none can be") as caught:
            call()
        assert "Invert Photos" in str(caught.value), number


def test_the_default_weights_of_mix_anchors_fit_a_person_of_any_number_of_photos(
    nodes: dict[str, Any], generator: Any
) -> None:
    default = nodes["MixAnchors"].INPUT_TYPES()["required"]["weights"][1]["default"]
    for count in (1, 2, 5):
        heads = latents_of(generator, count)
        (mixed,) = nodes["MixAnchors"].mix(identity_of(generator, heads), default, 0.02)["result"]
        assert torch.equal(mixed.ws, heads.ws[:1])


@pytest.mark.parametrize(
    ("prefix", "resolved"),
    [
        ("%date:yyyy-MM-dd%/head", "2031-03-07/head"),
        ("head_%date:yy-M-d%", "head_31-3-7"),
        ("%date:hhmmss%_%date:h.m.s%", "040509_4.5.9"),
        ("%date:hh:mm%", "04_05"),
        ("100%", "100%"),
        ("%KSampler.seed%", "%KSampler.seed%"),  # the page knows the other nodes, the server does not
    ],
)
def test_dates_in_file_names_are_replaced_as_on_the_page(
    host: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, resolved: str
) -> None:
    now = time.struct_time((2031, 3, 7, 4, 5, 9, 4, 66, 0))
    monkeypatch.setattr(time, "localtime", lambda: now)
    with host.save_path(prefix, ".glb") as path:
        assert path == folders / "output" / f"{resolved}_00001_.glb"


@pytest.mark.parametrize(
    ("prefix", "saved"),
    [
        ("ids/a:b?", "ids/a_b_"),
        ('a<b>"|*\n', "a_b_____"),
        ("a\ud800b", "a_b"),
        ("ids\\anna", "ids/anna"),
        ("my ids. /Aux/con.1", "my ids/_Aux/_con.1"),
    ],
)
def test_what_windows_refuses_in_file_names_is_replaced_and_told(
    host: ModuleType, folders: Path, caplog: pytest.LogCaptureFixture, prefix: str, saved: str
) -> None:
    with host.save_path(prefix, ".glb") as path:
        assert path == folders / "output" / f"{saved}_00001_.glb"
    told = [message for message in caplog.messages if f"saved as {saved!r}" in message]
    assert len(told) == ("\\" not in prefix)  # a separator of Windows is no fault


def test_a_file_name_that_is_too_long_is_a_message(host: ModuleType) -> None:
    for prefix in ("ids/" + "a" * 300, "é" * 101 + "/head"):
        with pytest.raises(ValueError, match=r"is too long: (300|202) bytes in one part, where 200 fit"):
            refused(host, prefix)
    with host.save_path("ids/" + "é" * 100, ".safetensors") as path:
        assert path.name == "é" * 100 + "_00001_.safetensors"
    with host.save_path("é" * 100, ".safetensors") as path, atomic_path(path) as part:
        part.write_bytes(b"")


@pytest.mark.parametrize(
    "prefix",
    ["%date:../..//..//%/../../x", "../x", "..\\x", "/x", "C:\\x", "", ".", "a/.."],
)
def test_a_file_name_outside_the_output_folder_or_none_is_a_message(
    host: ModuleType, folders: Path, prefix: str
) -> None:
    with pytest.raises(ValueError, match="outside the output folder"):
        refused(host, prefix)
    assert not list(folders.rglob("*"))


def test_saves_at_the_same_moment_have_numbers_of_their_own(host: ModuleType, folders: Path) -> None:
    start, count = threading.Barrier(4), 25

    def save(number: int) -> list[Path]:
        start.wait()
        saved = []
        for turn in range(count):
            with host.save_path("both/head", ".txt") as path:
                path.write_text(f"{number} {turn}")
            saved.append(path)
        return saved

    with ThreadPoolExecutor(4) as pool:
        saved = list(pool.map(save, range(4)))
    written = {path: f"{n} {turn}" for n, paths in enumerate(saved) for turn, path in enumerate(paths)}
    assert len(written) == 4 * count
    assert {path: path.read_text() for path in (folders / "output" / "both").iterdir()} == written


def test_a_save_that_fails_leaves_nothing_and_its_number_is_free(host: ModuleType, folders: Path) -> None:
    with pytest.raises(OSError, match="full"), host.save_path("head", ".txt"):
        raise OSError("full")
    assert list((folders / "output").iterdir()) == []
    with host.save_path("head", ".txt") as path:
        assert path.name == "head_00001_.txt"


def test_what_a_crash_has_left_of_a_save_is_skipped(host: ModuleType, folders: Path) -> None:
    with host.save_path("head", ".txt") as path:
        (left,) = (folders / "output").iterdir()
    left.touch()
    with host.save_path("head", ".txt") as path:
        assert path.name == "head_00002_.txt"
