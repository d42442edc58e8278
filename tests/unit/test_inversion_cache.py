"""The inversion cache: the same call is answered from disk bit for bit, another call never is."""

import dataclasses

import micro
import pytest
import torch

from my3dgen_core import InversionConfig, TuningConfig, invert, look_at, personalize, personalized
from my3dgen_core.fitting.inversion import _Run

CAMERAS = look_at(torch.tensor([-0.3, 0.0, 0.3]), torch.tensor([0.1, 0.0, -0.1]))
ALONE = InversionConfig(steps=3, shared_steps=0, batch_size=1, rays_per_image=64)
SHARED = dataclasses.replace(ALONE, shared_steps=3, batch_size=2)


@pytest.fixture(scope="module")
def generator():
    return micro.generator()


@pytest.fixture(scope="module")
def photos(generator):
    with torch.no_grad():
        return generator.render(micro.latents(generator, 3), CAMERAS).image.clamp(-1, 1)


@pytest.fixture
def worked(monkeypatch):
    """The photos of every stage that was computed; None: the shared one."""
    stages, real = [], _Run.descend

    def descend(self, start, index, steps):
        stages.append(index)
        return real(self, start, index, steps)

    monkeypatch.setattr(_Run, "descend", descend)
    return stages


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("ws", "losses", "cameras"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"space": "w+"}, {"refine_cameras": True}])
def test_the_same_call_is_answered_from_disk_bit_for_bit(generator, photos, worked, tmp_path, changes):
    plain = dataclasses.replace(SHARED, **changes)
    kept = dataclasses.replace(plain, cache_dir=tmp_path)
    without = invert(generator, photos, CAMERAS, plain)
    first = invert(generator, photos, CAMERAS, kept)
    assert worked == [None, [0, 1], [2]] * 2
    worked.clear()
    told = []
    again = invert(generator, photos, CAMERAS, kept, on_step=lambda *step: told.append(step))
    assert worked == []
    assert equal(first, without)
    assert equal(again, without)
    assert [(step, total, losses["cached"]) for step, total, losses, _ in told] == [
        (3, 9, 0),
        (6, 9, 2),
        (9, 9, 3),
    ]


def test_without_a_shared_latent_only_new_photos_are_worked_on(generator, photos, worked, tmp_path):
    kept = dataclasses.replace(ALONE, cache_dir=str(tmp_path))
    two = invert(generator, photos[1:], CAMERAS[1:], kept)
    worked.clear()
    three = invert(generator, photos, CAMERAS, kept)
    assert worked == [[0]]
    assert torch.equal(three.ws[1:], two.ws)
    assert equal(three, invert(generator, photos, CAMERAS, ALONE))


def test_a_shared_latent_is_of_the_whole_set_and_so_is_what_starts_from_it(
    generator, photos, worked, tmp_path
):
    kept = dataclasses.replace(SHARED, cache_dir=str(tmp_path))
    invert(generator, photos, CAMERAS, kept)
    worked.clear()
    two = invert(generator, photos[:2], CAMERAS[:2], kept)
    assert worked == [None, [0, 1]]
    assert equal(two, invert(generator, photos[:2], CAMERAS[:2], SHARED))


def test_an_inversion_cut_off_goes_on_behind_its_last_whole_batch(generator, photos, worked, tmp_path):
    class CutError(Exception):
        pass

    def cut(step, *_):
        if step == 7:
            raise CutError

    kept = dataclasses.replace(SHARED, cache_dir=str(tmp_path))
    with pytest.raises(CutError):
        invert(generator, photos, CAMERAS, kept, on_step=cut)
    worked.clear()
    found = invert(generator, photos, CAMERAS, kept)
    assert worked == [[2]]
    assert equal(found, invert(generator, photos, CAMERAS, SHARED))


def other_mask(photos):
    masks = torch.zeros(1, 1, *photos.shape[2:])
    masks[..., :8] = 1
    return masks


@pytest.mark.parametrize(
    "change",
    ["photo", "mask", "camera", "lr", "seed", "space", "steps", "rays", "generator", "renderer", "identity"],
)
@pytest.mark.filterwarnings("ignore")  # the compiled renderer may not be built here
def test_whatever_a_result_depends_on_is_part_of_its_key(generator, photos, worked, tmp_path, change):
    kept = dataclasses.replace(ALONE, cache_dir=str(tmp_path))
    one, camera, masks = photos[:1], CAMERAS[:1], None
    first = invert(generator, one, camera, kept)
    if change == "identity":
        person = personalize(generator, -photos[:1], first, TuningConfig(steps=3, patch=16))
        worked.clear()
        with personalized(generator, person):
            invert(generator, one, camera, kept)
        assert worked == [[0]]
        return
    used = generator
    if change == "photo":
        one = one * 0.99
    elif change == "mask":
        masks = other_mask(photos)
    elif change == "camera":
        camera = CAMERAS[1:2]
    elif change == "generator":
        used = micro.generator(seed=1)
    elif change == "renderer":
        used = micro.generator()
        used.renderer = "compiled"
    else:
        changes = {"lr": 0.01, "seed": 1, "space": "w+", "steps": 4, "rays_per_image": 100}
        name = "rays_per_image" if change == "rays" else change
        kept = dataclasses.replace(kept, **{name: changes[name]})
    worked.clear()
    invert(used, one, camera, kept, masks)
    assert worked == [[0]]


@pytest.mark.parametrize("damage", ["cut", "rubbish", "foreign", "nan"])
def test_a_damaged_or_foreign_file_is_ignored_and_rewritten(generator, photos, worked, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    kept = dataclasses.replace(ALONE, cache_dir=str(tmp_path))
    whole = invert(generator, photos[:1], CAMERAS[:1], kept)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    if damage == "cut":
        file.write_bytes(good[:-10])
    elif damage == "rubbish":
        file.write_bytes(b"not a file of ours")
    else:
        tensors = load_file(file)
        if damage == "foreign":
            save_file(tensors, file, {"format": "something else"})
        else:
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                metadata = opened.metadata()
            tensors["ws"][0, 0, 0] = float("nan")
            save_file(tensors, file, metadata)
    worked.clear()
    again = invert(generator, photos[:1], CAMERAS[:1], kept)
    assert worked == [[0]]
    assert equal(again, whole)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    assert load_file(file)["ws"].isfinite().all()
    worked.clear()
    invert(generator, photos[:1], CAMERAS[:1], kept)
    assert worked == []


def test_a_folder_that_takes_no_file_costs_nothing_but_the_memory(generator, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    kept = dataclasses.replace(ALONE, cache_dir=str(tmp_path / "file"))
    assert equal(invert(generator, photos, CAMERAS, kept), invert(generator, photos, CAMERAS, ALONE))


@pytest.mark.slow
@pytest.mark.parametrize("refine", [False, True])
def test_photos_of_one_look_share_a_latent_that_is_remembered_too(
    generator, photos, worked, tmp_path, refine
):
    config = dataclasses.replace(SHARED, one_look=True, refine_cameras=refine, cache_dir=tmp_path)
    found = invert(generator, photos, CAMERAS, config)
    assert worked == [None, None]
    assert bool((found.ws == found.ws[:1]).all())
    assert torch.equal(found.cameras, CAMERAS) != refine
    worked.clear()
    assert equal(invert(generator, photos, CAMERAS, config), found)
    assert worked == []
