"""Every IMAGE and MASK input of every node takes what other nodes make, or says what is wrong with it.

A fixed sample runs with the other tests; `make table` runs the whole table.
"""

from __future__ import annotations

from types import ModuleType

import pytest
from input_table import MASKS, PICTURES, Bench, Table
from real_photos import pack_folder


@pytest.fixture(scope="module")
def bench(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Nodes with values for all inputs, and the folder in which they find the face pack."""
    folder = tmp_path_factory.mktemp("table")
    models = folder / "models" / "insightface" / "models"
    models.mkdir(parents=True)
    (models / "pack").symlink_to(pack_folder())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Bench(pack.NODE_CLASS_MAPPINGS)


@pytest.fixture(scope="module")
def pictures(bench: Bench, pack: ModuleType) -> Table:
    return Table(bench, pack.NODE_CLASS_MAPPINGS, "IMAGE")


@pytest.fixture(scope="module")
def masks(bench: Bench, pack: ModuleType) -> Table:
    return Table(bench, pack.NODE_CLASS_MAPPINGS, "MASK")


def test_the_table_has_every_input(pictures: Table, masks: Table) -> None:
    assert len(pictures.inputs) >= 11
    assert len(masks.inputs) >= 9
    for table, names in ((pictures, PICTURES), (masks, MASKS)):
        reached = {pair for name in names for pair in table.sample(name)}
        assert reached == set(table.inputs)


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_kind_is_taken_or_named(pictures: Table, name: str) -> None:
    assert pictures.faults(name, pictures.sample(name)) == []


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_kind_is_taken_or_named(masks: Table, name: str) -> None:
    assert masks.faults(name, masks.sample(name)) == []


@pytest.mark.table
@pytest.mark.slow
@pytest.mark.usefixtures("executor")
def test_the_outcome_depends_on_the_input(pictures: Table, masks: Table) -> None:
    assert pictures.unused() == ["AlignFaces.reference"]  # there is one face to choose from
    assert masks.unused() == []


@pytest.mark.table
@pytest.mark.slow
@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_in_every_input(pictures: Table, name: str) -> None:
    assert pictures.faults(name, pictures.inputs) == []


@pytest.mark.table
@pytest.mark.slow
@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_in_every_input(masks: Table, name: str) -> None:
    assert masks.faults(name, masks.inputs) == []
