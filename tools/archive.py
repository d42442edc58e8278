"""The archive that ComfyUI's registry publishes: build it, and find what its scanners would flag.

    python tools/archive.py                 # findings, what is listed with a reason, size, largest files
    python tools/archive.py --out node.zip  # and write it

The archive is what comfy-cli packs: the files that git tracks, without those that `.comfyignore` names. It is
judged three times: by the syntax tree of every Python file, by the words that the registry's scanner is known
to flag wherever they stand, comments included, and by a plain search for suspicious words, whose hits need a
reason (`REASONS`). Exits with 1 if anything is found. docs/publishing.md has the sources.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 12_000_000
"""Bytes of all files together, as they are unpacked."""
LARGEST = 10


@dataclass(frozen=True)
class Finding:
    """One place in the archive that a scanner may flag."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


# --- Files ------------------------------------------------------------------------------------------------


def published(root: Path = ROOT) -> list[str]:
    """Return the paths of the archive's files, sorted, relative to the repository."""
    ignored = _git(root, "ls-files", "-z", "--cached", "--ignored", "--exclude-from=.comfyignore")
    paths = set(_git(root, "ls-files", "-z", "--cached")) - set(ignored)
    return sorted(path for path in paths if (root / path).is_file())


def _git(root: Path, *arguments: str) -> list[str]:
    output = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
    return [name for name in output.decode().split("\0") if name]


def pack(target: Path, root: Path = ROOT) -> None:
    """Write the archive as a zip file, as comfy-cli does."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in published(root):
            archive.write(root / path, path)


def sizes(root: Path = ROOT) -> dict[str, int]:
    """Return the bytes of each file, the largest first."""
    found = {path: (root / path).stat().st_size for path in published(root)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


# --- Syntax trees -----------------------------------------------------------------------------------------

PROCESSES = {"subprocess", "multiprocessing", "pty", "pip", "ensurepip"}
CONNECTIONS = {
    *("socket", "socketserver", "ssl", "select", "selectors", "urllib.request", "urllib3", "http.client"),
    *("http.server", "xmlrpc", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "nntplib", "requests"),
    *("httpx", "websocket", "websockets", "paramiko", "webbrowser", "huggingface_hub", "gdown", "wget"),
    *("torch.hub", "torch.utils.model_zoo", "torch.distributed"),
}
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch.package"}
CODE = {"runpy", "code", "codeop", "imp", "importlib.machinery", "importlib.abc"}
MODULES = {
    **dict.fromkeys(PROCESSES, "starts processes"),
    **dict.fromkeys(CONNECTIONS, "opens connections"),
    **dict.fromkeys(PICKLES, "loads pickles"),
    **dict.fromkeys(CODE, "runs code by name"),
}
"""Modules that nothing in the archive imports, with the reason."""

NAMES = {
    r"os\.(environb?|getenvb?|putenv|unsetenv)": "the environment",
    r"os\.(system|popen|startfile|fork\w*|exec\w+|spawn\w+|posix_spawn\w*)": "starts a process",
    r"asyncio\.(create_subprocess_\w+|subprocess)": "starts a process",
    r"asyncio\.(open_\w*connection|start_\w*server)": "opens a connection",
    r"aiohttp\.(ClientSession|request|TCPConnector|UnixConnector)": "opens a connection",
    r"importlib\.(import_module|__import__|reload)": "imports by name",
    r"importlib\.util\.(spec_from_file_location|module_from_spec)": "imports by path",
    r"(builtins\.)?(eval|exec|compile|__import__)": "runs code from a text",
    r"__builtins__|__loader__": "reaches the builtins",
    r"pandas\.read_pickle|numpy\.lib\.format\.read_pickle": "loads a pickle",
}
"""Dotted names, with imports followed to what they import, that nothing in the archive uses."""
_NAMES = [(re.compile(pattern), why) for pattern, why in NAMES.items()]
BUILTINS = {*dir(builtins), "__builtins__", "__loader__"}


def syntax_findings(path: str, source: str) -> list[Finding]:
    """Judge a Python file by its syntax tree."""
    tree = ast.parse(source, filename=path)
    imported = dict(_imported(tree))
    found: dict[tuple[int, str], Finding] = {}

    def add(node: ast.AST, what: str) -> None:
        line = getattr(node, "lineno", 1)
        found.setdefault((line, what), Finding(path, line, what))

    for node in ast.walk(tree):
        for module in _modules(node):
            parts = module.split(".")
            for name in (".".join(parts[: count + 1]) for count in range(len(parts))):
                if name in MODULES:
                    add(node, f"import of {name}: {MODULES[name]}")
        if isinstance(node, ast.ImportFrom):
            for name in _modules(node):
                for what in _name_findings(name):
                    add(node, what)
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = _dotted(node, imported)
            for what in _name_findings(name):
                add(node, what)
            if isinstance(node, ast.Attribute) and name in MODULES:
                add(node, f"{name}: {MODULES[name]}")
        if isinstance(node, ast.Call):
            for what in _call_findings(node, imported):
                add(node, what)
    return list(found.values())


def _modules(node: ast.AST) -> list[str]:
    """Absolute names that an import statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of a local name and the absolute name that it was imported from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            start = f"{'.' * node.level}{node.module or ''}"
            for alias in node.names:
                yield alias.asname or alias.name, f"{start}.{alias.name}"


def _dotted(node: ast.AST, imported: dict[str, str]) -> str:
    """Return `os.environ` for an expression that means it; an empty text for other expressions."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id if node.id in BUILTINS else "")
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value, imported)
        return f"{start}.{node.attr}" if start else ""
    return ""


def _name_findings(name: str) -> Iterator[str]:
    return (f"{name}: {why}" for pattern, why in _NAMES if pattern.fullmatch(name))


def _call_findings(node: ast.Call, imported: dict[str, str]) -> Iterator[str]:
    name = _dotted(node.func, imported)
    options = {word.arg: word.value for word in node.keywords if word.arg}
    if name in ("torch.load", "torch.serialization.load") and not _is(options.get("weights_only"), True):
        yield f"{name} without weights_only=True: loads pickles"
    if "allow_pickle" in options and not _is(options["allow_pickle"], False):
        yield "allow_pickle: loads pickles"
    if name == "getattr" and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
        yield from _name_findings(f"{_dotted(node.args[0], imported)}.{node.args[1].value!s}")


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


# --- Words ------------------------------------------------------------------------------------------------

TRIPWIRES = {
    r"\bsubprocess\b": "starts a process",
    r"\bos\s*\.\s*(environ|getenv|putenv|unsetenv)": "the environment",
    r"\bos\s*\.\s*(system|popen|exec[lv]|spawn)": "starts a process",
    r"\bsocket\.\w|\b(import|from) socket\b|create_connection|gethostname": "opens a connection",
    r"\.(bind|connect|listen|send|sendall|sendto|recv|recvfrom)\s*\(": "read as a call of Python's sockets",
    r"urllib\.request|\burlopen|\burlretrieve|http\.client": "opens a connection",
    r"\brequests\.(get|post|put|patch|delete|head|Session)\b|ClientSession|\bhttpx\b": "opens a connection",
    r"(?<![\w.])(eval|exec|compile)\s*\(|\.eval\s*\(\s*[^\s)]": "runs code from a text",
    r"__import__|import_module|\bmarshal\b": "read as tampering with code",
    r"\bpickle\.(load|Unpickler)|\bcloudpickle\b|\bdill\b": "loads a pickle",
    r"\bPath\([^()]*\)\.read_bytes\(": "read as an access to private files",
    r"raw\.githubusercontent\.com|pastebin|ngrok|transfer\.sh": "an address that the registry blocks",
    r"\b(curl|wget|ffmpeg|ffprobe|yt-dlp|pkexec|sudo|chmod \+x|rm -rf)\b": "a command line",
    r"\bnew Function\s*\(|XMLHttpRequest|EventSource|sendBeacon": "a page that runs code or connects",
    r"\b(fetch|import)\s*\(\s*[\"'`](https?:)?//": "a page that connects to elsewhere",
    r"auth_token_comfy_org|api_key_comfy_org|HF_TOKEN": "credentials",
}
"""Words that the registry's scanner is known to flag, or would by their kind. None is in the archive."""
_TRIPWIRES = [(re.compile(pattern), why) for pattern, why in TRIPWIRES.items()]

WORDS = re.compile(
    r"subprocess|\bsockets?\b|environ\b|getenv|putenv|\beval\(|\bexec\(|compile\(|__import__|import_module|"
    r"pickle\.load|Unpickler|urllib|\brequests\b|http\.client|aiohttp|base64|\bctypes\b|cpp_extension",
    re.IGNORECASE,
)
"""Suspicious words, for a plain search."""
REASONS = {
    r"\bre\.compile\(": "a regular expression",
    r"\bsockets?\b": "inputs and outputs of nodes, which ComfyUI calls sockets",
    r"\burllib\.parse\b": "quotes a file name in the address of a picture; opens nothing",
    r"\brequests\b": "requests to this pack's routes and to renderers; a package that insightface needs",
    r"\bfrom aiohttp import web\b|handler for aiohttp|\"aiohttp>=": "answers of ComfyUI's own server",
    r"import base64|base64\.b64encode|;base64,": "pictures of the training monitor: encoded, never decoded",
    r"\bcpp_extension\b": "the command `build-kernels`, which compiles the renderer for who asks for it",
}
"""Why a hit of `WORDS` stays: a pattern that covers it in its line, and the reason."""
_REASONS = [(re.compile(pattern, re.IGNORECASE), why) for pattern, why in REASONS.items()]
BINARY = {".safetensors", ".jpg", ".jpeg", ".png", ".webp", ".npz"}
TEXT = {".py", ".md", ".json", ".js", ".mjs", ".css", ".txt", ".toml", ".cff", ".cpp", ".h", ".cu", ".cuh"}
BARE = {"LICENSE", "py.typed"}


def word_findings(path: str, text: str) -> tuple[list[Finding], Counter[str]]:
    """Judge a text by its words, wherever they stand.

    Returns:
        What is flagged, and how often each reason lets a word stay.
    """
    found, reasons = [], Counter[str]()
    for number, line in enumerate(text.splitlines(), 1):
        flagged = [
            Finding(path, number, f"{hit[0].strip()}: {why}")
            for pattern, why in _TRIPWIRES
            for hit in pattern.finditer(line)
        ]
        found += flagged
        for hit in () if flagged else WORDS.finditer(line):
            why = _reason(line, hit)
            if why:
                reasons[why] += 1
            else:
                found.append(Finding(path, number, f"{hit[0]}: no pattern of REASONS covers it"))
    return found, reasons


def _reason(line: str, hit: re.Match[str]) -> str:
    """Return why a hit may stay: the pattern of a reason covers it. An empty text if none does."""
    for pattern, why in _REASONS:
        for cover in pattern.finditer(line):
            if cover.start() <= hit.start() and hit.end() <= cover.end():
                return why
    return ""


def findings(root: Path = ROOT) -> tuple[list[Finding], Counter[str]]:
    """Judge every file of the archive.

    Returns:
        Findings in the order of the files, and the count of words that stay for each reason.
    """
    found: list[Finding] = []
    reasons: Counter[str] = Counter()
    for path in published(root):
        name = Path(path)
        if name.suffix in BINARY:
            continue
        if name.suffix not in TEXT and name.name not in BARE:
            found.append(Finding(path, 1, "a kind of file that the archive does not need: see .comfyignore"))
            continue
        text = (root / path).read_text(encoding="utf-8")
        if name.suffix == ".py":
            found += syntax_findings(path, text)
        flagged, stay = word_findings(path, text)
        found += flagged
        reasons += stay
    return found, reasons


def largest(root: Path = ROOT) -> str:
    """Return the size of the archive and its largest files as text."""
    by_size = sizes(root)
    lines = [f"{sum(by_size.values()) / 1e6:.2f} MB in {len(by_size)} files; at most {LIMIT / 1e6:.1f} MB"]
    lines += [f"  {size / 1e3:9.1f} kB  {path}" for path, size in list(by_size.items())[:LARGEST]]
    return "\n".join(lines)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Check the archive that the registry publishes.")
    parser.add_argument("--out", type=Path, help="write it as a zip file")
    out = parser.parse_args().out
    found, reasons = findings()
    print("\n".join(map(str, found)) or "Nothing is flagged.")
    print("\nWords that stay, and why:")
    print("\n".join(f"{count:5d}  {why}" for why, count in reasons.most_common()))
    print(f"\n{largest()}")
    if out is not None:
        pack(out)
        print(f"\n{out}: {out.stat().st_size / 1e6:.2f} MB compressed")
    return 1 if found or sum(sizes().values()) > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
