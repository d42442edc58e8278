"""Files are written whole or not at all, on file systems of any kind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from my3dgen_core import Latents, load_latents, save_latents
from my3dgen_core.formats.atomic_file import atomic_path


@pytest.mark.parametrize(
    "refusal", [PermissionError(errno.EPERM, "no"), OSError(errno.ENOTSUP, "not supported")]
)
def test_a_file_system_without_permissions_or_links_keeps_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise refusal

    for name in ("chmod", "fchmod", "chown", "link", "symlink"):
        monkeypatch.setattr(os, name, refused)
    file, ws = tmp_path / "new" / "a.safetensors", torch.randn(2, 3, 4)
    for _ in range(2):  # a new file, and one that is there
        save_latents(Latents(ws), file)
    assert torch.equal(load_latents(file).ws, ws)
    assert os.listdir(file.parent) == ["a.safetensors"]


def test_others_may_read_a_file_where_the_file_system_allows_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as part:
        part.write_text("x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_an_exception_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")

    def fail() -> None:
        with atomic_path(file) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


WRITER = """
import sys, time
from my3dgen_core.formats.atomic_file import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text("half")
    (part.parent / ".tmp-of-a-library").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    file = tmp_path / "a b"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer:
        try:
            assert writer.stdout.readline() == "writing\n"
            for _ in range(2):
                with atomic_path(file) as part:
                    part.write_text("mine")
            assert len(os.listdir(tmp_path)) == 2  # the file, and what the other process is writing
        finally:
            writer.send_signal(signal.SIGKILL)
    with atomic_path(tmp_path / "other") as part:
        part.write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["a b", "other"]
    assert file.read_text() == "mine"


def test_a_part_of_another_machine_goes_after_a_day(tmp_path: Path) -> None:
    for name in (".a.00000000-1.x.part", ".b.00000000-1.x.part", "a.part", ".c.part"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".b.00000000-1.x.part", (0, 0))
    with atomic_path(tmp_path / "new") as part:
        part.write_text("x")
    assert sorted(os.listdir(tmp_path)) == [".a.00000000-1.x.part", ".c.part", "a.part", "new"]
