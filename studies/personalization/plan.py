"""Plan of the personalization study: cells in the order of their importance, and settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from my3dgen_core import InversionConfig, TuningConfig
from my3dgen_core.evaluation import HELD_OUT
from my3dgen_core.evaluation.protocols import quick
from studies.personalization.rows import MEAN, NEAREST, PIVOTAL

PERSONS, GRID = range(100, 106), (100, 101)
TUNED_ON = (300, 301)  # persons of the learning-rate search, who are in no table
PRETRAINED = (MEAN, NEAREST, PIVOTAL)
TRAINED: dict[str, dict[str, Any]] = {
    "LoRA r=1": {"rank": 1},
    "LoRA r=2": {"rank": 2},
    "LoRA r=4": {"rank": 4},
    "LyCORIS r=1": {"rank": 1, "layout": "lycoris"},
    "LyCORIS r=2": {"rank": 2, "layout": "lycoris"},
    "full": {"method": "full"},
}
RATES: dict[str, tuple[float, ...]] = {  # factors of the default learning rates that are searched
    "LoRA r=1": (0.5, 1.0, 2.0),
    "full": (0.5, 1.0, 2.0, 4.0),
    "LyCORIS r=1": (1.0, 2.0),
    PIVOTAL: (1.0, 0.5, 2.0),
}
OF_LORA, OF_FULL = ("rank", "layout", "trainable", "lr", "affine_lr"), ("full_lr",)
OF_REFINEMENT = ("anchor_lr",)
"""Settings that only affect LoRA, full fine-tuning, and camera refinement."""


CORE = (*PRETRAINED, "LoRA r=1", "LyCORIS r=1", "full")
"""Methods of the main table."""


@dataclass(frozen=True)
class Cell:
    """One training, or one method of the pretrained generator."""

    person: int
    method: str
    photos: int = 50
    cameras: str = "exact"
    steps: int = 800
    seed: int = 0
    refine: bool = False
    background: str = "plain"
    background_weight: float = 1.0
    space: str = "w"
    rate: float = 1.0
    """Factor of all learning rates."""

    @property
    def name(self) -> str:
        """Name of the cell, from all its fields."""
        return "-".join(str(value).replace(" ", "_") for value in asdict(self).values())

    @property
    def thorough(self) -> bool:
        """True for cells of the main table, for which held-out photos and identity are measured too."""
        usual = Cell(self.person, self.method, photos=self.photos, steps=self.steps, rate=self.rate)
        return self == usual and self.person not in TUNED_ON and self.method in CORE

    def config(self) -> TuningConfig:
        """Return the settings of the cell's training."""
        made = TuningConfig(
            steps=self.steps, seed=self.seed, refine=self.refine, preview_every=0,
            background_weight=self.background_weight, **TRAINED.get(self.method, {"method": "full"}),
        )  # fmt: skip
        names = ("lr", "affine_lr", "diff_lr", "full_lr")
        return dataclasses.replace(made, **{name: getattr(made, name) * self.rate for name in names})


@dataclass(frozen=True)
class Settings:
    """Numbers of steps and views of the measurement."""

    inversion: InversionConfig = field(default_factory=InversionConfig)
    """Inversion of the training photos."""
    alone: InversionConfig = field(default_factory=lambda: InversionConfig(steps=300, shared_steps=0))
    """Inversion of a single photo without the others."""
    refined: int = 300
    """Shared steps of an inversion that alternates with camera refinement."""
    held_out: InversionConfig = field(default_factory=lambda: quick(HELD_OUT, 150))
    """Inversion of the held-out photos."""
    pivotal_steps: int = 100
    """Steps of pivotal tuning."""
    orbit: int = 24
    """Frames of the orbit for the multi-view identity error."""
    curve_every: int = 100
    """Steps between two evaluations during a training; their time is not counted."""


SMOKE = Settings(
    inversion=InversionConfig(steps=2, shared_steps=2, rays_per_image=64),
    alone=InversionConfig(steps=2, shared_steps=0, rays_per_image=64),
    held_out=quick(dataclasses.replace(HELD_OUT, rays_per_image=64), 2),
    pivotal_steps=1, orbit=1, curve_every=3,
)  # fmt: skip
QUICK = dataclasses.replace(
    Settings(), alone=InversionConfig(steps=100, shared_steps=0), held_out=quick(HELD_OUT, 50),
    pivotal_steps=50, orbit=6, curve_every=50,
)  # fmt: skip


def set_on(settings: dict[str, Any]) -> dict[str, Any]:
    """Drop settings that are off, so that a new setting that is off leaves earlier rows valid."""
    return {
        name: set_on(value) if isinstance(value, dict) else value for name, value in settings.items() if value
    }


def stamp(base_hash: str, settings: Settings, cell: Cell) -> str:
    """Return the hash of the generator and settings that a cell's row depends on; other rows are outdated."""
    trained = {} if cell.method in (MEAN, NEAREST) else set_on(cell.config().fingerprint_settings)
    idle = OF_LORA if trained.get("method") == "full" else OF_FULL
    for name in idle if cell.refine else (*idle, *OF_REFINEMENT):
        trained.pop(name, None)
    measured = set_on(asdict(settings))
    if not cell.refine:
        measured.pop("refined", None)
    made_with = json.dumps([base_hash, measured, trained], sort_keys=True)
    return hashlib.sha256(made_with.encode()).hexdigest()[:12]


def plan(rates: dict[str, float] | None = None) -> list[Cell]:
    """Return all cells, the most important first, so that the plan can be interrupted anywhere.

    Args:
        rates: factor of the learning rates, by method.
    """
    trained, ranks = ("LoRA r=1", "full"), ("LoRA r=2", "LoRA r=4", "LyCORIS r=2")
    first = PERSONS[0]
    cells = [Cell(first, "LoRA r=1", steps=6000)]  # first, because it takes longest
    cells += [Cell(person, m) for person in PERSONS for m in (*trained, MEAN, NEAREST)]
    cells += [Cell(person, m) for person in PERSONS for m in ("LyCORIS r=1", PIVOTAL)]
    for person in GRID:
        cells += [Cell(person, "LoRA r=1", cameras="noisy", refine=refine) for refine in (False, True)]
        cells += [Cell(person, m, photos=photos) for photos in (10, 20) for m in trained]
        cells += [
            Cell(person, "LoRA r=1", background="cluttered", background_weight=weight)
            for weight in (1.0, 0.3, 0.05)
        ]
        cells += [Cell(person, m) for m in ranks]
        cells += [Cell(person, m, seed=seed) for seed in (1, 2) for m in trained]
        if person == first:
            cells += [Cell(person, m, steps=1000) for m in trained]
        cells.append(Cell(person, "LoRA r=1", space="w+"))
        cells += [Cell(person, m, photos=photos) for photos in (10, 20) for m in (MEAN, NEAREST)]
    for person in GRID:
        cells += [Cell(person, "LoRA r=1", refine=True)]
        cells += [Cell(person, "LoRA r=1", background_weight=weight) for weight in (0.3, 0.05)]
        cells.append(Cell(person, "full", cameras="noisy"))
        for photos in (20, 10):
            cells += [Cell(person, "LoRA r=1", photos, "noisy", refine=refine) for refine in (False, True)]
    cells += [Cell(person, m) for m in ranks for person in PERSONS]
    return [dataclasses.replace(c, rate=rate_of(c, rates or {})) for c in dict.fromkeys(cells)]


def plan_rates(steps: int = 400) -> list[Cell]:
    """Return the cells of the learning-rate search, on persons that are in no table."""
    first, *others = TUNED_ON
    cells = [Cell(first, method, steps=steps, rate=factor) for method in RATES for factor in RATES[method]]
    kinds = [method for method in RATES if method != PIVOTAL]
    return cells + [
        Cell(person, method, steps=steps, rate=factor)
        for person in others
        for method in kinds
        for factor in RATES[method]
    ]


def plan_quick() -> list[Cell]:
    """Return a few cells of one person, which take minutes."""
    methods = (*PRETRAINED, "LoRA r=1", "LyCORIS r=1", "full")
    return [Cell(PERSONS[0], method, photos=10, steps=100) for method in methods]


def plan_smoke() -> list[Cell]:
    """Return cells of a few steps, as a test of the program."""
    cells = [Cell(PERSONS[0], m, photos=3, steps=4) for m in (MEAN, PIVOTAL, "LoRA r=1", "full")]
    hard: dict[str, Any] = {"cameras": "noisy", "refine": True, "background": "cluttered", "space": "w+"}
    return [*cells, Cell(PERSONS[0], "LoRA r=1", photos=3, steps=4, background_weight=0.3, **hard)]


def rate_of(cell: Cell, rates: dict[str, float]) -> float:
    """Return a method's factor of the learning rates; other ranks take the factor of their layout at rank 1.

    Cells with cluttered backgrounds use the default rates: twice those diverge.
    """
    if cell.background == "cluttered":
        return 1.0
    return rates.get(cell.method, rates.get(f"{cell.method.split()[0]} r=1", 1.0))
