"""Build the compiled renderer by its command, with the programs of this Python's environment on the path.

    python tools/build_renderer.py

Tests and demo use it. Without a compiler or ninja a message says so, and PyTorch renders.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m my3dgen_core build-kernels` with these arguments."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return subprocess.run(
        [sys.executable, "-m", "my3dgen_core", "build-kernels", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
    )


def last_line(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that the command wrote: that the renderer is ready, or why it is not."""
    return (ran.stdout or ran.stderr).strip().splitlines()[-1]


if __name__ == "__main__":
    print(last_line(build()))
