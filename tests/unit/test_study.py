"""The study runs from persons to report, skips what it has, and answers claims by its numbers."""

import json

import micro
import pytest
import torch
from real_photos import pack_folder

from my3dgen_core import save_generator


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch, root):
    monkeypatch.syspath_prepend(str(root / "tests" / "benchmarks"))


def test_a_smoke_run_gives_cells_once_and_a_report(tmp_path, capsys):
    pytest.importorskip("anny", reason="the starter's persons need the extra `starter`")
    import study

    save_generator(micro.generator(), tmp_path / "tiny.safetensors")
    out = tmp_path / "study"
    arguments = ["--smoke", "--out", str(out), "--generator", str(tmp_path / "tiny.safetensors")]
    arguments += ["--face-models", str(pack_folder())]
    study.main(arguments)
    rows = study.read_cells(out)
    assert len(rows) == 6
    methods = [row["cell"]["method"] for row in rows]
    assert methods == [*study.PRETRAINED, "LoRA r=1", "full", "LoRA r=1"]
    trained = rows[3]
    assert trained["parameters"] < rows[4]["parameters"]
    assert trained["half"]["bytes"] < trained["bytes"] * 0.7 + 20_000  # a header on top
    assert len(trained["curve"]) == 2
    assert all(-1 <= row["multi-view identity error"]["unaligned"] <= 2 for row in rows)
    assert [yaw for yaw, _ in trained["identity by yaw"]] == list(study.YAWS)
    assert rows[0]["held-out views"]["PSNR dB"] != trained["held-out views"]["PSNR dB"]

    # a line that was cut off: only that cell runs again
    text = (out / study.CELLS).read_text().rstrip()
    (out / study.CELLS).write_text(text[:-100])
    capsys.readouterr()
    study.main(arguments)
    assert capsys.readouterr().out.splitlines() == [f"6/6 {rows[5]['name']}"]
    again = study.read_cells(out)
    assert [row["name"] for row in again] == [row["name"] for row in rows]
    assert again[5]["held-out views"] == rows[5]["held-out views"]

    study.main(["--report", "--out", str(out), "--docs", str(tmp_path / "docs")])
    files = {file.name for file in (tmp_path / "docs").iterdir()}
    assert {"README.md", "parameters.png", "overfitting.png", "figure.png"} <= files
    report = (tmp_path / "docs" / "README.md").read_text()
    assert "Every number here is synthetic" in report
    assert f"{trained['parameters']:,}" in report


def test_the_plan_has_the_main_table_first_and_no_cell_twice():
    import study

    cells = study.plan(False)
    main = cells[: len(study.PERSONS) * 9]
    assert {(cell.photos, cell.cameras, cell.seed, cell.refine) for cell in main} == {(50, "exact", 0, False)}
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.photos for cell in cells} == {50, 20, 10}
    assert {cell.person for cell in study.plan(True)} == {100}


def test_training_gets_noisy_labels_and_cluttered_photos_and_measures_get_neither():
    pytest.importorskip("anny", reason="the starter's persons need the extra `starter`")
    import study

    exact = study.album(100, 2, "exact", "plain", study.SMOKE)
    hard = study.album(100, 2, "noisy", "cluttered", study.SMOKE)
    assert not torch.equal(exact.labels, hard.labels)
    changed = (hard.photos - exact.photos).abs().amax(1)
    assert float((changed > 0.1).float().mean()) > 0.1
    assert float(changed[:, 60:68, 60:68].max()) == 0  # the head is the same
    for name in ("held_photos", "held_cameras", "views", "view_cameras", "depth", "mask"):
        assert torch.equal(getattr(exact, name), getattr(hard, name))


def row(method, psnr, identity=None, person=100, photos=50, **more):
    cell = {"person": person, "method": method, "photos": photos, "cameras": "exact", "steps": 800}
    cell |= {"seed": 0, "refine": False, "background": "plain", "background_weight": 1.0}
    cell |= {key: more.pop(key) for key in list(more) if key in cell}
    views = {"PSNR dB": psnr, "identity": identity, "floaters": more.pop("floaters", None)}
    return {"name": json.dumps(cell), "cell": cell, "held-out views": views, **more}


def answers(rows):
    import study_report

    return [holds for _, holds, _ in study_report.claims(rows)]


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


def test_a_person_of_nvidias_size_takes_what_its_numbers_take():
    import study_report

    # low-rank tensors, biases, noise strengths, decoder; 50 anchors in W; 50 cameras
    assert study_report.full_size() == 2 * (91_110 + 16_582 + 17 + 4_257 + 50 * 512) + 4 * 50 * 25


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
