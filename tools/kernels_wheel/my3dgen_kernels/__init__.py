"""Compiled CPU renderer of My3DGen for ComfyUI: one library beside this file for each instruction set.

The pack finds this package and loads the library that fits the processor; there is nothing to import.
"""
