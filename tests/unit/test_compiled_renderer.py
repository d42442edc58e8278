"""The compiled renderer against the PyTorch renderer, which the goldens compare with the reference."""

import copy
import dataclasses

import goldens
import micro
import pytest
import torch
from goldens import SETTINGS, largest_difference, relative_error

from my3dgen_core import load_generator, look_at
from my3dgen_core.__main__ import main
from my3dgen_core.eg3d.rendering import backend
from my3dgen_core.eg3d.rendering.compiled import KernelError, build, builder, load
from my3dgen_core.eg3d.rendering.compositing import composite
from my3dgen_core.eg3d.rendering.exact import RadianceField, two_passes
from my3dgen_core.eg3d.rendering.rays import coarse_depths, jitter_numbers, rays
from my3dgen_core.eg3d.rendering.renderer import render_rays
from my3dgen_core.starter.training.objectives import DENSITY_SCALE, picture_loss
from my3dgen_core.starter.training.picture_shards import Pictures

IO = goldens.tensors("tiny_io")
PIXEL = 1e-4
GRADIENT = 1e-3


needs_compiler = pytest.mark.usefixtures("compiled_renderer")


@pytest.fixture(scope="module")
def tiny(compiled_renderer):
    generator = goldens.tiny()
    with torch.no_grad():
        return generator, generator.planes(IO["ws"])


@pytest.fixture(scope="module")
def uncompiled_starter():
    """For tests that need no compiler."""
    generator = load_generator("starter")
    cameras = torch.cat([look_at(0.0, 0.0), look_at(0.4, 0.2)])
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return generator, generator.planes(generator.mapping(z, cameras)), cameras


@pytest.fixture(scope="module")
def starter(compiled_renderer, uncompiled_starter):
    return uncompiled_starter


def march(renderer, generator, planes, cameras, resolution, jitter=None, change=None, **options):
    config = dataclasses.replace(generator.config, **(change or {}))
    origins, directions = rays(cameras, resolution)
    return render_rays(
        planes, generator.decoder, config, origins, directions, jitter, renderer=renderer, **options
    )


def gradients(renderer, generator, planes, *args, **options):
    """Gradients of all outputs with respect to the planes and the decoder's parameters."""
    generator = copy.deepcopy(generator).requires_grad_(True)
    planes = planes.clone().requires_grad_(True)
    out = march(renderer, generator, planes, *args, **options)
    values = [out.features, out.weight]
    if bool((out.weight > 0).all()):  # else PyTorch's gradient of depth is NaN
        values.append(out.depth)
    total = sum((value * goldens.normal(seed, value.shape)).sum() for seed, value in enumerate(values))
    return torch.autograd.grad(total, [planes, *generator.decoder.parameters()])


def clear_floor(generator, planes, cameras, resolution, jitter, about=1e-3):
    """A minimum weight near `about` that is far from every sample's weight: rounding changes nothing."""
    origins, directions = rays(cameras, resolution)
    b, m = directions.shape[:2]
    n, k = generator.config.depth_resolution, generator.config.depth_resolution_importance
    coarse, fine = jitter_numbers(jitter, b, m, n, k, directions)
    origins = origins.expand(-1, m, -1)
    depths = coarse_depths(generator.config, origins, directions, coarse)
    field = RadianceField(planes, generator.decoder, generator.config.box_warp)
    density, color, depths = two_passes(field, origins, directions, depths, fine.reshape(b, m, k))
    weights = composite(color, density, depths)[2].flatten().sort().values
    weights = weights[(weights > about / 2) & (weights < 2 * about)]
    widest = int(weights.diff().argmax())
    return float(weights[widest : widest + 2].mean())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_renders_as_pytorch_and_as_the_reference(tiny, name):
    change = SETTINGS[name]
    jitter = goldens.stream(256, 24, change.get("depth_resolution_importance", 20))
    ours, theirs = (march(r, *tiny, IO["c"], 16, jitter, change) for r in ("compiled", "torch"))
    for field, key in (("features", "feature"), ("depth", "depth"), ("weight", "weights_sum")):
        value = getattr(ours, field)
        assert largest_difference(value, getattr(theirs, field)) <= PIXEL
        if name != "plain":
            assert largest_difference(value[:, ::5], IO[f"render16.{name}.{key}.every5"]) <= 2e-4


@pytest.mark.parametrize("jitter", [None, 0.5])
def test_fixed_jitter_and_chunks_change_nothing(tiny, jitter):
    ours = march("compiled", *tiny, IO["c"], 32, jitter, chunk=100)
    theirs = march("torch", *tiny, IO["c"], 32, jitter, chunk=100)
    for field in ("features", "depth", "weight"):
        assert largest_difference(getattr(ours, field), getattr(theirs, field)) <= PIXEL


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_those_of_pytorch(tiny, name):
    change = SETTINGS[name]
    jitter = goldens.stream(256, 24, change.get("depth_resolution_importance", 20))
    ours, theirs = (gradients(r, *tiny, IO["c"], 16, jitter, change) for r in ("compiled", "torch"))
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) <= GRADIENT


def test_samples_under_the_floor_get_no_gradient(tiny):
    jitter = goldens.stream(256, 24, 20)
    floor = clear_floor(*tiny, IO["c"], 16, jitter)
    exact = gradients("compiled", *tiny, IO["c"], 16, jitter)
    ours, theirs = (gradients(r, *tiny, IO["c"], 16, jitter, min_weight=floor) for r in ("compiled", "torch"))
    for a, b, whole in zip(ours, theirs, exact, strict=True):
        assert relative_error(a, b) <= GRADIENT
        assert not torch.equal(a, whole)


@pytest.mark.slow
def test_the_starter_renders_as_exactly_as_pytorch(starter):
    """Its surfaces are so steep that one unit in the last place of a depth moves pixels by up to 1e-3: both
    are equally far from float64, at most, on average, and in how many values by more than 1e-4."""
    generator, planes, cameras = starter
    ours, theirs = (march(r, generator, planes, cameras, 64) for r in ("compiled", "torch"))
    precise = copy.deepcopy(generator).double()
    truth = march("torch", precise, planes.double(), cameras.double(), 64)
    for field in ("features", "depth", "weight"):
        a, b, exact = (getattr(out, field) for out in (ours, theirs, truth))
        error, usual = (a - exact).abs(), (b - exact).abs()
        assert float(error.max()) <= max(1.5 * float(usual.max()), PIXEL)
        assert float(error.mean()) <= 1.5 * float(usual.mean()) + 1e-8
        far, usually_far = (float((e > PIXEL).float().mean()) for e in (error, usual))
        assert far <= 1.5 * usually_far + 1e-5


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_the_starter_has_the_gradients_of_pytorch(starter, floor):
    generator, planes, cameras = starter
    floor = floor and clear_floor(generator, planes, cameras, 32, None)
    ours, theirs = (
        gradients(r, generator, planes, cameras, 32, None, min_weight=floor) for r in ("compiled", "torch")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) <= GRADIENT


def test_a_generator_carries_its_renderer(starter, monkeypatch):
    generator, planes, cameras = starter
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    with torch.no_grad():
        theirs = generator.render(ws, cameras[:1], planes=planes[:1], neural_resolution=32)
        monkeypatch.setattr(generator, "renderer", "compiled")
        ours = generator.render(ws, cameras[:1], planes=planes[:1], neural_resolution=32)
    assert not torch.equal(ours.features, theirs.features)
    assert largest_difference(ours.features, theirs.features) <= 1e-3  # see above
    assert largest_difference(ours.depth, theirs.depth) <= PIXEL
    with pytest.raises(ValueError, match="must be 'torch' or 'compiled'"):
        march("quick", generator, planes, cameras, 8)


@needs_compiler
def test_the_training_through_pictures_has_the_same_losses_and_gradients():
    z, cameras = goldens.normal(1, (2, 16)), torch.cat([look_at(0.0, 0.0), look_at(0.3, 0.1)])
    image, mask = goldens.normal(2, (2, 3, 128, 128)).clamp(-1, 1), torch.ones(2, 1, 128, 128)
    batch = Pictures(z, cameras, image, mask, torch.full((2, 1, 64, 64), 2.6))
    found = {}
    for renderer in ("torch", "compiled"):
        generator = micro.generator().requires_grad_(True)
        generator.renderer = renderer
        losses = picture_loss(generator, batch, half=False)
        sum(losses.values()).backward()
        found[renderer] = losses, {k: p.grad for k, p in generator.named_parameters() if p.grad is not None}
    (theirs, expected), (ours, grads) = found["torch"], found["compiled"]
    for key, value in theirs.items():
        assert largest_difference(ours[key].detach(), value.detach()) <= 1e-5
    assert grads.keys() == expected.keys()
    for key, grad in expected.items():
        if float(grad.norm()) > 1e-6:
            assert relative_error(grads[key], grad) <= 5e-3, key  # weights at the floor may fall either way


def test_decoder_weights_have_their_gains_and_the_density_scale(uncompiled_starter):
    decoder = uncompiled_starter[0].decoder
    features = goldens.normal(5, (7, 32))
    w0, b0, w1, b1 = decoder.weights(DENSITY_SCALE)
    out = torch.nn.functional.softplus(features @ w0.T + b0) @ w1.T + b1
    density, color = decoder(features)
    torch.testing.assert_close(out[:, :1], DENSITY_SCALE * density)
    torch.testing.assert_close(out[:, 1:].sigmoid() * 1.002 - 0.001, color)


@needs_compiler
def test_the_operators_are_registered_once_however_they_are_asked_for():
    load()
    load("cpu")
    assert builder.available()
    assert builder.available("cpu")


def operands(requires_grad=True):
    planes = goldens.normal(1, (2, 3, 32, 8, 8)).requires_grad_(requires_grad)
    weights = [
        (0.3 * goldens.normal(i, shape)).requires_grad_(requires_grad)
        for i, shape in enumerate(((64, 32), (64,), (33, 64), (33,)))
    ]
    directions = torch.nn.functional.normalize(goldens.normal(2, (2, 5, 3)), dim=-1)
    depths = torch.linspace(0.1, 0.9, 6).expand(2, 5, 6).contiguous()
    u = torch.linspace(0.1, 0.9, 4).expand(2, 5, 4).contiguous()
    return planes, *weights, -0.5 * directions, directions, depths, u, 1.0, True, 0.0


@pytest.mark.slow
@needs_compiler
def test_the_operator_is_what_pytorch_asks_of_one():
    torch.library.opcheck(torch.ops.my3dgen.render_rays.default, (*operands(), True))
    torch.library.opcheck(torch.ops.my3dgen.render_rays.default, (*operands(False), False))


def test_results_depend_neither_on_the_run_nor_on_the_number_of_threads(starter):
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            runs.append(
                (
                    march("compiled", *starter, 32).features,
                    *gradients("compiled", *starter, 32, min_weight=1e-3),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@needs_compiler
def test_shapes_are_known_without_values():
    with torch.device("meta"):
        generator = micro.generator().requires_grad_(True)
        planes = torch.empty(2, 3, 32, 16, 16, requires_grad=True)
        cameras = torch.empty(2, 25)
    generator.renderer = "compiled"
    out = generator.march(planes, cameras, 8)
    assert out.features.shape == (2, 64, 32)
    assert out.depth.shape == out.weight.shape == (2, 64, 1)
    out.features.sum().backward()
    assert planes.grad.shape == planes.shape
    assert generator.decoder.net[2].weight.grad.shape == (33, 64)


def test_gradients_of_cameras_come_from_pytorch(starter):
    generator, planes, cameras = starter
    cameras = cameras.clone().requires_grad_(True)
    march("compiled", generator, planes, cameras, 8).features.sum().backward()
    assert float(cameras.grad.abs().max()) > 0


def test_broken_planes_show(starter):
    generator, planes, cameras = starter
    assert march("compiled", generator, torch.full_like(planes, torch.nan), cameras, 8).features.isnan().all()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builder, "_loaded", builder._loaded.__wrapped__)
    return tmp_path


def test_without_a_compiler_a_message_says_so_and_pytorch_renders(fresh, monkeypatch, uncompiled_starter):
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    with pytest.raises(KernelError, match=r"no C\+\+ compiler .* install g\+\+ or clang"):
        build()
    assert not builder.available()
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        ours = march("compiled", *uncompiled_starter, 8)
    assert torch.equal(ours.features, march("torch", *uncompiled_starter, 8).features)


def test_unbuilt_a_message_names_the_command_and_nothing_is_built(fresh, starter):
    with pytest.warns(UserWarning, match="python -m my3dgen_core build-kernels"):
        march("compiled", *starter, 8)
    assert not list(fresh.rglob("*"))


@needs_compiler
def test_without_ninja_a_message_says_so(fresh, monkeypatch):
    which = builder.shutil.which
    monkeypatch.setattr(builder.shutil, "which", lambda name: None if name == "ninja" else which(name))
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KernelError, match="pip install ninja"):
        build()


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "false")
    assert main(["build-kernels"]) == 2
    assert "could not be built" in capsys.readouterr().err
    assert not [p for p in fresh.rglob("*") if p.is_file()]


@needs_compiler
def test_the_command_says_where_the_library_lies(capsys):
    assert main(["build-kernels"]) == 0
    said = capsys.readouterr().out
    assert str(builder.library_path()) in said
    if torch.version.cuda is None:
        assert "made without CUDA" in said


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
@needs_compiler
def test_for_a_gpu_nothing_is_built_without_cuda():
    with pytest.raises(KernelError, match="made without CUDA"):
        build(device="cuda")
    assert not builder.available("cuda")
    assert backend.devices() == ("cpu",)


@needs_compiler
def test_without_nvcc_a_message_names_the_toolkit(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.raises(KernelError, match=r"no CUDA compiler .* CUDA toolkit 13\.0"):
        build(device="cuda")


def test_an_environment_in_a_folder_with_a_space_can_build(monkeypatch):
    """PyTorch tells the linker where its libraries are without quotes; a whole build takes a minute."""
    import shlex

    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", "/a folder/torch/lib")
    with builder._quoted_library_path():
        assert shlex.split(f"-L{cpp_extension.TORCH_LIB_PATH}") == ["-L/a folder/torch/lib"]
    assert cpp_extension.TORCH_LIB_PATH == "/a folder/torch/lib"
