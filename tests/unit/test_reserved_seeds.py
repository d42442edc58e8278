"""Starter persons from `RESERVED_SEEDS` on are for acceptance alone: nothing is trained or tuned on them."""

from __future__ import annotations

import ast
import inspect
import json
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import my3dgen_core

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("my3dgen_core", "nodes", "tools", "benchmarks", "studies")
STARTER = ("starter", "persons", "synthetic")  # modules that give `person`
MEGABYTE = {1_000_000, 2**20}  # the large numbers in these programs that are no seeds
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


def programs() -> Iterator[tuple[Path, ast.Module]]:
    for folder in PROGRAMS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def reserved_from() -> int:
    """The constant, wherever in the core it is defined."""
    found = [
        ast.literal_eval(item.value)
        for path, tree in programs()
        if path.is_relative_to(ROOT / "my3dgen_core")
        for item in tree.body
        if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "RESERVED_SEEDS"
    ]
    (seed,) = found
    return seed


RESERVED = reserved_from()


def makes_persons(tree: ast.Module) -> bool:
    """Return whether a program imports the starter's `person`, or says which persons a study takes."""
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom) and (item.module or "").split(".")[-1] in STARTER:
            if any(alias.name == "person" for alias in item.names):
                return True
        elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store) and item.id == "PERSONS":
            return True
    return False


def numbers(tree: ast.Module) -> Iterator[int]:
    """Every whole number in a program, and the value of every sum, product and power of such."""
    for item in ast.walk(tree):
        value = whole_number(item)
        if value is not None:
            yield value


def whole_number(item: ast.AST) -> int | None:
    """The value of an expression of whole numbers; None for every other expression."""
    if isinstance(item, ast.Constant):
        return item.value if type(item.value) is int else None
    if isinstance(item, ast.UnaryOp):
        value = whole_number(item.operand)
        return -value if value is not None and isinstance(item.op, ast.USub) else value
    if isinstance(item, ast.BinOp) and type(item.op) in OPERATORS:
        left, right = whole_number(item.left), whole_number(item.right)
        if left is not None and right is not None:
            value = OPERATORS[type(item.op)](left, right)
            return value if type(value) is int else None
    return None


PERSON_PROGRAMS = {
    path.relative_to(ROOT).as_posix(): tree for path, tree in programs() if makes_persons(tree)
}


def test_the_reserved_seeds_begin_at_9000() -> None:
    assert RESERVED == 9000


def test_the_programs_that_make_persons_are_found() -> None:
    study = "studies/personalization"
    programs = {"tools/demo_identity.py", f"{study}/plan.py", f"{study}/persons.py", "benchmarks/pose.py"}
    assert programs | {"benchmarks/crowd.py"} <= PERSON_PROGRAMS.keys()
    assert sum(name.startswith("my3dgen_core/starter/") for name in PERSON_PROGRAMS) >= 2


@pytest.mark.parametrize("name", PERSON_PROGRAMS)
def test_no_program_names_a_reserved_person_or_draws_one(name: str) -> None:
    """Their seeds are numbers in the program, or given by whoever runs it, and never computed by a call."""
    tree = PERSON_PROGRAMS[name]
    reserved = [value for value in numbers(tree) if value >= RESERVED and value not in MEGABYTE]
    assert reserved == ([RESERVED] if "RESERVED_SEEDS" in ast.unparse(tree) else [])
    for item in ast.walk(tree):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "person":
            parts = [part for argument in item.args for part in ast.walk(argument)]
            assert not any(isinstance(part, ast.Call) for part in parts), ast.unparse(item)


def test_the_study_plans_no_reserved_person() -> None:
    from studies.personalization import plan as study_plan

    plans = (study_plan.plan, study_plan.plan_rates, study_plan.plan_quick, study_plan.plan_smoke)
    cells = [cell for plan in plans for cell in plan()]
    assert len(cells) > 100
    assert max(cell.person for cell in cells) < RESERVED
    assert max(cell.seed for cell in cells) < RESERVED
    assert max(study_plan.PERSONS) < RESERVED > max(study_plan.TUNED_ON)


def test_default_seeds_are_not_reserved(pack: ModuleType) -> None:
    seeds = []
    for name in my3dgen_core.__all__:
        value = getattr(my3dgen_core, name)
        if not (isinstance(value, type) and issubclass(value, Exception)):
            parameters = inspect.signature(value).parameters
            seeds += [parameters["seed"].default] if "seed" in parameters else []
    for node in pack.NODE_CLASS_MAPPINGS.values():
        for group in node.INPUT_TYPES().values():
            seeds += [options["default"] for key, (_, options) in inputs(group) if key == "seed"]
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            seeds += [node["inputs"]["seed"]] if "seed" in node["inputs"] else []
    seeds = [seed for seed in seeds if seed is not inspect.Parameter.empty]
    assert len(seeds) > 20
    assert max(seeds) < RESERVED


def inputs(group: dict) -> list:
    return [(key, value) for key, value in group.items() if isinstance(value, tuple) and len(value) > 1]
