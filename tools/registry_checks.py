"""Checks of the published archive by others: `comfy node validate` of comfy-cli, and nodesafe.

    python tools/registry_checks.py            # run them; the first time, install them
    python tools/registry_checks.py install    # install them alone, into build/registry_checks

comfy-cli brings its own ruff, uv and more, so both have a virtual environment of their own. They run with an
empty home folder and with telemetry off. Exits with 1 if anything is found without a reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import archive

HOME = archive.ROOT / "build" / "registry_checks"
PACKAGES = ("comfy-cli==1.23.0", "nodesafe==0.6.0")
BIN = "Scripts" if os.name == "nt" else "bin"
NODESAFE_REASONS: list[tuple[str, str, str]] = [
    ("code_execution", r"\bre\.compile\(", "a regular expression"),
    ("obfuscation_chains", r"[Rr]ecord\(", "`ord(` inside of `record(`"),
    ("obfuscation_chains", r"lambda _: self\._forget\(\)", "a weak reference's function of one argument"),
    (
        "obfuscation_chains",
        r"\"_codecs\.encode\": _encode",
        "a name in NumPy's pickles, not called",
    ),
    ("dynamic_attribute_access", r"\bgetattr\(", "fields of dataclasses and numbered layers, by their names"),
    ("code_obfuscation_high_entropy", "", "docstrings and messages: long English texts"),
    ("code_obfuscation_suspicious_ident", "", "short local names"),
    ("info_gathering", r"\bplatform\.machine\(\)", "the processor, in the name of a build of the renderer"),
    (
        "typosquatting",
        r"^(ninja|anny)$",
        "packages of these names exist, and are meant",
    ),
]
"""Category of a finding, a pattern of its line, and why it stays."""


def install() -> Path:
    """Return the folder of the programs; install them first if needed."""
    mark = HOME / "installed.txt"
    if not mark.is_file() or mark.read_text(encoding="utf-8").split() != list(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        pip = [str(HOME / BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        mark.write_text("\n".join(PACKAGES), encoding="utf-8")
    return HOME / BIN


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the programs in a folder, with an empty home folder and without telemetry."""
    bin_folder = install()
    with tempfile.TemporaryDirectory() as home:
        settings = {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "COLUMNS": "200"}
        settings |= {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "NO_COLOR": "1"}
        settings["PATH"] = os.pathsep.join((str(bin_folder), os.environ.get("PATH", "")))
        command = [str(bin_folder / program), *arguments]
        environment = {**os.environ, **settings}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )


def comfy(command: str, folder: Path) -> tuple[int, str]:
    """Run `comfy node <command>` in a folder.

    Returns:
        Exit status, and what it printed.
    """
    done = run("comfy", "--skip-prompt", "--no-enable-telemetry", "node", command, folder=folder)
    return done.returncode, done.stdout + done.stderr


def nodesafe(folder: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Scan a folder with nodesafe.

    Returns:
        Findings without a reason, and how often each reason applied.
    """
    done = run("nodesafe", "scan", str(folder), "--format", "json", folder=folder)
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"nodesafe did not scan: {done.stdout}{done.stderr}")
    found, reasons = [], Counter[str]()
    for finding in json.loads(done.stdout)["findings"]:
        why = _reason(finding)
        if why:
            reasons[why] += 1
        else:
            found.append(finding)
    return found, reasons


def _reason(finding: dict[str, Any]) -> str:
    for category, pattern, why in NODESAFE_REASONS:
        if finding["category"] == category and re.search(pattern, finding["snippet"] or ""):
            return why
    return ""


def main() -> int:
    """Run the command line."""
    if sys.argv[1:] == ["install"]:
        print(install())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        archive.pack(Path(folder) / "node.zip")
        tree = Path(folder) / "node"
        with zipfile.ZipFile(Path(folder) / "node.zip") as packed:
            packed.extractall(tree)
        status, text = comfy("validate", tree)
        found, reasons = nodesafe(tree)
    print(f"comfy node validate, exit status {status}:\n{text.strip()}")
    print("\nnodesafe, what stays and why:")
    print("\n".join(f"{count:5d}  {why}" for why, count in reasons.most_common()))
    print("\nnodesafe, what is left:")
    print("\n".join(f"{f['file']}:{f['line']}: {f['title']}" for f in found) or "nothing")
    return 1 if status or "arning" in text or found else 0


if __name__ == "__main__":
    sys.exit(main())
