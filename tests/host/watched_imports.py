"""A prestartup script for the tests: writes down every module that is first imported while our pack is.

ComfyUI runs it before any node pack. `imported_by_the_pack.txt` in the base folder gets a module a line.
"""

import sys
from pathlib import Path
from types import FrameType

BASE = Path(__file__).absolute().parents[2]
FILE = str(BASE / "custom_nodes" / "my3dgen" / "__init__.py")
LIST = BASE / "imported_by_the_pack.txt"


def _by_the_pack(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == FILE and frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def _watch(event: str, arguments: tuple) -> None:
    if event == "import" and _by_the_pack(sys._getframe(1)):
        with LIST.open("a", encoding="utf-8") as file:
            file.write(f"{arguments[0]}\n")


sys.addaudithook(_watch)
