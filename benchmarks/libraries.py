"""Own code against library functions that do the same: difference and speed, side by side in one run.

    python -m benchmarks.libraries [--face-models FOLDER] [--page docs/architecture.md]

For each pair: the largest absolute difference of the results, or that all bits are equal, and the speed of
the library, as the processor time of the own code over that of the library's (least of alternating runs on
one thread; 2.0x: the library takes half the time). A second table has what each library costs to import after
torch and numpy: seconds by the clock, and the growth of memory, each in a process of its own.

Where a library is in use, "own" is the plain code that would stand in its place.

ONNX rows need the models of `make fixtures` (a detector, landmarks, an identity network). The file of the
size of buffalo_l's is one of them with 160 MiB of weights added that no node uses. onnx2torch is measured
only where it and torchvision are installed; neither is a dependency.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from vgg import vgg16

from benchmarks import ROOT
from benchmarks.page import put
from my3dgen_core.camera import from_angles, interpolate_orbit, interpolation
from my3dgen_core.camera import pose as camera_pose
from my3dgen_core.eg3d import layers
from my3dgen_core.evaluation import metrics
from my3dgen_core.evaluation.dists import Dists
from my3dgen_core.face import IdentityNetwork, crop, paste
from my3dgen_core.face import pose as face_pose
from my3dgen_core.face.recognition import ARCFACE_POINTS, similarity_transform
from my3dgen_core.fitting import camera_refinement, losses
from my3dgen_core.formats.onnx_file import read_onnx

Value = Tensor | np.ndarray
Run = Callable[[], Any]
LIBRARY = "library"
PACK = ROOT / "build" / "face" / "models" / "insightface" / "models" / "testpack"
SECONDS = 0.3  # of measuring, for each side of a pair


@dataclass(frozen=True)
class Pair:
    """Two ways to one result; `difference` says in words how far apart they are, None: it is computed."""

    thing: str
    candidate: str
    own: Run
    library: Run
    decision: str
    difference: Callable[[], str] | None = None


def difference(own: Value, library: Value) -> str:
    one, two = (np.asarray(x.detach() if isinstance(x, Tensor) else x) for x in (own, library))
    return "same bits" if np.array_equal(one, two) else f"{np.abs(one - two).max():.1g}"


def speed(own: Run, library: Run) -> tuple[float, float]:
    """Processor time of the own code over that of the library's, and the own code's milliseconds."""
    own(), library()  # first calls import and allocate
    start = time.process_time()
    own(), library()
    both = max(time.process_time() - start, 1e-6)
    repeats = max(1, int(0.02 / both))
    rounds = min(25, max(7, int(2 * SECONDS / (both * repeats))))
    least = [math.inf, math.inf]
    for _ in range(rounds):
        for side, run in enumerate((own, library)):
            start = time.process_time()
            for _ in range(repeats):
                run()
            least[side] = min(least[side], (time.process_time() - start) / repeats)
    return least[0] / least[1], 1000 * least[0]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad


def patched(module: Any, name: str, value: Any, run: Run) -> Run:
    """`run` with another function in place of one of a module's."""

    def replaced() -> Any:
        with mock.patch.object(module, name, value):
            return run()

    return replaced


def kornia_pairs() -> Iterator[Pair]:
    from kornia import color, filters, geometry, morphology
    from kornia import metrics as kornia_metrics
    from kornia.geometry import conversions

    torch.manual_seed(0)
    pictures = torch.rand(4, 3, 256, 256) * 2 - 1
    others = (pictures + 0.1 * torch.randn_like(pictures)).clamp(-1, 1)

    def library_psnr() -> Tensor:
        pairs = zip(pictures.clamp(-1, 1), others.clamp(-1, 1), strict=True)
        return torch.stack([kornia_metrics.psnr(one, two, 2.0) for one, two in pairs])

    yield Pair(
        "PSNR of each picture, 4 of 256",
        "kornia.metrics.psnr",
        lambda: metrics.psnr(pictures, others),
        library_psnr,
        "own: one formula; kornia has one number a batch, infinity for equal pictures",
    )

    mask = (F.interpolate(torch.rand(1, 1, 16, 16), 512, mode="bicubic")[0] > 0.5).float()

    def pooled(mask: Tensor, half: int = 12) -> Tensor:
        padded = F.pad(mask[None], (half,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * half + 1, stride=1)[0]

    yield Pair(
        "soft edge of a 512 mask (pasting)",
        "kornia.filters.box_blur",
        lambda: pooled(mask),
        lambda: paste._soften_edge(mask, paste.FEATHER),
        LIBRARY,
    )
    small = mask[:, ::2, ::2]
    square = torch.ones(27, 27)
    yield Pair(
        "dilation of a 256 mask by 27 pixels",
        "kornia.morphology.dilation",
        lambda: F.max_pool2d(F.max_pool2d(small, (1, 27), 1, (0, 13)), (27, 1), 1, (13, 0)),
        lambda: morphology.dilation(small[None], square)[0],
        "own: by rows, then columns; kornia unfolds 729 copies of the mask",
    )

    measure = random_dists()
    binomial = torch.outer(*(torch.tensor([0.25, 0.5, 0.25]),) * 2)

    def own_pooling(x: Tensor) -> Tensor:
        kernel = binomial.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    one, two = pictures[:1, :, :128, :128], others[:1, :, :128, :128]
    module = sys.modules[Dists.__module__]
    yield Pair(
        "DISTS of a 128 picture, with its L2 pooling",
        "kornia.filters.blur_pool2d",
        patched(module, "_pooled", own_pooling, lambda: measure(one, two)),
        lambda: measure(one, two),
        LIBRARY,
    )

    error = torch.randn(4, 3, 64, 64)
    taps = torch.tensor([[1.0, 4.0, 6.0, 4.0, 1.0]]) / 16

    def pyramid() -> Tensor:
        return gradient(losses.laplacian_l1, error)

    yield Pair(
        "Laplacian pyramid loss and gradient, 4 of 64",
        "kornia.filters.filter2d_separable",
        pyramid,
        patched(losses, "_blur", lambda x: filters.filter2d_separable(x, taps, taps, "replicate"), pyramid),
        "own: slower, and resumable training would depend on kornia's version",
    )
    yield Pair(
        "one level of the pyramid, 4 of 64",
        "kornia.geometry.transform.pyrdown",
        lambda: losses._blur(error)[..., ::2, ::2],
        lambda: geometry.transform.pyrdown(error, "replicate"),
        "own: another pyramid, by interpolation and not by every second pixel",
    )
    yield Pair(
        "blur of camera refinement, 4 of 64",
        "kornia.filters.filter2d",
        lambda: camera_refinement._blurred(error),
        lambda: filters.filter2d(error, binomial[None], "replicate"),
        "own: no faster; resumable training, as above",
    )

    vectors = torch.randn(6, 3) * 0.06
    yield Pair(
        "rotation of a vector (camera refinement), 6",
        "kornia axis_angle_to_rotation_matrix",
        lambda: camera_pose.rotation_from_vector(vectors),
        lambda: conversions.axis_angle_to_rotation_matrix(vectors),
        "own: slower; resumable training would move",
    )
    start, end = (from_angles(*(torch.randn(1000) * sd for sd in (0.6, 0.3, 0.1))) for _ in range(2))
    t = torch.rand(1000)

    def path(count: int = 24) -> Tensor:
        return interpolate_orbit(start[:count], end[:count], t[:count])

    def library_axis(rotation: Tensor) -> tuple[Tensor, Tensor]:
        turn = conversions.rotation_matrix_to_axis_angle(rotation)
        return F.normalize(turn, dim=1), turn.norm(dim=1)

    def by_kornia(run: Run) -> Run:
        run = patched(interpolation, "_axis_angle", library_axis, run)
        return patched(interpolation, "rotation_from_vector", conversions.axis_angle_to_rotation_matrix, run)

    yield Pair(
        "orbit between two cameras, 24 frames",
        "kornia: both conversions of rotations",
        path,
        by_kornia(path),
        "own: slower; cameras move; opposite views must be refused",
        lambda: difference(path(1000), by_kornia(lambda: path(1000))()),
    )

    face = torch.rand(3, 112, 112)
    yield Pair(
        "gray of a 112 face (sharpness)",
        "kornia.color.rgb_to_grayscale",
        lambda: face[0] * 0.299 + face[1] * 0.587 + face[2] * 0.114,
        lambda: color.rgb_to_grayscale(face)[0],
        "own: one line",
    )

    features = torch.randn(1, 32, 64, 64)

    def stuffed(x: Tensor) -> Tensor:
        zeros = x.new_zeros(1, 32, 128, 128)
        zeros[..., ::2, ::2] = x
        kernel = 4 * layers.fir_kernel()[None]
        return filters.filter2d(F.pad(zeros, (1, 0, 1, 0)), kernel, "constant")[..., :128, :128]

    yield Pair(
        "EG3D's upsampling by two, 32 channels of 64",
        "kornia.filters.filter2d, zeros put between",
        lambda: layers._Upsample.apply(features),
        lambda: stuffed(features),
        "own: pictures would move; the gradient is slower",
    )
    yield Pair(
        "its gradient",
        "the same",
        lambda: gradient(lambda x: layers._Upsample.apply(x).square(), features),
        lambda: gradient(lambda x: stuffed(x).square(), features),
        "own",
    )

    for scale, name in ((0.9, "shrinking"), (1.6, "growing")):
        yield warp_pair(scale, name)
    x, y = torch.rand(2, 1, 256, 256) * 2 - 1
    grid = torch.stack((x, y), -1)
    yield Pair(
        "lookup at given places (pasting), 256",
        "kornia.geometry.transform.remap",
        lambda: F.grid_sample(one, grid, mode="bicubic", padding_mode="border", align_corners=False),
        lambda: geometry.transform.remap(one, x, y, "bicubic", "border", False, True),
        "own: it is `F.grid_sample` under another name",
    )


def warp_pair(scale: float, name: str) -> Pair:
    from kornia.geometry.transform import warp_affine

    coarse = torch.rand(1, 3, 68, 120, generator=torch.Generator().manual_seed(0))
    photo = F.interpolate(coarse, (1080, 1920), mode="bicubic")[0].clamp(0, 1)
    pixels = (photo * 255).byte().permute(1, 2, 0).numpy()
    angle = 0.2
    linear = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = np.concatenate([linear, (256 - linear @ [960, 500])[:, None]], axis=1)
    transform = crop.CropTransform(matrix, (1080, 1920))
    centers = torch.from_numpy(matrix).float()[None]  # from edge coordinates to those of pixel centers
    centers[:, :, 2] += (centers[:, :, :2].sum(-1) - 1) / 2

    def library() -> Tensor:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        warped = warp_affine(picture, centers, (512, 512), "bicubic", "reflection", True)
        return warped[0].clamp(0, 1) * 2 - 1

    return Pair(
        f"face crop out of a 1080p photo, {name}",
        "kornia.geometry.transform.warp_affine",
        lambda: crop.warp_crop(pixels, transform)[0],
        library,
        "own: antialiased where it shrinks, and with a mask of missing pixels",
    )


def random_dists() -> Dists:
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16().state_dict().items()}
    return Dists(state, {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")})


def scipy_pairs() -> Iterator[Pair]:
    from scipy.spatial.transform import Rotation
    from skimage.transform import SimilarityTransform

    prior = face_pose.shape_prior(dense=True)
    for name, shared in (("a photo at a time, 24", False), ("24 photos, one shape", True)):
        yield solver_pair(prior, name, shared)
    many = synthetic_views(prior, 600, False)

    def each(count: int = 24) -> list[face_pose.PoseFit]:
        return [face_pose.solve_shape_and_poses(view[None], prior, 4.0)[0] for view in many[:count]]

    def by_scipy(run: Run) -> Run:
        return patched(face_pose, "_rotation_from_vector", lambda w: Rotation.from_rotvec(w).as_matrix(), run)

    yield Pair(
        "rotation of a vector in it, a photo at a time",
        "scipy.spatial.transform.Rotation",
        each,
        by_scipy(each),
        "own: slower; some labels (cache keys) move",
        lambda: labels_difference(each(600), by_scipy(lambda: each(600))()),
    )
    points = ARCFACE_POINTS * 3 + np.random.default_rng(0).normal(size=(5, 2)) * 3
    yield Pair(
        "similarity of five points (ArcFace)",
        "skimage SimilarityTransform",
        lambda: similarity_transform(points, ARCFACE_POINTS),
        lambda: SimilarityTransform.from_estimate(points, ARCFACE_POINTS).params[:2],
        "own: slower",
    )


def solver_pair(prior: face_pose.ShapePrior, name: str, shared: bool) -> Pair:
    views = synthetic_views(prior, 24, shared)

    def solve() -> list[face_pose.PoseFit]:
        groups = [views] if shared else [view[None] for view in views]
        return [fit for group in groups for fit in face_pose.solve_shape_and_poses(group, prior, 4.0)]

    library = patched(face_pose, "_levenberg_marquardt", least_squares_solver, solve)
    return Pair(
        f"head pose and shape, {name}",
        'scipy.optimize.least_squares, "lm"',
        solve,
        library,
        "own: same minimum, but slower; labels (cache keys) move",
        lambda: labels_difference(solve(), library()),
    )


def synthetic_views(prior: face_pose.ShapePrior, count: int, shared: bool) -> np.ndarray:
    """Points [count, M, 2] of heads that the shape model makes, with 2 pixels of noise."""
    rng = np.random.default_rng(0)
    views, coefficients = [], rng.normal(size=len(prior.modes))
    for _ in range(count):
        if not shared:
            coefficients = rng.normal(size=len(prior.modes))
        shape = prior.mean + np.tensordot(coefficients, prior.modes, 1)
        angles = np.radians([rng.uniform(-60, 60), rng.normal(4, 6), rng.normal(0, 5)])
        seen = face_pose.project_to_crop(shape, face_pose.rotation_of_angles(*angles), np.array([0, 0, 10.0]))
        views.append(seen + rng.normal(size=seen.shape) * 2)
    return np.stack(views)


def least_squares_solver(
    views: np.ndarray, starts: Any, prior: face_pose.ShapePrior, sigma: float
) -> list[face_pose.PoseFit]:
    """`_levenberg_marquardt` by MINPACK: the same residuals and Jacobian; each rotation is a vector from its
    start."""
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    count, modes = len(views), len(prior.modes)
    first, translations = (np.stack(parts) for parts in zip(*starts, strict=True))
    last: dict[str, Any] = {}

    def at(unknowns: np.ndarray) -> dict[str, Any]:
        if last.get("key") == (key := unknowns.tobytes()):
            return last
        moves = unknowns[: 6 * count].reshape(count, 6)
        turns = Rotation.from_rotvec(moves[:, :3]).as_matrix() @ first
        residual, jacobian = face_pose._linearize(
            views, turns, translations + moves[:, 3:], unknowns[6 * count :], prior, sigma
        )
        for k, w in enumerate(moves[:, :3]):  # to the vector: the left Jacobian of SO(3)
            angle = float(np.linalg.norm(w))
            a, b = (1 / 2, 1 / 6)
            if angle > 1e-4:
                a, b = (1 - math.cos(angle)) / angle**2, (angle - math.sin(angle)) / angle**3
            cross = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
            jacobian[:, 6 * k : 6 * k + 3] @= np.eye(3) + a * cross + b * cross @ cross
        last.update(key=key, residual=residual, jacobian=jacobian, turns=turns)
        return last

    solution = least_squares(
        lambda x: at(x)["residual"].copy(),
        np.zeros(6 * count + modes),
        jac=lambda x: at(x)["jacobian"].copy(),
        method="lm",
        x_scale="jac",
    )
    found = at(solution.x)
    residual, moves = found["residual"], solution.x[: 6 * count].reshape(count, 6)
    pixels = residual[: views.size].reshape(count, -1, 2) * sigma
    errors = np.sqrt((pixels**2).sum(-1).mean(-1))
    cost = float(residual @ residual)
    return [
        face_pose.PoseFit(
            found["turns"][k], translations[k] + moves[k, 3:], solution.x[6 * count :], float(e), cost
        )
        for k, e in enumerate(errors)
    ]


def labels_difference(own: list[face_pose.PoseFit], library: list[face_pose.PoseFit]) -> str:
    angles, equal = [], 0
    for one, two in zip(own, library, strict=True):
        apart = float(np.linalg.norm(one.rotation - two.rotation)) / math.sqrt(8)
        angles.append(math.degrees(2 * math.asin(min(1.0, apart))))
        label, other = (face_pose.label_of_rotation(fit.rotation) for fit in (one, two))
        equal += np.array_equal(label, other)
    return f"{max(angles):.1g} degrees; {equal} of {len(own)} labels equal"


def onnx_pairs(models: Path, folder: Path) -> Iterator[Pair]:
    import onnx
    from onnx import numpy_helper

    small = models / "w600k_mbf.onnx"
    large = folder / "large.onnx"
    padded = onnx.load(small)
    padded.graph.initializer.append(numpy_helper.from_array(np.zeros(40 << 20, np.float32), "unused"))
    onnx.save(padded, str(large))

    for path in (small, large):
        yield from file_pairs(path)
    yield from onnx2torch_pairs(small)


def file_pairs(path: Path) -> Iterator[Pair]:
    import onnx
    from onnx import numpy_helper

    def shapes() -> dict[str, list[int | None]]:
        outputs = onnx.load(path, load_external_data=False).graph.output
        return {
            value.name: [
                size.dim_value if size.HasField("dim_value") else None
                for size in value.type.tensor_type.shape.dim
            ]
            for value in outputs
        }

    def weights() -> dict[str, np.ndarray]:
        graph = onnx.load(path, load_external_data=False).graph
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def own_shapes() -> dict[str, list[int | None]]:
        return read_onnx(path, weights=False).outputs

    def own_weights() -> dict[str, np.ndarray]:
        return read_onnx(path).weights

    def same(one: dict[str, Any], two: dict[str, Any]) -> str:
        equal = one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
        return "same bits" if equal else "not equal"

    size = f"({path.stat().st_size / 2**20:.0f} MiB)"
    yield Pair(
        f"role of a network from its shapes {size}",
        "onnx.load",
        own_shapes,
        shapes,
        "own: shapes without the weights",
        lambda: same(own_shapes(), shapes()),
    )
    yield Pair(
        f"weights of a network {size}",
        "onnx.load, numpy_helper",
        own_weights,
        weights,
        "own, being there for the roles",
        lambda: same(own_weights(), weights()),
    )


def onnx2torch_pairs(path: Path) -> Iterator[Pair]:
    try:
        from onnx2torch import convert
    except ImportError:
        return
    network = IdentityNetwork.from_file(path)
    converted = convert(str(path)).eval().requires_grad_(False)
    faces = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def library(faces: Tensor) -> Tensor:
        return converted((faces + 1) * 127.5 if network._wants_bytes else faces)

    why = "own: no faster; needs torchvision built for the same torch"
    with torch.no_grad():
        yield Pair(
            "ArcFace in torch, 4 faces",
            "onnx2torch",
            lambda: network.features(faces),
            lambda: library(faces),
            why,
        )
    yield Pair(
        "ArcFace in torch, gradient",
        "onnx2torch",
        lambda: gradient(network.features, faces),
        lambda: gradient(library, faces),
        why,
    )


IMPORT = """
import sys, time
import numpy, torch
def memory():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
before, start = memory(), time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - start, memory() - before)
"""


def imports() -> str:
    lines = ["| import | s | MiB |", "|---|---|---|"]
    for name in ("kornia.filters", "scipy.optimize", "onnx", "insightface.model_zoo"):
        done = subprocess.run([sys.executable, "-c", IMPORT, name], capture_output=True, text=True)
        if done.returncode == 0:
            seconds, size = map(float, done.stdout.split())
            lines.append(f"| `{name}` | {seconds:.2f} | {size:.0f} |")
    return "\n".join(lines)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(pairs: Iterator[Pair]) -> Iterator[str]:
    for pair in pairs:
        apart = pair.difference() if pair.difference else difference(pair.own(), pair.library())
        ratio, milliseconds = speed(pair.own, pair.library)
        cells = [pair.thing, pair.candidate, apart, f"{milliseconds:.3g}", f"{ratio:.2f}x", pair.decision]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--face-models", type=Path, default=PACK, help="folder with w600k_mbf.onnx")
    parser.add_argument("--page", type=Path, help="put the tables into this page, between its marks")
    options = parser.parse_args()
    lines = [
        "| thing | library | difference | own, ms | speed of the library | in use |",
        "|---|---|---|---|---|---|",
    ]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        lines += table(kornia_pairs())
        lines += table(scipy_pairs())
        if (options.face_models / "w600k_mbf.onnx").is_file():
            lines += table(onnx_pairs(options.face_models, Path(folder)))
        else:
            print(f"No w600k_mbf.onnx in {options.face_models}: the ONNX rows are left out.", file=sys.stderr)
    found = "\n".join(lines) + "\n\n" + imports()
    print(found)
    if options.page:
        put(options.page, "libraries", found)


if __name__ == "__main__":
    main()
