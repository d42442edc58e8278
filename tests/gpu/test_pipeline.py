"""Photos to a person and pictures of the person on the GPU, in one process: through the nodes and the core.

`imitation` stands in for ComfyUI's memory management; tests/host uses the real one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import goldens
import imitation
import pytest
import torch
from goldens import largest_difference

from my3dgen_core import (
    AlphaSpace,
    Identity,
    InversionConfig,
    Latents,
    TuningConfig,
    invert,
    load_generator,
    look_at,
    orbit,
    personalize,
    personalized,
)
from my3dgen_core.common.oom import is_out_of_memory_error
from my3dgen_core.eg3d.rendering import compiled
from my3dgen_core.evaluation import psnr, read_demo_person
from my3dgen_core.fitting.trainer import Training
from my3dgen_core.mesh import density_grid

CUDA = torch.device("cuda")
GIB = 2**30
RENDERERS = ("torch", "compiled")


@pytest.fixture(scope="module")
def person() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight photos of the demo person and their cameras, on the CPU."""
    photos, cameras, *_ = read_demo_person()
    return photos[:8], cameras[:8]


@pytest.fixture(scope="module")
def starter() -> Any:
    return load_generator("starter", device="cuda")


@pytest.fixture(scope="module")
def anchors(starter: Any, person: Any) -> Latents:
    photos, cameras = person
    config = InversionConfig(steps=5, shared_steps=30)
    return invert(starter, photos.cuda(), cameras.cuda(), config)


@pytest.fixture
def nodes(pack: ModuleType) -> dict[str, Any]:
    return {name.removeprefix("My3DGen"): kind() for name, kind in pack.NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def host(pack: ModuleType) -> ModuleType:
    return sys.modules["my3dgen_pack.nodes.host"]


def chain(nodes: dict[str, Any], person: Any, model: Any) -> tuple[torch.Tensor, ...]:
    """Inverts, renders, trains, renders the person and the generator again: three lists of pictures."""
    cameras = sys.modules["my3dgen_pack.nodes.socket_types"].Cameras(person[1])
    images = (person[0].permute(0, 2, 3, 1) + 1) / 2
    inverted = nodes["Invert"].invert(model, images, cameras, 2, 4, "w", 0.05, 4, 0, cache=False)
    latents, _ = inverted["result"]
    before = nodes["Render"].render(model, latents, "every", 0, 2)["result"][0]
    identity = nodes["TrainIdentity"].train(model, images, latents, 6, "lora", 1, 0.01, 2, 0)["result"][0]
    (personal,) = nodes["ApplyIdentity"].apply(model, identity, 1.0)
    of_person = nodes["Render"].render(personal, latents, "every", 0, 2)["result"][0]
    again = nodes["Render"].render(model, latents, "every", 0, 2)["result"][0]
    return before, of_person, again


@torch.inference_mode()
def test_render_train_render_again_beside_a_large_model(
    nodes: Any, host: Any, person: Any, tmp_path: Any, figures: Any
) -> None:
    """Two models that do not fit in the budget together take turns; weights stay usable throughout."""
    budget = 10 * GIB
    with imitation.comfyui(host, tmp_path, budget) as memory:
        with torch.inference_mode(False):
            large = torch.nn.ParameterList(torch.zeros(GIB // 4) for _ in range(3))
        other = imitation.ModelPatcher(large, CUDA, torch.device("cpu"))
        (model,) = nodes["LoadGenerator"].load("starter")
        generator = model.generator
        before = {key: value.clone() for key, value in generator.state_dict().items()}
        with torch.inference_mode(False):
            memory.load_models_gpu([other])
        torch.cuda.reset_peak_memory_stats()
        first = chain(nodes, person, model)
        assert other not in memory.loaded  # 3 GiB of it and 8 GiB for training do not go together
        assert next(large.parameters()).device.type == "cpu"
        with torch.inference_mode(False):
            memory.load_models_gpu([other], memory_required=7 * GIB)
        assert model.patcher not in memory.loaded
        assert next(generator.parameters()).device.type == "cpu"
        second = chain(nodes, person, model)
        peak = torch.cuda.max_memory_allocated()
    figures["nodes beside a large model, peak GiB of a budget of 10"] = peak / GIB
    assert peak <= budget
    for before_training, of_person, after_training in (first, second):
        # Not bit for bit: cuDNN may sum in any order. The weights are, below.
        assert largest_difference(before_training, after_training) <= 1 / 255
        assert largest_difference(before_training, of_person) > 1 / 255
    assert not any(t.is_inference() for t in (*generator.parameters(), *generator.buffers()))
    after = generator.state_dict()
    assert all(torch.equal(before[key], after[key].cpu()) for key in before)


def full(renderer: str = "torch") -> Any:
    """ffhq512-128's architecture with weights by recipe."""
    generator = goldens.full().cuda()
    generator.renderer = renderer
    return generator


def strangers(generator: Any, count: int) -> tuple[torch.Tensor, Latents]:
    """Photos [count, 3, 512, 512] that the generator made itself, and latents beside the right ones."""
    cameras = orbit(count).cuda()
    z = torch.randn(count, 512, generator=torch.Generator().manual_seed(3)).cuda()
    with torch.no_grad():
        ws = generator.mapping(z, look_at(0.0, 0.0).cuda().expand(count, -1))
        images = torch.cat(
            [generator.render(w[None], c[None]).image.clamp(-1, 1) for w, c in zip(ws, cameras, strict=True)]
        )
        latents = Latents(0.9 * ws + 0.1 * generator.w_avg, cameras, base_hash=generator.base_hash())
    return images, latents


def test_super_resolution_trains_in_half_precision_without_nan(figures: Any) -> None:
    generator = full()
    images, latents = strangers(generator, 4)
    seen = set()
    hook = generator.superresolution.block0.conv1.register_forward_hook(lambda m, i, o: seen.add(o.dtype))
    losses = []
    identity = personalize(
        generator,
        images,
        latents,
        TuningConfig(steps=30, batch_size=2, preview_every=0),
        on_step=lambda step, total, terms, image: losses.append(terms["loss"]),
    )
    hook.remove()
    assert torch.float16 in seen
    assert all(torch.isfinite(t).all() for t in identity.adapter.tensors.values())
    touched = [key for key in identity.adapter.tensors if "superresolution" in key]
    assert touched
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    figures["half-precision training, loss of the first and last 5 of 30 steps"] = [first, last]
    assert last < first


@contextlib.contextmanager
def at_most(nbytes: float | None) -> Iterator[None]:
    """The card as if it had this much memory for us."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if nbytes is None else nbytes / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_in_training_is_survived_with_smaller_parts(
    starter: Any, person: Any, anchors: Any
) -> None:
    photos = person[0].cuda()
    config = TuningConfig(steps=3, batch_size=8, patch=64, preview_every=0)

    def run(limit: float | None, low_memory: bool = False) -> tuple[Training, int]:
        torch.cuda.empty_cache()
        training = Training(starter, photos, anchors, config, None, None, None, None)
        if low_memory:
            training.low_memory = training.objective.low_memory = True
        torch.cuda.reset_peak_memory_stats()
        with at_most(limit):
            training.advance()
        return training, torch.cuda.max_memory_reserved()

    run(None)
    plenty, most = run(None)
    spare, least = run(None, low_memory=True)
    assert not plenty.low_memory
    assert least < most
    squeezed, _ = run(least + 0.5 * (most - least))
    assert squeezed.low_memory
    for key, tensor in squeezed.adapter.tensors.items():
        assert torch.isfinite(tensor).all()
        assert largest_difference(tensor, spare.adapter.tensors[key]) <= 1e-2


def test_after_running_out_of_memory_a_picture_comes_as_before(starter: Any, anchors: Any) -> None:
    ws, cameras = anchors.ws[:1], anchors.cameras[:1]
    with torch.no_grad():
        before = starter.render(ws, cameras).image
        with at_most(torch.cuda.memory_reserved() + 2**26), pytest.raises(RuntimeError) as caught:
            starter.render(ws.expand(64, -1, -1), cameras.expand(64, -1))
        assert is_out_of_memory_error(caught.value)
        del caught
        torch.cuda.empty_cache()
        # one gray level, as cuDNN may sum in any order
        assert largest_difference(before, starter.render(ws, cameras).image) <= 2 / 255


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", ["starter", "ffhq512-128, random weights"])
def test_pictures_of_gpu_and_cpu_look_the_same(name: str, renderer: str, starter: Any, figures: Any) -> None:
    """As users have it: convolutions in TF32, super-resolution in half precision."""
    on_cpu = load_generator("starter") if name == "starter" else goldens.full()
    generator = starter if name == "starter" else full()
    z = torch.randn(1, on_cpu.config.z_dim, generator=torch.Generator().manual_seed(1))
    camera = look_at(0.3, 0.1)
    with torch.no_grad():
        ws = on_cpu.mapping(z, look_at(0.0, 0.0), truncation_psi=0.7)
        theirs = on_cpu.render(ws, camera)
        generator.renderer = renderer
        ours = generator.render(ws.cuda(), camera.cuda())
        generator.renderer = "torch"
    score = float(psnr(ours.image.cpu().clamp(-1, 1), theirs.image.clamp(-1, 1)).mean())
    figures[f"PSNR of GPU against CPU, dB: {name}, {renderer}"] = score
    assert score >= 45
    assert float((ours.depth.cpu() - theirs.depth).abs().median()) <= 1e-3


def test_inversion_tuning_alpha_space_and_files(
    starter: Any, person: Any, anchors: Any, tmp_path: Any
) -> None:
    photos, cameras = (t.cuda() for t in person)
    losses = []
    identity = personalize(
        starter,
        photos,
        anchors,
        TuningConfig(steps=40, preview_every=0),
        on_step=lambda step, total, terms, image: losses.append(terms["loss"]),
    )
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    identity.save(tmp_path / "person.safetensors")
    loaded = Identity.load(tmp_path / "person.safetensors")
    space = AlphaSpace(identity.anchors)
    with personalized(starter, loaded), torch.no_grad():
        from_file = starter.render(anchors.ws[:1], cameras[:1]).image
    with personalized(starter, identity), torch.no_grad():
        assert torch.equal(from_file, starter.render(anchors.ws[:1], cameras[:1]).image)
        drawn = space.sample(3, seed=0)
        pictures = starter.render(drawn.ws.cuda(), cameras[:3]).image
    assert torch.isfinite(pictures).all()
    with personalized(starter, identity):
        found = space.project(starter, photos[:2], cameras[:2], steps=10)
    assert torch.allclose(found.alphas.sum(1).cpu(), torch.ones(2), atol=1e-4)


def test_the_density_grid_of_a_mesh_is_the_cpus(starter: Any, anchors: Any) -> None:
    with torch.no_grad():
        ours = density_grid(starter, anchors.ws[:1], 48).cpu()
        theirs = density_grid(load_generator("starter"), anchors.ws[:1].cpu(), 48)
    inside = (ours > 10) != (theirs > 10)  # the level of a mesh
    assert float(inside.float().mean()) <= 1e-3


def test_a_mesh(starter: Any, anchors: Any) -> None:
    pytest.importorskip("trimesh", reason="trimesh is not installed: meshes did not run")
    from my3dgen_core import extract_mesh

    mesh = extract_mesh(starter, anchors.ws[:1], resolution=64)
    assert mesh.is_watertight


def seconds_of(run: Any, times: int) -> float:
    """Mean duration, the first run not counted."""
    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / times


@pytest.mark.parametrize("renderer", RENDERERS)
def test_fifty_photos_at_512_px(renderer: str, figures: Any) -> None:
    """Time and memory of the defaults; a stage's minutes are those of 20 steps, times all."""
    if renderer == "compiled":
        compiled.load("cuda")
    generator = full(renderer)
    images, latents = strangers(generator, 50)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    photos, cameras = images, latents.cameras
    tuning, inversion = TuningConfig(), InversionConfig()
    marks: list[tuple[int, torch.cuda.Event]] = []

    class Enough(Exception):  # noqa: N818
        pass

    def on_step(step: int, total: int, terms: Any, image: Any) -> None:
        if step in (5, 25):
            marks.append((total, torch.cuda.Event(enable_timing=True)))
            marks[-1][1].record()
        if step == 25:
            raise Enough

    minutes = {}
    for stage in ("inversion", "training"):
        marks.clear()
        with contextlib.suppress(Enough):
            if stage == "inversion":
                invert(generator, photos, cameras, inversion, on_step=on_step)
            else:
                personalize(generator, photos, latents, tuning, on_step=on_step)
        torch.cuda.synchronize()
        (total, start), (_, end) = marks
        minutes[stage] = start.elapsed_time(end) / 20 * total / 60000
    key = f"50 photos at 512 px, ffhq512-128 with random weights, {renderer}"
    figures[f"{key}: minutes (20 steps, times all)"] = minutes
    figures[f"{key}: peak GiB"] = torch.cuda.max_memory_allocated() / GIB
    assert torch.cuda.max_memory_allocated() <= 8 * GIB  # what the nodes ask ComfyUI for


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", ["starter", "ffhq512-128, random weights"])
def test_frames_of_an_orbit(name: str, renderer: str, starter: Any, figures: Any) -> None:
    if renderer == "compiled":
        compiled.load("cuda")
    generator = starter if name == "starter" else full()
    cameras = orbit(24).cuda()
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    generator.renderer = renderer
    try:
        with torch.no_grad():
            planes = generator.planes(ws)
            torch.cuda.reset_peak_memory_stats()

            def frames() -> None:
                for camera in cameras.split(2):
                    generator.render(ws, camera, planes=planes)

            rate = len(cameras) / seconds_of(frames, 3)
    finally:
        generator.renderer = "torch"
    figures[f"orbit, frames a second: {name}, {renderer}"] = rate
    figures[f"orbit, peak GiB: {name}, {renderer}"] = torch.cuda.max_memory_allocated() / GIB
    assert torch.cuda.max_memory_allocated() <= 4 * GIB  # with the weights
