"""Benchmarks, one program each: `python -m benchmarks.NAME` from the root of the repository (see README.md).

They use fixtures of the tests and the ComfyUI of the tools, so both folders are put on the path here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
