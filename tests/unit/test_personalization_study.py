"""The study runs from persons to report, skips what it has, and answers claims by its numbers."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import micro
import pytest
import torch
from real_photos import pack_folder

from my3dgen_core import InversionConfig, save_generator
from my3dgen_core.fitting.trainer import DivergedError


@pytest.fixture(scope="module")
def persons(tmp_path_factory, root):
    pytest.importorskip("anny", reason="the starter's persons need the extra `starter`")
    from studies.personalization import persons as study_persons

    folder = tmp_path_factory.mktemp("study") / "persons"
    study_persons.main(["100", "--out", str(folder), "--resolution", "32", "--photos", "3"])
    return folder


def test_a_smoke_run_gives_cells_once_and_a_report(tmp_path, capsys, persons):
    from studies.personalization import __main__ as study
    from studies.personalization import plan as study_plan

    save_generator(micro.generator(), tmp_path / "tiny.safetensors")
    out = tmp_path / "study"
    shutil.copytree(persons, out / "persons")
    arguments = ["--smoke", "--out", str(out), "--generator", str(tmp_path / "tiny.safetensors")]
    arguments += ["--arcface", str(pack_folder())]
    study.main(arguments)
    rows = study.read_cells(out / study.CELLS)
    assert len(rows) == 5
    methods = [row["cell"]["method"] for row in rows]
    assert methods == [study_plan.MEAN, study_plan.PIVOTAL, "LoRA r=1", "full", "LoRA r=1"]
    trained = rows[2]
    assert trained["parameters"] < rows[3]["parameters"]
    assert trained["half"]["bytes"] < trained["bytes"] * 0.7 + 20_000  # a header on top
    assert len(trained["curve"]) == 2
    assert all(-1 <= row["multi-view identity error"]["unaligned"] <= 2 for row in rows[:4])
    assert "multi-view identity error" not in rows[4]  # of the grid, which does without
    assert [yaw for yaw, _ in trained["identity by yaw"]] == list(study.YAWS)
    assert rows[0]["held-out views"]["PSNR dB"] != trained["held-out views"]["PSNR dB"]
    assert all(row["truth"]["identity"] > 0.5 for row in rows)

    # a line that was cut off: only that cell runs again
    text = (out / study.CELLS).read_text().rstrip()
    (out / study.CELLS).write_text(text[:-100])
    capsys.readouterr()
    study.main(arguments)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"5/5 {rows[4]['name']}"]
    again = study.read_cells(out / study.CELLS)
    assert [row["name"] for row in again] == [row["name"] for row in rows]
    assert again[4]["held-out views"] == rows[4]["held-out views"]

    study.main(["--report", *arguments, "--docs", str(tmp_path / "docs")])
    files = {file.name for file in (tmp_path / "docs").iterdir()}
    assert {"README.md", "parameters.png", "overfitting.png", "figure.jpg"} <= files
    report = (tmp_path / "docs" / "README.md").read_text()
    assert "Every number and picture here is synthetic" in report
    assert f"{trained['parameters']:,}" in report


def test_workers_share_the_cells(tmp_path):
    from studies.personalization import plan as study_plan
    from studies.personalization import work as study_work

    measured = []

    def measure(cell):
        measured.append(cell.name)
        if cell.method == "full":
            raise DivergedError("The loss became nan.", None)
        time.sleep(0.01)  # lets the other worker in
        return {"held-out views": {"PSNR dB": 20.0}}

    cells, file = study_plan.plan()[:12], tmp_path / "cells.jsonl"
    arguments = measure, lambda cell: "stamp", cells, file, time.time() + 60
    with ThreadPoolExecutor() as workers:
        for done in [workers.submit(study_work.work, *arguments) for _ in range(3)]:
            done.result()
    assert sorted(measured) == sorted(cell.name for cell in cells)
    rows = study_work.read_cells(file)
    assert sorted(row["name"] for row in rows) == sorted(measured)
    assert {"diverged" in row for row in rows if row["cell"]["method"] == "full"} == {True}


def test_a_row_is_out_of_date_with_its_own_settings_alone():
    from studies.personalization import plan as study_plan
    from studies.personalization.plan import Cell, Settings

    def stamp(method, settings=None, **changes):
        return study_plan.stamp("base", settings or Settings(), Cell(100, method, **changes))

    usual = {method: stamp(method) for method in (study_plan.MEAN, "LoRA r=1", "full")}
    assert stamp("LoRA r=1", rate=2.0) != usual["LoRA r=1"]
    assert stamp(study_plan.MEAN, rate=2.0) == usual[study_plan.MEAN]  # nothing is trained
    other = Settings(inversion=InversionConfig(steps=26))
    assert all(stamp(method, other) != usual[method] for method in usual)
    rows = [{"name": "a", "cell": {"person": 100, "method": m}, "stamp": s} for m, s in usual.items()]
    from studies.personalization import work as study_work

    kept = study_work.valid(rows, lambda cell: usual["full"] if cell.method == "full" else "another")
    assert [row["cell"]["method"] for row in kept] == ["full"]


def test_the_plan_has_the_main_table_first_and_no_cell_twice():
    from studies.personalization import plan as study_plan

    cells = study_plan.plan({"LoRA r=1": 0.5, "full": 2.0})
    longest, main = cells[0], cells[1 : 1 + len(study_plan.PERSONS) * 4]
    assert longest.steps == 6000  # begun first: the others are measured beside it
    assert {(cell.photos, cell.cameras, cell.seed, cell.refine) for cell in main} == {(50, "exact", 0, False)}
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.photos for cell in cells} == {50, 20, 10}
    assert {cell.person for cell in study_plan.plan_quick()} == {100}
    rates = {cell.method: cell.rate for cell in cells}
    assert rates["LoRA r=4"] == 0.5  # as its layout at rank 1
    assert rates["LyCORIS r=2"] == 1.0
    assert next(cell for cell in cells if cell.method == "full").config().full_lr == pytest.approx(4e-3)
    tuned_on = {cell.person for cell in study_plan.plan_rates()}
    assert not tuned_on & set(study_plan.PERSONS)


def test_the_best_rate_is_that_of_the_mean_person():
    from studies.personalization import __main__ as study

    def rate(method, person, factor, psnr):
        cell = {"method": method, "person": person, "rate": factor}
        return {"cell": cell, "held-out views": {"PSNR dB": psnr}}

    rows = [
        rate("full", 300, factor, psnr)
        for factor, psnr in ((0.5, 20.0), (1.0, 21.0), (2.0, 20.5), (4.0, 20.1))
    ]
    assert study.best_rates(rows) == {"full": 1.0}
    rows += [
        rate("full", 301, factor, psnr)
        for factor, psnr in ((0.5, 20.0), (1.0, 20.1), (2.0, 22.0), (4.0, 20.0))
    ]
    assert study.best_rates(rows) == {"full": 2.0}
    assert study.best_rates(rows[:2]) == {}  # one factor is missing yet


def test_training_gets_noisy_labels_and_cluttered_photos_of_the_same_head(persons):
    from studies.personalization import persons as study_persons

    person = study_persons.read(persons / "100.npz")
    assert not torch.equal(person.cameras, person.noisy)
    changed = (person.cluttered - person.photos).abs().amax(1)
    assert float((changed > 0.1).float().mean()) > 0.1
    assert float(changed[:, 15:17, 15:17].max()) == 0  # the head is the same


def test_persons_are_read_as_they_were_seen(persons):
    from my3dgen_core.starter import person
    from studies.personalization import persons as study_persons

    images, depth, mask = person(100).render(study_persons.read(persons / "100.npz").view_cameras, 32)
    kept = study_persons.read(persons / "100.npz")
    assert float((kept.views - images).abs().max()) < 1 / 127
    assert float((kept.depth - depth).abs().max()) < 1e-4
    assert float((kept.mask - mask).abs().max()) < 1 / 255


def test_space_that_the_views_prove_empty_holds_no_part_of_the_head(persons):
    from studies.personalization import measures as study_measures
    from studies.personalization import persons as study_persons

    person = study_persons.read(persons / "100.npz")
    empty = study_measures.empty_space(person, 0.05)
    assert len(empty) > 10_000
    assert float((empty - person.landmarks.mean(0)).norm(dim=1).min()) > 0.05  # the middle of the face
    assert float(torch.cdist(person.landmarks, empty).min()) > 0.02
    assert float((empty.norm(dim=1) < 0.08).sum()) == 0  # the middle of the head


def row(method, psnr, identity=None, person=100, photos=50, **more):
    cell = {"person": person, "method": method, "photos": photos, "cameras": "exact", "steps": 800}
    cell |= {"seed": 0, "refine": False, "background": "plain", "background_weight": 1.0, "space": "w"}
    cell |= {key: more.pop(key) for key in list(more) if key in cell}
    stray = more.pop("floaters", None)
    views = {"PSNR dB": psnr, "identity": identity, "floaters": stray, "stray density": stray}
    return {"name": json.dumps(cell), "cell": cell, "held-out views": views, **more}


def answers(rows):
    from studies.personalization import claims as study_claims

    return [holds for _, holds, _ in study_claims.claims(rows)]


def test_claims_follow_the_numbers():
    base = [
        row("mean anchor", 20.0, 0.4),
        row("nearest inversion", 21.0, 0.5),
        row("nearest pivotal tuning", 22.0, 0.55, **{"identity by yaw": [[-45, 0.4], [0, 0.7], [45, 0.4]]}),
    ]
    lora = row("LoRA r=1", 24.0, 0.6, floaters=0.01, **{"identity by yaw": [[-45, 0.5], [0, 0.7], [45, 0.5]]})
    good = [*base, lora, row("full", 24.1, 0.6, floaters=0.02)]
    good += [row("LoRA r=1", 23.0, photos=10), row("full", 22.0, photos=10)]
    good += [row("LoRA r=1", 22.0, cameras="noisy"), row("LoRA r=1", 23.8, cameras="noisy", refine=True)]
    good += [row("LoRA r=1", 24.0, steps=n, train={"loss": x}) for n, x in ((1000, 0.101), (6000, 0.1))]
    good += [row("LyCORIS r=1", 24.0, 0.6, half={"PSNR dB": 23.95, "identity": 0.598, "bytes": 100_000})]
    assert answers(good) == ["yes"] * 8
    assert answers(base) == ["not measured"] * 8
    bad = [*base, row("LoRA r=1", 21.5, 0.6, floaters=0.03), row("full", 24.1, 0.6, floaters=0.02)]
    bad += [row("LoRA r=1", 21.0, photos=10), row("full", 22.0, photos=10)]
    found = answers(bad)
    assert [found[i] for i in (0, 1, 2, 7)] == ["no"] * 4


def test_a_run_of_fewer_steps_than_asked_for_can_only_refute():
    def five(*losses):
        rows = [row("LoRA r=1", 24.0, steps=n, train={"loss": x}) for n, x in losses]
        return answers(rows)[4]

    assert five((1000, 0.12), (2000, 0.1)) == "no"
    assert five((1000, 0.101), (2000, 0.1)) == "not measured"
    assert five((1000, 0.101), (2000, 0.1), (6000, 0.1)) == "yes"


def test_a_person_of_nvidias_size_takes_what_its_numbers_take():
    from studies.personalization import claims as study_claims

    # biases, noise strengths, decoder; 50 anchors in W; 50 cameras
    others = 2 * (16_582 + 17 + 4_257 + 50 * 512) + 4 * 50 * 25
    names = 40_000  # at most, of tensors, with their places
    assert 0 < study_claims.full_size("lycoris", "float16") - others - 2 * 91_110 < names
    assert 0 < study_claims.full_size("released", "int8") - others - (240_030 - 20_856) < names


def test_a_claim_about_every_person_falls_with_one():
    rows = []
    for person, best in ((100, 22.0), (101, 25.0)):
        for method, psnr in (
            ("mean anchor", 20),
            ("nearest inversion", 21),
            ("nearest pivotal tuning", best),
        ):
            rows.append(row(method, psnr, person=person))
        rows.append(row("LoRA r=1", 24.0, person=person))
    assert answers(rows)[0] == "no"
    alone = [one for one in rows if one["cell"]["person"] == 100]
    assert answers(alone)[0] == "in part"  # identity was not measured
    for one in alone:
        one["held-out views"]["identity"] = 0.6 if one["cell"]["method"] == "LoRA r=1" else 0.5
    assert answers(alone)[0] == "yes"


def test_the_committed_page_is_what_its_cells_give(tmp_path, root):
    from studies.personalization import __main__ as study

    folder = root / "studies" / "personalization"
    for name in ("why.md", "figure.jpg"):  # by hand, and drawn from pictures that are not committed
        shutil.copy(folder / name, tmp_path / name)
    study.main(["--report", "--out", str(folder), "--docs", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == (folder / "README.md").read_text()
