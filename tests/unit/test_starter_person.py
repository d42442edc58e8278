"""Synthetic persons outside the prior, and the bundled demo person."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("anny", reason="persons need the starter extra (anny and warp-lang)")
pytest.importorskip("warp", reason="persons need the starter extra (anny and warp-lang)")

import my3dgen_core.starter as starter
from my3dgen_core.camera import look_at
from my3dgen_core.starter import person
from my3dgen_core.starter.synthetic.factors import NAMES, Z_DIM, base_changes, shape_map
from my3dgen_core.starter.synthetic.head_model import head_model
from my3dgen_core.starter.training.write_demo_person import HELD_OUT, SEED

DEMO = Path(starter.__file__).with_name("demo_person")


@pytest.mark.slow
def test_a_person_follows_from_the_seed_alone() -> None:
    first, cameras = person(11).photos(2, resolution=48)
    again, same = person(11).photos(2, resolution=48)
    assert torch.equal(first, again)
    assert torch.equal(cameras, same)
    assert not torch.equal(first, person(12).photos(2, resolution=48)[0])


def test_photos_are_views_within_the_range_and_differ_between_albums() -> None:
    someone = person(11)
    images, cameras = someone.photos(3, seed=1, resolution=32)
    assert images.shape == (3, 3, 32, 32)
    assert cameras.shape == (3, 25)
    position = cameras[:, [3, 7, 11]]
    assert position.norm(dim=1).allclose(torch.tensor(2.7))
    yaw = torch.rad2deg(torch.atan2(position[:, 0], position[:, 2]))
    assert yaw.abs().max() <= 35
    assert yaw.max() - yaw.min() > 15
    assert not torch.equal(images, someone.photos(3, seed=2, resolution=32)[0])


@pytest.mark.slow
def test_labels_with_a_pose_error_are_off_by_that_much_while_the_photos_stay() -> None:
    someone = person(11)
    images, exact = someone.photos(40, resolution=8)
    same, labels = someone.photos(40, resolution=8, pose_error=3.5)
    assert torch.equal(images, same)
    ahead = [c[:, [2, 6, 10]] for c in (exact, labels)]
    between = [c[:, :16].view(-1, 4, 4)[:, :3, :3] for c in (exact, labels)]
    trace = (between[0].mT @ between[1]).diagonal(dim1=1, dim2=2).sum(1)
    turned = torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())
    assert float(turned.square().mean().sqrt()) == pytest.approx(3.5, rel=0.25)
    assert labels[:, [3, 7, 11]].norm(dim=1).allclose(torch.tensor(2.7), atol=1e-4)
    assert not torch.allclose(ahead[0], ahead[1])


def test_a_cluttered_background_leaves_the_head_alone() -> None:
    someone = person(11)
    plain, _ = someone.photos(2, resolution=48)
    cluttered, _ = someone.photos(2, resolution=48, cluttered=True)
    masks = someone.album(2, resolution=48).masks.expand(-1, 3, -1, -1)
    assert torch.equal(plain[masks == 1], cluttered[masks == 1])
    assert float((plain - cluttered)[masks == 0].abs().mean()) > 0.2
    assert cluttered.abs().max() <= 1


def test_an_album_knows_where_the_features_are() -> None:
    someone = person(11)
    album = someone.album(3, resolution=64)
    assert album.landmarks.shape == (3, 5, 3)
    assert album.pixels.min() > 0.1
    assert album.pixels.max() < 0.9
    # The nose's tip lies before the eyes; seen from the viewer's right it moves to the left of their middle.
    assert (album.landmarks[:, 2, 2] > album.landmarks[:, :2, 2].max(dim=1).values).all()
    yaw = torch.atan2(album.cameras[:, 3], album.cameras[:, 11])
    offset = album.pixels[:, 2, 0] - album.pixels[:, :2, 0].mean(dim=1)
    assert (offset[yaw.abs() > 0.1] * yaw[yaw.abs() > 0.1] < 0).all()
    assert someone.landmarks.shape == (5, 3)


def test_render_gives_image_depth_and_mask_of_the_neutral_face() -> None:
    images, depth, mask = person(11).render(torch.cat([look_at(0, 0), look_at(1.0, 0.2)]), 40)
    assert images.shape == (2, 3, 40, 40)
    assert depth.shape == mask.shape == (2, 1, 40, 40)
    assert (depth[mask > 0] > 2).all()
    assert (images[(mask == 0).expand_as(images)] == 1).all()


def test_a_person_lies_outside_the_prior() -> None:
    someone = person(SEED)
    labels = head_model().local_labels
    directions = shape_map(Z_DIM - len(NAMES), labels)
    own = someone.look.local - base_changes(labels)
    weights = torch.linalg.lstsq(directions.T, own.T).solution
    unexplained = (own.T - directions.T @ weights).norm() / own.norm()
    assert unexplained > 0.4, "the prior's shape factors must not reach this face"
    assert (someone.look.marks[..., 3] > 0).sum() >= 5, "marks are what the prior cannot paint"


def test_the_marks_of_the_demo_person_show_from_both_sides() -> None:
    someone = person(SEED)
    blank = torch.zeros_like(someone.look.marks)
    bare = type(someone)(SEED, type(someone.look)(**{**vars(someone.look), "marks": blank}), someone.extra)
    for yaw in (-50, 50):
        camera = look_at(math.radians(yaw), 0.0)
        difference = (someone.render(camera, 96)[0] - bare.render(camera, 96)[0]).abs().amax(dim=1)
        assert (difference > 0.2).sum() >= 12


def test_the_shipped_demo_person_is_complete_and_small() -> None:
    cameras = json.loads((DEMO / "cameras.json").read_text())
    assert len(cameras["train"]) >= 24
    assert len(cameras["held_out"]) == len(HELD_OUT) == 8
    files = [*cameras["train"], *cameras["held_out"]]
    assert all((DEMO / name).is_file() for name in files)
    assert sum((DEMO / name).stat().st_size for name in files) < 3_000_000
    assert all(len(numbers) == 25 for split in cameras.values() for numbers in split.values())


def test_the_shipped_held_out_view_is_what_the_person_looks_like() -> None:
    import numpy as np
    from PIL import Image

    cameras = json.loads((DEMO / "cameras.json").read_text())
    name, numbers = next(iter(cameras["held_out"].items()))
    shipped = torch.from_numpy(np.asarray(Image.open(DEMO / name)).copy()).permute(2, 0, 1) / 127.5 - 1
    rendered = person(SEED).render(torch.tensor([numbers]), 256)[0][0]
    assert (shipped - rendered).abs().mean() < 0.03
