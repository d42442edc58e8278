"""Inputs that may be left to the generator: steps, rates, refinement, background weight, wall.

A value that means nothing else, such as 0 steps, stands for "auto": the generator's `Recipe` chooses
(`my3dgen_core.fitting.recipe`, where the values are).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from . import socket_types

if TYPE_CHECKING:
    from ..my3dgen_core import Generator, TuningConfig

AUTO, ON, OFF = "auto", "on", "off"
"""Choices of an input that switches a refinement."""
NO_CUT, AUTO_CUT = -1.0, -2.0
"""Values of `cut_behind` without a cut, and for the generator's own."""
ANY = {"*", "COMFY_MATCHTYPE_V3"}
"""Types of wires that fit every input."""
LEAST_RATE = 1e-9
"""Least learning rate that is meant as one."""
Value = TypeVar("Value", int, float)


def steps(most: int, tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a number of steps from 1 to `most`; 0 is auto."""
    return "INT", {"default": 0, "min": 0, "max": most, "tooltip": f"{tooltip} 0: auto, by the generator."}


def shared_steps(most: int, tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a number of steps from 0 to `most`; -1 is auto."""
    options = {"default": -1, "min": -1, "max": most}
    return "INT", options | {"tooltip": f"{tooltip} -1: auto, by the generator; none for a single photo."}


def learning_rate(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a learning rate up to 1; 0 is auto.

    The page cuts numbers to the digits of `step` and `round`, and a rate cut to 0 would be auto.
    """
    options = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 1e-5, "round": 1e-5}
    return "FLOAT", options | {"tooltip": f"{tooltip} 0: auto, by the generator."}


def background_weight(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a weight from 0 to 1; -1 is auto."""
    options = {"default": -1.0, "min": -1.0, "max": 1.0, "step": 0.05}
    return "FLOAT", options | {"tooltip": f"{tooltip} -1: auto, by the generator and the cameras."}


def cut_behind(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a plane at z up to 0.5; -1 is no cut, and -2 is auto."""
    options = {"default": AUTO_CUT, "min": AUTO_CUT, "max": 0.5, "step": 0.01}
    return "FLOAT", options | {"tooltip": f"{tooltip} -1: no cut. -2: auto, by the generator."}


def refinement(tooltip: str) -> tuple[list[str], dict[str, Any]]:
    """Return the declaration of a refinement that is on, off or auto."""
    tooltip = f"{tooltip} 'auto': by the generator, where the cameras are not exact."
    return [AUTO, ON, OFF], {"default": AUTO, "tooltip": tooltip}


def seed(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the declaration of a seed."""
    options = {"default": 0, "min": 0, "max": 2**53, "control_after_generate": False}
    return "INT", options | {"tooltip": tooltip}


def check(node: Any, name: str, given: Any, wired: Mapping[str, str] | None) -> bool | str:
    """Return True if a node's inputs can be used, else what is wrong, for its VALIDATE_INPUTS.

    A refinement takes what it took as a BOOLEAN: True, False, and the wire of one. ComfyUI leaves the types
    of all wires to a node that asks for them, so those are checked too.

    Args:
        node: the node's class.
        name: name of its refinement.
        given: the value of it, None if it is wired.
        wired: type of each wire, by the name of the input.
    """
    if given not in (None, AUTO, ON, OFF, True, False):
        return f"{given!r} is none of {AUTO}, {ON} and {OFF}."
    declared = node.INPUT_TYPES()
    inputs = declared["required"] | declared["optional"]
    for field, kind in (wired or {}).items():
        wanted = inputs[field][0]
        takes = {"COMBO"} if isinstance(wanted, list) else {wanted}
        takes |= {"BOOLEAN"} if field == name else set()
        given_types = set(kind.split(",")) if isinstance(kind, str) else {"COMBO"}
        if not given_types & (takes | ANY):
            return f"Return type mismatch between linked nodes: {field} takes {wanted}, not {kind}."
    return True


class AutoValues:
    """Values for the inputs of one run, and a text of those that the generator chose."""

    def __init__(self, generator: Generator, camera_source: str | None = None) -> None:
        """Find the generator's recipe.

        Args:
            generator: the generator.
            camera_source: "exact" or "estimated", where the cameras come from; None: unknown.
        """
        from ..my3dgen_core import recipe_of

        self.recipe = recipe_of(generator)
        self.exact = camera_source == socket_types.EXACT
        self._cameras = f"{camera_source or 'unknown'} cameras"
        self._chosen: list[str] = []
        self._by_cameras = False

    def number(self, name: str, given: Value, least: float, auto: Value) -> Value:
        """Return the given number, or `auto` if it is below `least`, the least that a user can mean."""
        if given >= least:
            return given
        self._chosen.append(f"{name} {auto:g}")
        return auto

    def switch(self, name: str, given: str | bool) -> bool:
        """Return whether a refinement is on; True and False are those of workflows saved as a BOOLEAN."""
        if given != AUTO:
            return given in (ON, True)
        chosen = self.recipe.refines(self.exact)
        self._chosen.append(f"{name} {ON if chosen else OFF}")
        self._by_cameras = True
        return chosen

    def background(self, given: float) -> float:
        """Return the weight of the background."""
        self._by_cameras |= given < 0
        return self.number("background_weight", given, 0.0, self.recipe.weight_of_background(self.exact))

    def cut(self, given: float) -> float | None:
        """Return the z of the plane behind which everything is background, or None without a cut."""
        if given >= NO_CUT:
            return given if given > NO_CUT else None
        if self.recipe.cut_behind is not None:
            self._chosen.append(f"cut_behind {self.recipe.cut_behind:g}")
        return self.recipe.cut_behind

    def tuning(self, base: TuningConfig, steps: int, rate: float) -> TuningConfig:
        """Return a recipe's settings of a training, with the steps and the rate that were given.

        Args:
            base: the recipe's settings.
            steps: the input `steps`.
            rate: the input `learning_rate`.
        """
        steps = self.number("steps", steps, 1, base.steps)
        rate = self.number("learning_rate", rate, LEAST_RATE, base.lr)
        return replace(base.with_rate(rate), steps=steps)

    def __str__(self) -> str:
        """Say what was chosen, such as "auto (starter): steps 400, learning_rate 0.01"; "" if nothing was."""
        if not self._chosen:
            return ""
        by = f"{self.recipe.name}, {self._cameras}" if self._by_cameras else self.recipe.name
        return f"auto ({by}): {', '.join(self._chosen)}"
