"""Builds files that mean harm, each small and different. Only the pack's own reader may ever open them.

`hostile_files()` gives (name, bytes). What they try to run would create the file that the variable CANARY
names.
"""

from __future__ import annotations

from hostile_containers import damaged, safetensors_files, zips
from hostile_modules import bombs, settings
from hostile_pickles import arguments, calls, opcodes


def hostile_files() -> list[tuple[str, bytes]]:
    """Every file, by a name that says what it tries."""
    makers = (calls, opcodes, arguments, bombs, settings, safetensors_files, zips, damaged)
    return [file for maker in makers for file in maker()]
