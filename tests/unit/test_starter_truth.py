"""Ground truth of the starter: pictures of the head that a z describes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("anny", reason="the truth needs the starter extra (anny and warp-lang)")
pytest.importorskip("warp", reason="the truth needs the starter extra (anny and warp-lang)")

from my3dgen_core.camera import look_at, mirror
from my3dgen_core.starter import truth
from my3dgen_core.starter.synthetic.factors import INDEX, Z_DIM, looks
from my3dgen_core.starter.synthetic.head_mesh import FRONTAL_PIXELS, project_frontal
from my3dgen_core.starter.synthetic.head_model import head_model
from my3dgen_core.starter.synthetic.heads import posed_vertices


def some_z(count: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(seed))


def view(yaw: float, pitch: float = 0.0) -> torch.Tensor:
    return look_at(math.radians(yaw), math.radians(pitch))


def test_images_depth_and_mask_have_the_promised_shapes_and_ranges() -> None:
    images, depth, mask = truth(some_z(2), torch.cat([view(10), view(-40, 20)]), 48)
    assert images.shape == (2, 3, 48, 48)
    assert depth.shape == mask.shape == (2, 1, 48, 48)
    assert images.min() >= -1
    assert images.max() <= 1
    assert mask.min() >= 0
    assert mask.max() == 1
    assert (images[(mask == 0).expand_as(images)] == 1).all(), "the background is white"


def test_depth_is_positive_along_the_ray_where_the_head_is_and_zero_elsewhere() -> None:
    _, depth, mask = truth(some_z(1), view(25, 10), 64)
    assert (depth[mask == 0] == 0).all()
    assert depth[mask > 0].min() > 2.1
    assert depth[mask > 0].max() < 3.3


def test_depth_and_camera_put_the_nose_where_the_mesh_has_it() -> None:
    model = head_model()
    z = some_z(1)
    vertices = posed_vertices(looks(z, model), model)
    nose = model.landmarks(torch.from_numpy(vertices).float())[0, 2].numpy()
    camera = view(20, -10)
    _, depth, _ = truth(z, camera, 256)
    pose = camera[0, :16].view(4, 4).numpy()
    local = (nose - pose[:3, 3]) @ pose[:3, :3]
    column, row = (256 * (0.5 + 4.2647 * local[:2] / local[2])).astype(int)
    assert depth[0, 0, row, column] == pytest.approx(np.linalg.norm(local), abs=0.01)


def test_the_mirrored_camera_sees_the_mirrored_mean_head() -> None:
    z, camera = torch.zeros(1, Z_DIM), view(30, 12)
    left, right = truth(z, camera, 96)[0], truth(z, mirror(camera), 96)[0]
    # The body model itself is symmetric only up to a millimeter, and hair has a grain.
    assert (left - right.flip(3)).abs().mean() < 0.03
    assert (left - right).abs().mean() > 0.1


def test_the_neutral_mean_head_hits_the_frontal_positions_of_the_crop() -> None:
    model = head_model()
    vertices = posed_vertices(looks(torch.zeros(1, Z_DIM), model), model)
    landmarks = model.landmarks(torch.from_numpy(vertices).float())[0].numpy()
    assert np.abs(project_frontal(landmarks) - FRONTAL_PIXELS).max() < 4


def test_heads_stay_inside_the_cube_of_the_planes() -> None:
    model = head_model()
    assert np.abs(posed_vertices(looks(some_z(6), model), model)).max() < 0.5


def test_only_the_direction_of_z_matters_as_in_the_mapping_network() -> None:
    z = some_z(1)
    assert (truth(z, view(0), 32)[0] - truth(2.5 * z, view(0), 32)[0]).abs().mean() < 1e-3


def test_the_smile_factor_widens_the_mouth_and_lifts_its_corners() -> None:
    model = head_model()
    z = torch.zeros(2, Z_DIM)
    z[:, INDEX["age"]] = 0.5
    z[1, INDEX["smile"]] = 1.5
    points = model.landmarks(torch.from_numpy(posed_vertices(looks(z, model), model)).float())
    width = points[:, 4, 0] - points[:, 3, 0]
    assert width[1] > width[0] + 0.005
    assert points[1, 3, 1] > points[0, 3, 1] + 0.003


def test_one_camera_serves_several_heads_and_the_reverse() -> None:
    assert truth(some_z(2), view(0), 16)[0].shape[0] == 2
    assert truth(some_z(1), torch.cat([view(0), view(20), view(40)]), 16)[0].shape[0] == 3
    with pytest.raises(ValueError, match="one camera"):
        truth(some_z(2), torch.cat([view(0)] * 3), 16)


def test_z_of_another_size_is_refused_with_a_message() -> None:
    with pytest.raises(ValueError, match="z must have shape"):
        truth(torch.zeros(1, 12), view(0), 16)
