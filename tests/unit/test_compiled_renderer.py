"""The compiled renderer against the PyTorch renderer, which the goldens compare with the reference."""

import copy
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import build_renderer
import goldens
import micro
import pytest
import torch
from goldens import SETTINGS, largest_difference, relative_error

from my3dgen_core import load_generator, look_at
from my3dgen_core.__main__ import main
from my3dgen_core.eg3d.rendering import backend, culled
from my3dgen_core.eg3d.rendering.compiled import KernelError, builder, cpu_kernels, libraries, load
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
    assert libraries.available()
    assert libraries.available("cpu")


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
    """As in a new process of a user for whom nothing is built."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(libraries, "_loaded", set())
    return tmp_path


def command(*arguments):
    """Run the command in this process: its exit status."""
    return main(["build-kernels", *map(str, arguments)])


def test_without_a_compiler_a_message_says_so(fresh, capsys):
    assert command("--compiler", "no-such-compiler") == 2
    said = capsys.readouterr().err
    assert "There is no C++ compiler (no-such-compiler): install g++ or clang" in said
    assert not list(fresh.rglob("*"))


def test_unbuilt_a_message_names_the_command_and_pytorch_renders(fresh, uncompiled_starter):
    with pytest.warns(UserWarning, match="run `python -m my3dgen_core build-kernels` once"):
        ours = march("compiled", *uncompiled_starter, 8)
    assert torch.equal(ours.features, march("torch", *uncompiled_starter, 8).features)
    assert not libraries.available()
    assert not list(fresh.rglob("*"))


def test_unbuilt_only_compiled_is_refused(fresh):
    generator = SimpleNamespace(renderer="torch")
    with pytest.raises(KernelError, match="run `python -m my3dgen_core build-kernels` once"):
        backend.select_backend(generator, "compiled")
    assert "build-kernels" in backend.select_backend(generator, "auto")
    assert backend.select_backend(generator, "torch") is None
    assert generator.renderer == "torch"


@needs_compiler
def test_built_both_compiled_and_auto_are_compiled():
    for choice in ("compiled", "auto"):
        generator = SimpleNamespace(renderer="torch")
        assert backend.select_backend(generator, choice) is None
        assert generator.renderer == "compiled"


def test_without_ninja_a_message_says_so(fresh, compiler, monkeypatch):
    which = builder.shutil.which
    monkeypatch.setattr(
        builder.shutil, "which", lambda name, **place: None if name == "ninja" else which(name, **place)
    )
    if builder.importlib.util.find_spec("ninja"):
        with pytest.raises(
            KernelError, match=r"not on the PATH: activate .* run `PATH=\"/.*:\$PATH\" python -m"
        ):
            builder.build()
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KernelError, match="pip install ninja"):
        builder.build()


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(fresh, capsys):
    assert command("--compiler", "false") == 2
    assert "could not be built" in capsys.readouterr().err
    assert not [p for p in fresh.rglob("*") if p.is_file()]


@needs_compiler
def test_the_command_says_where_the_library_lies(capsys):
    assert command() == 0
    said = capsys.readouterr().out
    assert str(libraries.find()) in said
    if torch.version.cuda is None:
        assert "made without CUDA" in said


@pytest.mark.slow
def test_another_folder_is_filled_and_used_in_a_process_of_its_own(compiler, tmp_path):
    ran = build_renderer.build("--folder", str(tmp_path), "--compiler", compiler)
    assert ran.returncode == 0, ran.stderr
    assert [file.name for file in tmp_path.iterdir()] == [libraries.file_name("cpu")]
    assert str(tmp_path) in ran.stdout


@needs_compiler
def test_the_library_needs_no_pytorch():
    program = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).my3dgen_interface())"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(libraries.find())], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) == cpu_kernels.INTERFACE


@needs_compiler
def test_another_interface_or_no_library_is_refused_with_a_remedy(fresh, monkeypatch, tmp_path):
    place = tmp_path / libraries.file_name("cpu")
    place.write_bytes(b"no library")
    with pytest.raises(KernelError, match=r"cannot be loaded .* Delete it and build it again"):
        load(folder=tmp_path)
    assert not libraries.available()
    monkeypatch.undo()
    monkeypatch.setattr(cpu_kernels, "INTERFACE", cpu_kernels.INTERFACE + 1)
    with pytest.raises(cpu_kernels.InterfaceError, match="its functions are of number"):
        cpu_kernels.CpuKernels(libraries.find())


def test_the_name_of_the_library_follows_sources_and_processor(monkeypatch, tmp_path):
    name = libraries.file_name("cpu")
    assert name == libraries.file_name("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert libraries.file_name("cpu").endswith("-baseline.so")
    monkeypatch.undo()
    shutil.copytree(libraries.SOURCES / "cpu", tmp_path / "cpu")
    (tmp_path / "cpu" / "ray.h").write_text("// changed")
    monkeypatch.setattr(libraries, "SOURCES", tmp_path)
    assert libraries.file_name("cpu") != name


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_instruction_sets_render_the_same(compiler, tmp_path, uncompiled_starter, capability):
    """PyTorch is told to do without the processor's latest instructions; the library follows it."""
    if libraries.variant() == "baseline":
        pytest.skip("this processor has one instruction set only")
    program = """if True:
        import sys, torch, test_compiled_renderer as tests
        from pathlib import Path
        from my3dgen_core.eg3d.rendering.compiled import builder, libraries
        planes, cameras = torch.load(sys.argv[2])
        generator = tests.load_generator("starter")
        builder.build(folder=Path(sys.argv[1]))
        libraries.load(folder=Path(sys.argv[1]))
        exact, fast, grads = [], [], []
        for renderer in ("torch", "compiled"):
            exact.append(tests.march(renderer, generator, planes, cameras, 32).features.detach())
            with torch.no_grad():
                fast.append(tests.march(renderer, generator, planes, cameras, 32, quality="fast").features)
            grads.append(tests.gradients(renderer, generator, planes, cameras, 16))
        error = max(tests.relative_error(a, b) for a, b in zip(*grads))
        print(libraries.variant(), tests.largest_difference(*exact), tests.largest_difference(*fast), error)
    """
    _, planes, cameras = uncompiled_starter
    torch.save([planes, cameras], tmp_path / "scene.pt")
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "scene.pt")],
        env={
            **os.environ,
            "ATEN_CPU_CAPABILITY": capability,
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    variant, exact, fast, gradient = ran.stdout.splitlines()[-1].split()
    assert variant == {"avx2": "avx2", "default": "baseline"}[capability]
    assert float(exact) <= 1e-3  # the starter's surfaces are steep: see above
    assert float(fast) <= 4 * culled.MAX_LOST_WEIGHT  # twice what may be lost, on a scale of [-1, 1]
    assert float(gradient) <= GRADIENT


@pytest.mark.parametrize(
    ("built", "card", "runs"),
    [
        (("9.0",), "9.0", True),
        (("8.0",), "8.6", True),
        (("8.6",), "8.0", False),
        (("8.6",), "9.0", True),  # translated by the driver
        (("8.0", "12.0"), "9.0", False),
        (("7.5", "9.0"), "10.0", True),
    ],
)
def test_gpu_libraries_run_on_their_generation_and_the_latest_on_later_ones(built, card, runs):
    assert libraries.covers(built, card) == runs


def test_gpu_libraries_are_found_by_their_architectures(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "gpu_architectures", lambda: ("8.6", "9.0"))
    for architectures in (("8.0",), ("8.6", "12.0"), ("8.0", "9.0")):
        (tmp_path / libraries.file_name("cuda", architectures)).touch()
    for expected in ("8.0-9.0", "8.0"):  # code for 8.0 runs on 8.6, and is translated for 9.0
        found = libraries.find("cuda", tmp_path)
        assert found.name.endswith(f"-cuda-{expected}.so")
        found.unlink()
    assert libraries.find("cuda", tmp_path) is None


def test_gpu_architectures_become_the_compilers_flags():
    flags = builder._options("cuda", ("12.0", "8.6"))["extra_cuda_cflags"]
    assert flags == [
        "-O3",
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    with pytest.raises(KernelError, match=r"'Hopper' is no GPU architecture: write it like 9\.0"):
        builder._options("cuda", ("Hopper",))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
@needs_compiler
def test_for_a_gpu_nothing_is_built_without_cuda():
    with pytest.raises(KernelError, match="made without CUDA"):
        builder.build(device="cuda")
    assert not libraries.available("cuda")
    assert backend.devices() == ("cpu",)


def test_without_nvcc_a_message_names_the_toolkit(compiler, fresh, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.raises(KernelError, match=r"no CUDA compiler .* CUDA toolkit 13\.0"):
        builder.build(device="cuda", architectures=("9.0",))
    if not torch.cuda.is_available():
        with pytest.raises(
            KernelError, match=r"sees no GPU here: name its architecture, such as --cuda-arch 9\.0"
        ):
            builder.build(device="cuda")


def test_the_compiler_is_named_and_a_folder_with_a_space_is_quoted(monkeypatch):
    """PyTorch tells the linker where its libraries are without quotes; a whole build takes a while."""
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", "/a folder/torch/lib")
    before = cpp_extension.get_cxx_compiler
    with builder._pytorch_builds_with("clang++"):
        assert cpp_extension.get_cxx_compiler() == "clang++"
        assert shlex.split(f"-L{cpp_extension.TORCH_LIB_PATH}") == ["-L/a folder/torch/lib"]
    assert cpp_extension.TORCH_LIB_PATH == "/a folder/torch/lib"
    assert cpp_extension.get_cxx_compiler is before


@needs_compiler
def test_tensors_that_do_not_fit_are_refused_before_the_library_sees_them():
    render = torch.ops.my3dgen.render_rays
    planes, w0, *others = operands(False)
    with pytest.raises(
        ValueError, match=r"a float32 tensor \[64, 32\] on the CPU is expected, not .*\[32, 64\]"
    ):
        render(planes, w0.T, *others, False)
    with pytest.raises(ValueError, match="planes of 2 scenes are expected, not of 3"):
        render(goldens.normal(1, (3, 3, 32, 8, 8)), w0, *others, False)
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        render(planes.double(), w0, *others, False)
    others[5] = others[5][..., :1]
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        render(planes, w0, *others, False)
