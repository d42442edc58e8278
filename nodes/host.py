"""Interface to ComfyUI: the only file that imports comfy, comfy_api, folder_paths or server.

Outside ComfyUI (tests, scripts) every function has a plain fallback: folders under the working directory, no
progress bar, everything on the CPU.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import torch
from torch import Tensor, nn

try:
    import folder_paths
except ImportError:
    folder_paths = None

if TYPE_CHECKING:
    from ..my3dgen_core.common.folders import Folder

log = logging.getLogger("my3dgen")

GENERATORS, IDENTITIES, DIRECTIONS = "generators", "identities", "directions"
"""Kinds of model files, and the names of their folders under models/my3dgen."""
_EXTENSIONS = {
    GENERATORS: {".safetensors", ".pkl", ".pt", ".pth", ".ckpt"},
    IDENTITIES: {".safetensors", ".pkl", ".pt", ".pth"},
    DIRECTIONS: {".safetensors", ".npy", ".npz", ".pt", ".pth"},
}
PREVIEW_PIXELS = 320
"""Longest side of the preview that ComfyUI shows during a node's work."""
TEXT_INTERVAL = 0.5
"""Seconds between two updates of the text under a node."""
CLOCK_TICK = 2 * 10**9
"""Nanoseconds within which a file system may give two changes of a folder the same time."""
_LONGEST_NAME = 200
"""Bytes of a name: file systems take 255, less the number, the extension and what a temporary file adds."""
ROUTES = "/my3dgen/"
"""Start of the paths of the pack's routes."""
RENDER_MEMORY, TRAINING_MEMORY = 2 << 30, 8 << 30
"""Bytes requested from ComfyUI's memory management beside the weights, for NVIDIA's 512 px generator."""


# --- Folders and files ------------------------------------------------------------------------------------


def _models_root() -> Path:
    return Path(folder_paths.models_dir) if folder_paths else Path.cwd() / "models"


def input_root() -> Path:
    """Return ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory()) if folder_paths else Path.cwd() / "input"


def output_root() -> Path:
    """Return ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) if folder_paths else Path.cwd() / "output"


def _model_folders(kind: str) -> list[Path]:
    """Return the folders searched for a kind of file: in models/, and in output/, where nodes save."""
    if folder_paths:
        return [Path(folder) for folder in folder_paths.get_folder_paths(f"my3dgen_{kind}")]
    return [_models_root() / "my3dgen" / kind, output_root() / "my3dgen" / kind]


def _register_model_folders() -> None:
    """Add the pack's model folders to ComfyUI's list, which also gives users extra_model_paths.yaml."""
    for kind, extensions in _EXTENSIONS.items():
        folders = [str(_models_root() / "my3dgen" / kind), str(output_root() / "my3dgen" / kind)]
        known = folder_paths.folder_names_and_paths.get(f"my3dgen_{kind}", ([], set()))
        folders += [folder for folder in known[0] if folder not in folders]  # from extra_model_paths.yaml
        folder_paths.folder_names_and_paths[f"my3dgen_{kind}"] = (folders, extensions)


def list_models(kind: str) -> list[str]:
    """Return the names of the files of one kind, for the dropdowns of the Load nodes."""
    return list_files(_model_folders(kind), _EXTENSIONS[kind])


def list_files(folders: list[Path], extensions: set[str]) -> list[str]:
    """Return the names, relative to their folder, of the visible files with one of the extensions.

    Folders that cannot be read are skipped; ComfyUI's own lists raise there, and the node would be missing.
    """
    from ..my3dgen_core.common.folders import files_below, readable

    found = ((file, folder) for folder in folders for file in files_below(folder))
    files = ((f, root) for f, root in found if f.suffix.lower() in extensions)
    return sorted({readable(f.relative_to(root).as_posix()) for f, root in files})


def find_model(kind: str, name: str) -> Path:
    """Return the file with this name; of several folders with one, the first in ComfyUI's order.

    Raises:
        FileNotFoundError: no model folder of this kind contains it, or the name leads outside the folder.
    """
    from ..my3dgen_core.common.folders import find_below

    for folder in _model_folders(kind):
        path = find_below(folder, name)
        if path is not None and path.is_file():
            return path
    raise FileNotFoundError(
        f"There is no file {name!r} in {_model_folders(kind)[0]}. Put it there, or choose another file."
    )


def _inside(folder: Path, name: str) -> Path | None:
    """Return folder/name, or None if that lies outside the folder."""
    path = Path(os.path.abspath(folder / name))
    return path if path.is_relative_to(os.path.abspath(folder)) else None


def list_input_folders() -> list[str]:
    """Return the names of all visible folders under input/."""
    from ..my3dgen_core.common.folders import readable, walk

    root = input_root()
    found = (Path(folder.path) for folder in walk(root, _read_folder))
    return sorted({readable(path.relative_to(root).as_posix()) for path in found if path != root})


_known_folders: dict[str, tuple[int, Folder]] = {}
"""Modification time and subfolders of folders that were read, as in ComfyUI's own lists of files."""


def _read_folder(path: str) -> Folder:
    """Return the subfolders of a folder, which is only read if it has changed."""
    from ..my3dgen_core.common.folders import Folder, read_folder

    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        return Folder(path)
    known = _known_folders.get(path)
    if known is None or known[0] != changed:
        known = changed, replace(read_folder(path), files=())
        if time.time_ns() - changed > CLOCK_TICK:
            _known_folders[path] = known
    return known[1]


def find_input_folder(name: str) -> Path:
    """Return a folder under input/.

    Raises:
        ValueError: the name leads outside input/. A workflow from a stranger must not read other files.
        FileNotFoundError: there is no such folder.
    """
    from ..my3dgen_core.common.folders import find_below

    path = _inside(input_root(), name)
    if path is None or path == Path(os.path.abspath(input_root())):
        raise ValueError(f"{name!r} is not a folder inside {input_root()}. Copy the photos into one there.")
    path = find_below(input_root(), name)
    if path is None or not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder {name!r} in {input_root()}. Make it and put the photos in."
        )
    return path


def _face_roots() -> list[Path]:
    """Return the folders whose subfolders are face packs: InsightFace keeps them in `models` of its root.

    extra_model_paths.yaml may name that root, or the folder of packs itself.
    """
    roots = [_models_root() / "insightface"]
    for key in ("insightface", "insightface_models"):
        if folder_paths and key in folder_paths.folder_names_and_paths:
            roots += [Path(folder) for folder in folder_paths.get_folder_paths(key)]
    return list(dict.fromkeys(folder for root in roots for folder in (root / "models", root)))


def _face_packs() -> dict[str, list[Path]]:
    """Return the folders of each face pack by its name, those of the first root first."""
    from ..my3dgen_core.common.folders import read_folder
    from ..my3dgen_core.face.packs import onnx_files

    packs: dict[str, list[Path]] = {}
    for root in _face_roots():
        listed = read_folder(root)
        for name in (*listed.subfolders, *listed.links):
            folder = root / name
            # a folder of packs is a pack itself if an archive was unpacked right into it
            own = name != "models" or any(file.parent == folder for file in onnx_files(folder))
            if own and onnx_files(folder):
                packs.setdefault(name, []).append(folder)
    return dict(sorted(packs.items()))


def list_face_packs() -> list[str]:
    """Return the names of the folders with ONNX files under models/insightface/models."""
    return list(_face_packs())


def find_face_pack(name: str) -> Path:
    """Return the folder of a face pack with a face detector.

    Args:
        name: name of the pack, in whichever root has it; "auto" is the first pack.

    Raises:
        FileNotFoundError: there is no such pack, or none at all; the message lists the folders searched and
            what each lacks.
    """
    from ..my3dgen_core.common.folders import name_key
    from ..my3dgen_core.face.packs import DETECTION, read_pack

    packs, roots = _face_packs(), _face_roots()
    put = f"Put the .onnx files of a face pack such as buffalo_l into {roots[0] / 'buffalo_l'}"
    if not packs:
        raise FileNotFoundError(
            f"No face models found. {put}, or use Load Demo Person, which needs none. "
            f"Searched: {', '.join(str(root) for root in roots)}."
        )
    wanted = [key for key in packs if name == "auto" or name_key(key) == name_key(name)]
    if not wanted:
        raise FileNotFoundError(f"There is no face pack {name!r} in {roots[0]}. Found: {', '.join(packs)}.")
    searched = []
    for folder in (folder for key in wanted for folder in packs[key]):
        pack = read_pack(folder)
        if DETECTION in pack.files:
            return folder
        searched.append(f"{folder} ({pack.describe()})")
    raise FileNotFoundError(f"No face pack has a face detector. {put}. Searched: {', '.join(searched)}.")


def save_path(prefix: str, suffix: str) -> Path:
    """Return a new, numbered file name under output/, as ComfyUI's own nodes choose it.

    Args:
        prefix: folder and name under output/, with `%date:yyyy-MM-dd%` and whatever else core resolves. What
            Windows refuses in a name is replaced, with a warning.
        suffix: file extension, with its dot.

    Raises:
        ValueError: the prefix is empty, too long for a name, or leads outside output/.
    """
    root, asked = os.path.abspath(output_root()), _dated(prefix).replace("\\", "/")
    prefix = _portable(asked)
    target = _inside(Path(root), prefix)
    if target is None or target == Path(root) or re.match("[A-Za-z]:/", asked):
        raise ValueError(f"{asked!r} is no name, or lies outside the output folder. Choose one inside it.")
    longest = max((len(os.fsencode(part)) for part in prefix.split("/")), default=0)
    if longest > _LONGEST_NAME:
        raise ValueError(
            f"The file name {prefix[:40] + '…'!r} is too long: {longest} bytes in one part, where "
            f"{_LONGEST_NAME} fit. Shorten filename_prefix."
        )
    if prefix != asked:
        log.warning("The file name %r has what Windows refuses; it is saved as %r.", asked, prefix)
    if folder_paths:
        folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, root)
    else:
        folder, name = target.parent, target.name
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for f in folder.iterdir() if f.name.startswith(f"{name}_"))
    return Path(folder) / f"{name}_{number:05}_{suffix}"


def _portable(prefix: str) -> str:
    """Replace what Windows refuses in names: some characters, folders that end in a dot, names of devices."""
    clean = re.sub(r'[<>:"|?*\x00-\x1f\ud800-\udfff]', "_", prefix)
    clean = re.sub(r"(?<=[^/. ])[. ]+(?=/)", "", clean)
    return re.sub(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(?=[./])", r"\1_\2", clean)


def _dated(prefix: str) -> str:
    """Replace `%date:FORMAT%` as ComfyUI's page does, for prompts that come from elsewhere.

    Year, month, day, hour, minute and second are yyyy or yy, M, d, h, m and s, doubled with a leading zero.
    """
    now = time.localtime()
    values = {"M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}
    years = {"yyyy": f"{now.tm_year}", "yy": f"{now.tm_year % 100:02}"}

    def part(found: re.Match[str]) -> str:
        letters = found[0]
        return years.get(letters, letters) if letters[0] == "y" else f"{values[letters[0]]:0{len(letters)}}"

    return re.sub(
        r"%date:([^%]+)%", lambda date: re.sub(r"MM?|dd?|hh?|mm?|ss?|yyy?y?", part, date[1]), prefix
    )


def save_temporary(name: str, suffix: str, content: bytes) -> dict[str, str]:
    """Write a file to ComfyUI's temporary folder, which is emptied at each start.

    Returns:
        filename, subfolder and type, the parameters of ComfyUI's route /view.
    """
    folder = Path(folder_paths.get_temp_directory()) if folder_paths else output_root() / "temp"
    folder.mkdir(parents=True, exist_ok=True)
    filename = f"{name}_{secrets.token_hex(8)}{suffix}"
    (folder / filename).write_bytes(content)
    return {"filename": filename, "subfolder": "", "type": "temp"}


def state_folder(kind: str, name: str | None) -> Path:
    """Return the folder under output/my3dgen for state kept between runs; different names, different folders.

    Args:
        kind: name of the folder of all states of this kind.
        name: any text, such as a node's id, "12:5" inside a subgraph; None: "node".
    """
    safe = quote(name or "node", safe="").replace(".", "%2E")
    return output_root() / "my3dgen" / kind / safe


def cache_folder(kind: str) -> Path:
    """Return a folder under user/my3dgen for results that can be recomputed; users may delete it."""
    user = Path(folder_paths.get_user_directory()) if folder_paths else Path.cwd() / "user"
    return user / "my3dgen" / kind


def perceptual_folder() -> Path:
    """Return the folder of LPIPS weights."""
    return _models_root() / "my3dgen" / "perceptual"


def validate(value: str | None, find: Callable[[str], Path]) -> bool | str:
    """Check an input for VALIDATE_INPUTS.

    Args:
        value: value of the input; None if it is linked.
        find: function that raises if the value names no file.

    Returns:
        True, or the error message.
    """
    if value is None:
        return True
    try:
        find(value)
    except (OSError, ValueError) as error:
        return str(error)
    return True


def changed(value: str | None, find: Callable[[str], list[Path]]) -> str:
    """Return a text that changes when the files that an input names do, for IS_CHANGED.

    Args:
        value: value of the input; None if it is linked: its source decides then whether it has changed, and
            an error here would count as a change on each run.
        find: function from the value to the files.
    """
    return "" if value is None else fingerprint(find(value))


def fingerprint(paths: list[Path]) -> str:
    """Return a text that changes when one of the files does, for IS_CHANGED."""
    stats = ((p, p.stat()) for p in paths if os.path.isfile(p))  # unlike Path.is_file, raises nothing
    return "|".join(f"{p}:{s.st_mtime_ns}:{s.st_size}" for p, s in stats)


def mesh_class() -> Any:
    """Return ComfyUI's class of MESH values, or None if it has none."""
    return _core_type("MESH")


def file_3d(path: Path) -> Any:
    """Return a file as a value of FILE_3D_GLB and its siblings.

    In a ComfyUI that has no such type the output is blocked with a message: nothing that it brings takes one.
    """
    core = _core_type("File3D")
    if core is not None:
        return core(str(path), path.suffix.lstrip("."))
    return blocked(
        "This ComfyUI has no type for 3D files (it came with 0.12). Use the output model_file, which names "
        "the same file, or update ComfyUI."
    )


def _core_type(name: str) -> Any:
    """Return one of the value classes of ComfyUI's public API, or None if it has none of that name."""
    try:
        from comfy_api.latest import Types
    except ImportError:
        return None
    return getattr(Types, name, None)


# --- Devices and modes ------------------------------------------------------------------------------------


class _Resident:
    """Substitute for ModelPatcher outside ComfyUI."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def manage(model: nn.Module) -> Any:
    """Return a ModelPatcher, which hands a model to ComfyUI's memory management."""
    if folder_paths is None:
        return _Resident(model)
    from comfy import model_management
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def resident(patcher: Any, memory: int = 0) -> Any:
    """Return the model on its compute device, with about `memory` bytes free beside it."""
    if folder_paths is not None:
        from comfy import model_management

        # Weights moved under the executor's inference mode would stay inference tensors.
        with torch.inference_mode(False):
            model_management.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    return patcher.model


def memory() -> tuple[int | None, int | None]:
    """Return the computer's memory and what is free of it, in bytes; None if it cannot be told."""
    try:
        import psutil  # ComfyUI requires it; this pack does not
    except ImportError:
        return None, None
    known = psutil.virtual_memory()
    return known.total, known.available


def to_host(tensor: Tensor) -> Tensor:
    """Move a tensor to the device on which ComfyUI passes values between nodes."""
    if folder_paths is None:
        return tensor.cpu()
    from comfy import model_management

    return tensor.to(model_management.intermediate_device())


@contextmanager
def training() -> Iterator[None]:
    """Enable gradients inside the `with` block; ComfyUI runs nodes under inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def rendering() -> Iterator[None]:
    """Disable gradients without inference mode, whose tensors autograd could not use later."""
    with torch.inference_mode(False), torch.no_grad():
        yield


# --- Progress, previews, cancellation, text ---------------------------------------------------------------


def check_cancelled() -> None:
    """Raise ComfyUI's InterruptProcessingException if the user pressed cancel."""
    if folder_paths is not None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()


def interruptions() -> tuple[type[BaseException], ...]:
    """Return the exceptions that `check_cancelled` raises, for `except`; none outside ComfyUI."""
    if folder_paths is None:
        return ()
    from comfy import model_management

    return (model_management.InterruptProcessingException,)


def progress(node_id: str | None, what: str = "") -> Callable[..., None]:
    """Return an `on_step` for the core: progress bar, preview, text under the node, cancellation.

    Args:
        node_id: id of the node that shows it.
        what: name of the work, or of its unit, for the text.

    Returns:
        on_step(step, total, losses=None, image=None); image is [1, 3, h, w] in [-1, 1].
    """
    if folder_paths is None:
        return lambda step, total, losses=None, image=None: None
    from comfy.utils import ProgressBar

    bar = ProgressBar(1, node_id=node_id)
    shown = 0.0

    def on_step(
        step: int, total: int, losses: dict[str, float] | None = None, image: Tensor | None = None
    ) -> None:
        nonlocal shown
        check_cancelled()
        bar.update_absolute(step, total, None if image is None else ("JPEG", _picture(image), PREVIEW_PIXELS))
        now = time.monotonic()
        if now - shown > TEXT_INTERVAL or step >= total:
            shown = now
            terms = "  ".join(f"{name} {value:.4g}" for name, value in (losses or {}).items())
            send_text(node_id, f"{what} {step}/{total}  {terms}".strip())

    return on_step


def _picture(image: Tensor) -> Any:
    """Convert [1, 3, h, w] in [-1, 1] to a Pillow image."""
    from PIL import Image

    from ..my3dgen_core.common.image_ops import to_pixels

    return Image.fromarray(to_pixels(image[0]))


def send_text(node_id: str | None, text: str) -> None:
    """Show a text under a node on the page of the running prompt, if there is one."""
    server = _server()
    if server is not None and node_id is not None:
        server.send_progress_text(sendable(text), node_id, server.client_id)


def report(node_id: str | None, text: str) -> dict[str, list[str]]:
    """Log a node's text, show it under the node, and return the `ui` entry that keeps it in the history."""
    text = sendable(text)
    log.info("%s", text)
    send_text(node_id, text)
    return {"text": [text]}


def preview(images: Tensor) -> dict[str, list[dict[str, str]]]:
    """Save IMAGE [B,H,W,3] to the temporary folder and return the `ui` entry that shows it on the node."""
    if folder_paths is None:
        return {}
    root = folder_paths.get_temp_directory()
    folder, name, number, sub, _ = folder_paths.get_save_image_path("my3dgen_preview", root)
    entries = []
    for index, picture in enumerate(images):
        file = f"{name}_{number + index:05}_.png"
        _picture(picture.permute(2, 0, 1)[None] * 2 - 1).save(Path(folder) / file, compress_level=1)
        entries.append({"filename": file, "subfolder": sub, "type": "temp"})
    return {"images": entries}


def blocked(message: str) -> Any:
    """Return the value of an output that has nothing to give: nodes that use it show the message instead."""
    if folder_paths is None:
        return None
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(message)


# --- Routes for the page -----------------------------------------------------------------------------------


def _server() -> Any:
    """Return ComfyUI's server, or None outside ComfyUI."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def publish(event: str, data: dict[str, Any]) -> None:
    """Send an event to the page of the running prompt, if there is one."""
    server = _server()
    if server is not None:
        server.send_sync(event, sendable(data), server.client_id)


def sendable(value: Any) -> Any:
    """Return a value of JSON as a page can read it.

    NaN and infinity, which JSON does not have, become None. Surrogates, which stand for bytes of file names
    that are not UTF-8, become U+FFFD.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {sendable(key): sendable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [sendable(part) for part in value]
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def source_of(name: str) -> str:
    """Name the node from which the running node takes an input, for messages.

    Args:
        name: name of the input.

    Returns:
        A text such as " (from 'Upscale Image', node 12)", or "" outside ComfyUI or if it is not known.
    """
    server = _server()
    node = getattr(server, "last_node_id", None)
    running = getattr(getattr(server, "prompt_queue", None), "currently_running", None) or {}
    for _, _, prompt, *_ in list(running.values()):
        link = prompt.get(node, {}).get("inputs", {}).get(name)
        source = prompt.get(str(link[0])) if isinstance(link, list) and link else None
        if source:
            title = (source.get("_meta") or {}).get("title") or source.get("class_type")
            return f" (from {title!r}, node {link[0]})"
    return ""


def busy() -> bool:
    """Return True while a prompt is running."""
    return bool(getattr(getattr(_server(), "prompt_queue", None), "currently_running", None))


def jpeg(image: Tensor, quality: int = 88) -> bytes:
    """Encode [1, 3, h, w] in [-1, 1] as JPEG."""
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def serve(method: str, path: str, handler: Callable[[Any], Any]) -> None:
    """Add a route to ComfyUI's server; do nothing outside ComfyUI, or if the server has the route.

    ComfyUI does not start with two routes of one path. It has them when the pack is loaded again, or when
    another copy of it is in use.
    """
    server = _server()
    if server is None or first_copy() is not None:
        return
    if not any(route.path == path and route.method == method for route in _routes()):
        server.routes.route(method, path)(handler)


def first_copy() -> Path | None:
    """Return the folder of another copy of this pack that ComfyUI loaded before this one, or None."""
    own = Path(__file__).parent
    codes = (getattr(route.handler, "__code__", None) for route in _routes())
    files = (Path(code.co_filename) for code in codes if code is not None)
    found = (folder for file in files for folder in file.parents if folder.name == own.name)
    return next((folder.parent for folder in found if folder != own), None)


def _routes() -> list[Any]:
    """Return the pack's routes that ComfyUI's server has."""
    server = _server()
    routes = () if server is None else server.routes
    return [r for r in routes if hasattr(r, "handler") and r.path.startswith(ROUTES)]


if folder_paths:
    _register_model_folders()
