"""Benchmarks: `python -m benchmarks.NAME` from the root of the repository; each says what it measures.

They share fixtures with the tests and the ComfyUI with the tools: both folders are put on the path here, once.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
