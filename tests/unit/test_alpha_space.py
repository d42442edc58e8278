"""Alpha space: weights keep their bounds, and photos of the person are found in it."""

import dataclasses

import micro
import pytest
import torch
from meta_device import META, NoCPU, on_meta
from meta_device import cameras as meta_cameras

from my3dgen_core import AlphaSpace, Latents, look_at, personalized
from my3dgen_core.camera import angles, cam2world
from my3dgen_core.fitting.alpha_projection import Projection, ProjectionConfig
from my3dgen_core.person.adapter import Adapter

N = 6


def some_anchors(count=N, rows=14, width=32, seed=0):
    ws = torch.randn(count, 1, width, generator=torch.Generator().manual_seed(seed)).expand(-1, rows, -1)
    cameras = look_at(torch.linspace(-0.6, 0.6, count), torch.linspace(-0.2, 0.3, count))
    return Latents(ws.clone(), cameras, base_hash="abc")


@pytest.fixture
def space():
    return AlphaSpace(some_anchors(), beta=0.05)


def lowest(latents):
    return float(latents.alphas.min())


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("few", [1, 3, N])
def test_sampled_weights_sum_to_one_and_never_fall_below_minus_beta(beta, few):
    faces = AlphaSpace(some_anchors(), beta).sample(200, seed=1, anchors_per_sample=few)
    assert torch.allclose(faces.alphas.sum(1), torch.ones(200), atol=1e-5)
    assert -beta - 1e-6 <= lowest(faces) < (-beta / 2 if beta and few > 1 else 0.01)
    assert int((faces.alphas != 0).sum(1).max()) <= few
    assert faces.base_hash == "abc"
    expected = torch.einsum("na,alw->nlw", faces.alphas, some_anchors().ws)
    assert torch.allclose(faces.ws, expected, atol=1e-5)


def test_one_seed_gives_one_set_of_faces_and_another_seed_another(space):
    first, again, other = space.sample(5, 3), space.sample(5, 3), space.sample(5, 4)
    assert torch.equal(first.ws, again.ws)
    assert not torch.allclose(first.ws, other.ws)


def test_temperature_goes_from_single_anchors_to_their_mean():
    space = AlphaSpace(some_anchors(), 0.0)
    cold, even, hot = (space.sample(300, 0, 3, t).alphas.amax(1).mean() for t in (0.05, 1.0, 50.0))
    assert cold > 0.95
    assert 0.55 < even < 0.68  # 11/18, the mean largest part of an evenly drawn point of a triangle
    assert hot < 0.36


def test_weights_of_the_hull_come_back(space):
    faces = space.sample(20, 0, anchors_per_sample=N)
    assert torch.allclose(space.weights_of(faces.ws), faces.alphas, atol=1e-4)


def test_more_anchors_than_dimensions_still_reproduce_the_latent():
    space = AlphaSpace(some_anchors(count=40, width=8), 0.0)
    faces = space.sample(10, 0, anchors_per_sample=5)
    weights = space.weights_of(faces.ws)
    assert torch.allclose(weights.sum(1), torch.ones(10), atol=1e-5)
    assert torch.allclose(torch.einsum("na,alw->nlw", weights, space.anchors.ws), faces.ws, atol=1e-3)


def test_allowed_weights_are_left_alone_by_the_projection(space):
    weights = space.sample(20, 0, anchors_per_sample=N).alphas
    assert torch.allclose(space.project_weights(weights), weights, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_forbidden_weights_go_to_the_nearest_allowed_latent(beta):
    """Against a general solver; nearest by latent, not by weight."""
    from scipy.optimize import minimize

    space = AlphaSpace(some_anchors(rows=1), beta)
    weights = torch.randn(4, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    found = space.project_weights(weights)
    A = space.anchors.ws[:, 0].double()
    assert torch.allclose(found.sum(1), torch.ones(4, dtype=torch.float64))
    assert float(found.min()) >= -beta - 1e-9
    for one, mine in zip(weights, found, strict=True):
        goal = (one @ A).numpy()
        solved = minimize(
            lambda a, goal=goal: ((a @ A.numpy() - goal) ** 2).sum(),
            torch.full((N,), 1 / N).numpy(),
            bounds=[(-beta, None)] * N,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        distance = float((mine @ A - one @ A).square().sum())
        assert distance <= solved.fun * (1 + 1e-5) + 1e-9
    by_weight = space._admissible(weights)
    assert not torch.allclose(by_weight, found, atol=1e-2)


def test_interpolation_has_exact_ends_and_moves_latent_and_camera_together(space):
    path = space.interpolate(1, 4, torch.linspace(0, 1, 5))
    anchors = space.anchors
    for place, index in ((0, 1), (-1, 4)):
        assert torch.equal(path.ws[place], anchors.ws[index])
        assert torch.equal(path.cameras[place], anchors.cameras[index])
    assert torch.allclose(path.ws[2], (anchors.ws[1] + anchors.ws[4]) / 2, atol=1e-6)
    middle = path.cameras[2, :16].view(4, 4)
    assert torch.allclose(middle[:3, :3] @ middle[:3, :3].T, torch.eye(3), atol=1e-5)
    assert torch.linalg.det(middle[:3, :3]) > 0
    radii = anchors.cameras[[1, 4]][:, [3, 7, 11]].norm(dim=1)
    assert float(middle[:3, 3].norm()) == pytest.approx(float(radii.mean()), abs=1e-5)
    assert path.alphas[1].tolist() == pytest.approx([0, 0.75, 0, 0, 0.25, 0])


def test_a_little_beyond_the_ends_is_allowed_and_more_is_not(space):
    path = space.interpolate(0, 1, torch.tensor([-0.05, 1.05]))
    assert lowest(path) == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="t must lie within"):
        space.interpolate(0, 1, torch.tensor([1.2]))
    with pytest.raises(ValueError, match="no anchor 6: these are 0 to 5"):
        space.interpolate(0, 6, torch.tensor([0.5]))


def test_mixed_cameras_are_rigid_at_the_old_distance(space):
    faces = space.sample(20, 0)
    pose = cam2world(faces.cameras)
    assert torch.allclose(pose[:, :3, :3] @ pose[:, :3, :3].mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert torch.allclose(torch.det(pose[:, :3, :3]), torch.ones(20), atol=1e-5)
    assert torch.allclose(pose[:, :3, 3].norm(dim=1), torch.full((20,), 2.7), atol=1e-4)
    alone = space.combine(torch.eye(N))
    assert torch.allclose(alone.cameras, space.anchors.cameras, atol=1e-5)
    yaws = angles(space.combine(torch.tensor([[0.5, 0, 0, 0, 0, 0.5]])).cameras)[0]
    assert float(yaws) == pytest.approx(0, abs=0.03)


def test_the_coordinates_of_a_direction_sum_to_zero_and_reproduce_what_lies_in_the_span(space):
    anchors = space.anchors.ws
    within = anchors[0, 0] - anchors[3, 0]
    gamma = space.coordinates(within, ridge=1e-9)
    assert float(gamma.sum()) == pytest.approx(0, abs=1e-5)
    assert torch.allclose(gamma @ anchors[:, 0], within, atol=1e-3)


def test_a_ridge_keeps_the_weights_of_twin_anchors_small():
    ws = some_anchors().ws.clone()
    ws[1] = ws[0] + 1e-4 * ws[2]
    space = AlphaSpace(Latents(ws))
    towards = ws[1, 0] - ws[0, 0] + 0.01 * torch.randn(32, generator=torch.Generator().manual_seed(5))
    assert float(space.coordinates(towards).abs().max()) < 0.1
    assert float(space.coordinates(towards, ridge=1e-12).abs().max()) > 1


@pytest.mark.parametrize("weights", [[[0.5] * N], [[1.5, -0.5, 0, 0, 0, 0]], [[float("nan")] * N], [[1.0]]])
def test_weights_that_are_not_of_the_space_are_refused(space, weights):
    with pytest.raises(ValueError, match="Weights must"):
        space.combine(torch.tensor(weights))


def test_impossible_wishes_are_refused(space):
    with pytest.raises(ValueError, match="Between 1 and 6 anchors"):
        space.sample(1, 0, anchors_per_sample=7)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        space.sample(1, 0, temperature=0)
    with pytest.raises(ValueError, match="beta must be 0 or more"):
        AlphaSpace(space.anchors, -0.1)
    with pytest.raises(ValueError, match="belong to another generator"):
        space.weights_of(torch.zeros(1, 3, 32))


# --- Photos -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def person(generator):
    cameras = look_at(torch.linspace(-0.3, 0.3, 4), 0.0)
    ws = 2 * micro.latents(generator, 4)  # weights at random make faces that differ little
    return Latents(ws, cameras, base_hash=generator.base_hash())


CONFIG = ProjectionConfig(steps=40, lr=0.05, batch_size=3)


def photos_of(generator, ws, cameras):
    """Raw pictures, as a lattice looks at them: super-resolution of random weights is no enlargement."""
    with torch.no_grad():
        return generator.render(ws, cameras).image_raw.clamp(-1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("plus", [False, True])
def test_the_weights_of_a_photo_of_the_person_are_found(generator, person, plus):
    space = AlphaSpace(person, 0.02)
    truth = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.1, 0.2, 0.6, 0.1]])
    shown = space.combine(truth)
    photos = photos_of(generator, shown.ws, shown.cameras)
    found = space.project(generator, photos, shown.cameras, CONFIG, plus=plus)
    assert float((found.alphas - truth).abs().max()) < 0.15 < float((truth - 0.25).abs().max())
    assert torch.allclose(found.alphas.sum(1), torch.ones(2), atol=1e-5)
    assert lowest(found) >= -0.02 - 1e-6
    assert found.base_hash == generator.base_hash()
    assert found.losses.shape == (2,)
    assert torch.equal(found.cameras, shown.cameras)
    assert bool((found.ws == found.ws[:, :1]).all()) != plus


def test_a_stranger_stays_inside_the_hull(generator, person):
    strange = micro.latents(generator, 1, seed=99) * 3
    camera = look_at(0.0, 0.0)
    photo = photos_of(generator, strange, camera)
    found = AlphaSpace(person, 0.0).project(generator, photo, camera, CONFIG, steps=30)
    assert lowest(found) >= 0
    assert float(found.alphas.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_hidden_pixels_are_not_looked_at(generator, person):
    space, camera = AlphaSpace(person), look_at(0.0, 0.0)
    spoilt = photos_of(generator, person.ws[:1], camera)
    spoilt[:, :, :32] = 1.0
    masks = torch.zeros(1, 1, 64, 64)
    masks[:, :, :32] = 1.0
    hidden = space.project(generator, spoilt, camera, CONFIG, masks)
    seen = space.project(generator, spoilt, camera, CONFIG)
    truth = torch.tensor([1.0, 0, 0, 0])
    assert float((hidden.alphas - truth).norm()) < float((seen.alphas - truth).norm())


def test_a_canceled_projection_leaves_the_personal_generator_bit_for_bit(generator, person):
    class CanceledError(Exception):
        pass

    def cancel(step, total, losses, image):
        assert total == 4 * 30  # a batch a photo
        if step == 3:
            raise CanceledError

    before = {key: value.clone() for key, value in generator.state_dict().items()}
    photos = torch.zeros(4, 3, 64, 64)
    with pytest.raises(CanceledError), personalized(generator, Adapter.create(generator)):
        AlphaSpace(person).project(
            generator, photos, person.cameras, CONFIG, on_step=cancel, steps=30, batch_size=1
        )
    assert all(torch.equal(before[key], value) for key, value in generator.state_dict().items())


def test_anchors_of_another_generator_are_refused(generator, person):
    strange = AlphaSpace(dataclasses.replace(person, base_hash="0123"))
    with pytest.raises(ValueError, match="another generator"):
        strange.project(generator, torch.zeros(4, 3, 64, 64), person.cameras)


@pytest.mark.parametrize("plus", [False, True])
def test_no_tensor_is_made_on_the_wrong_device(plus):
    generator = on_meta()
    anchors = Latents(torch.empty(4, generator.num_ws, 32, device=META), meta_cameras(4))
    space = AlphaSpace(anchors)
    with NoCPU():
        faces = space.sample(3, 0)
        space.interpolate(0, 1, torch.empty(5, device=META))
        space.project_weights(space.weights_of(faces.ws), steps=2)
        space.coordinates(torch.empty(32, device=META))
        config = ProjectionConfig(steps=2, plus=plus, preview_every=0)
        photos = torch.empty(2, 3, 64, 64, device=META)
        run = Projection(generator, anchors.ws, photos, meta_cameras(2), config)
        ws, weights, _ = run.descend([0, 1])
    assert ws.device == weights.device == META
