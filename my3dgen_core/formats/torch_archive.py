"""Reader of pickles and of files of torch.save: plain pickles, legacy streams and zip archives.

The zip archive is parsed here and not by `zipfile`: torch writes entries stored, never compressed, and
everything else is refused. An archive then cannot unpack to more than its size, and nothing is extracted to a
path.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from ..common.errors import CheckpointError, quote_untrusted
from .file_kinds import describe_archive, describe_file
from .pickle_interpreter import MAGIC, PickleReader, read_legacy
from .pickle_values import Budget, Storage, make_storage
from .untrusted_file import Blob, DataFile

MOST_ENTRIES, LONGEST_DIRECTORY, LONGEST_PICKLE = 20_000, 4 << 20, 16 << 20
# The root is the name under which the file was written: any text of a path's length, which is never used.
_ROOT = re.compile(r"[^/\x00-\x1f\x7f]{1,1024}")
_PLACED = re.compile(r"(data\.pkl|version|byteorder|data/\d{1,9}|\.\w[\w/]{0,60})", re.ASCII)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield the root value of a pickle or a file of torch.save as inert data (see `pickle_values`).

    Its tensors can be read inside the `with` block.

    Raises:
        CheckpointError: another kind of file, a damaged one, or one that asks for more than tensors and plain
            values.
    """
    if what := describe_file(path):
        raise CheckpointError(what)
    with path.open("rb") as stream:
        file = DataFile(stream, os.fstat(stream.fileno()).st_size)
        start = stream.read(16)
        stream.seek(0)
        if start.startswith(b"PK"):
            yield _read_zip(file)
        elif start.startswith(b"\x80"):
            yield _read_plain(stream, file)
        else:
            raise CheckpointError("is neither a pickle, a file of torch.save nor safetensors.")


def archive_names(path: Path) -> list[str]:
    """Return the names of the entries of a zip archive."""
    with path.open("rb") as stream:
        directory, count, _ = _directory(DataFile(stream, os.fstat(stream.fileno()).st_size))
        return list(_names(directory, count))


def _read_plain(stream: BinaryIO, file: DataFile) -> Any:
    budget = Budget()
    root = PickleReader(stream, file, budget=budget).load()
    if type(root) is int and root == MAGIC:
        stream.seek(0)
        return read_legacy(stream, file, 0, file.size, budget)
    if stream.tell() != file.size:
        raise CheckpointError("goes on after its end. Something was added to it: download it again.")
    return root


def _read_zip(file: DataFile) -> Any:
    entries = _entries(file)
    roots = {name.split("/", 1)[0] for name in entries}
    if len(roots) != 1:
        raise CheckpointError(describe_archive(entries))
    blobs = {name.split("/", 1)[1]: blob for name, blob in entries.items()}
    if "data.pkl" not in blobs:
        raise CheckpointError("is a zip archive without data.pkl: not one of torch.save.")
    if "byteorder" in blobs and blobs["byteorder"].read(16) != b"little":
        raise CheckpointError("was written on a big-endian machine, which is not supported.")
    storages: dict[str, Storage] = {}

    def persistent(saved: object) -> object:
        if type(saved) is not tuple or len(saved) != 5 or saved[0] != "storage":
            raise CheckpointError("uses a persistent id that is not a storage.")
        _, kind, key, _, count = saved
        blob = blobs.get(f"data/{key}") if type(key) is str and len(key) < 10 else None
        if blob is None:
            raise CheckpointError(f"uses storage {quote_untrusted(key)}, which it does not contain.")
        storage = make_storage(file, kind, count)
        if storage.count * storage.dtype.itemsize != blob.length:
            raise CheckpointError("holds a storage of another size than described.")
        storage.offset = blob.offset
        known = storages.setdefault(key, storage)
        if known.dtype != storage.dtype:
            raise CheckpointError("describes one storage in two ways.")
        return known

    pickled = blobs["data.pkl"]
    stream = io.BytesIO(pickled.read(LONGEST_PICKLE))
    root = PickleReader(stream, file, pickled.offset, persistent=persistent, nested=True).load()
    if stream.tell() != pickled.length:
        raise CheckpointError("has a data.pkl that goes on after its end.")
    return root


def _entries(file: DataFile) -> dict[str, Blob]:
    """Return the entries of the central directory by name."""
    directory, count, offset = _directory(file)
    length = len(directory)
    names = list(_names(directory, count))
    if not any(name.endswith("/data.pkl") for name in names) or any("/code/" in name for name in names):
        raise CheckpointError(describe_archive(names))
    found: dict[str, Blob] = {}
    taken: list[tuple[int, int]] = []
    at = 0
    for _ in range(count):
        fields = _unpack("<4s6HL2L5H2L", directory, at)
        signature, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
        packed, size, header = fields[8], fields[9], fields[16]
        name_length, extra_length, comment_length = fields[10:13]
        name = directory[at + 46 : at + 46 + name_length]
        extra = directory[at + 46 + name_length : at + 46 + name_length + extra_length]
        at += 46 + name_length + extra_length + comment_length
        if signature != b"PK\x01\x02" or at > length:
            raise CheckpointError("is a damaged zip archive.")
        size, packed, header = _zip64(extra, size, packed, header)
        text = _check_name(name.decode("utf-8", "replace"))
        if method != 0 or flags & 0x2041 or size != packed:
            raise CheckpointError(
                f"is a zip archive with {quote_untrusted(text)} compressed or encrypted; torch's are not."
            )
        if text in found:
            raise CheckpointError(f"is a zip archive that holds {quote_untrusted(text)} twice.")
        local = _unpack("<4s5H3L2H", file.read(header, 30), 0)
        if local[0] != b"PK\x03\x04" or local[3] != 0 or file.read(header + 30, local[9]) != name:
            raise CheckpointError(f"is a zip archive whose headers disagree about {quote_untrusted(text)}.")
        start = header + 30 + local[9] + local[10]
        if start + size > offset:
            raise CheckpointError("is a zip archive whose entries reach beyond it.")
        if text.endswith("/data.pkl") and zlib.crc32(file.read(start, min(size, LONGEST_PICKLE))) != crc:
            raise CheckpointError("has a damaged data.pkl. Download it again.")
        taken.append((header, start + size))
        found[text] = Blob(file, start, size)
    if at != length:
        raise CheckpointError("is a damaged zip archive.")
    taken.sort()
    if any(end > following for (_, end), (following, _) in pairwise(taken)):
        raise CheckpointError("is a zip archive whose entries overlap.")
    return found


def _names(directory: bytes, count: int) -> Iterator[str]:
    """Yield the names in a central directory."""
    at = 0
    for _ in range(count):
        lengths = _unpack("<28x3H", directory, at)
        yield directory[at + 46 : at + 46 + lengths[0]].decode("utf-8", "replace")
        at += 46 + sum(lengths)


def _check_name(name: str) -> str:
    """Return the name of an entry if torch.save gives such names: the file's own, and a place in it."""
    root, _, place = name.partition("/")
    if not _ROOT.fullmatch(root) or not _PLACED.fullmatch(place) or ".." in place:
        raise CheckpointError(f"holds {quote_untrusted(name)}, which files of torch.save do not.")
    return name


def _directory(file: DataFile) -> tuple[bytes, int, int]:
    """Return the central directory, its number of entries and its offset."""
    start = max(0, file.size - (1 << 16) - 22)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise CheckpointError("is cut off: it begins like a zip archive and does not end like one.")
    _, disk, first, here, count, length, offset, comment = _unpack("<4s4H2LH", tail, at)
    if disk or first or here != count or at + 22 + comment != len(tail):
        raise CheckpointError("is a damaged zip archive.")
    if count == 0xFFFF or length == 0xFFFFFFFF or offset == 0xFFFFFFFF:
        if at < 20:
            raise CheckpointError("is a damaged zip archive.")
        locator = _unpack("<4sLQL", tail, at - 20)
        record = _unpack("<4sQ2H2L4Q", file.read(locator[2], 56), 0)
        if locator[0] != b"PK\x06\x07" or record[0] != b"PK\x06\x06":
            raise CheckpointError("is a damaged zip archive.")
        count, length, offset = record[7:10]
    if offset + length > file.size:
        raise CheckpointError("is cut off: its directory lies beyond its end.")
    if count > MOST_ENTRIES or length > LONGEST_DIRECTORY:
        raise CheckpointError(f"is a zip archive of {count} entries, more than any generator has.")
    return file.read(offset, length), count, offset


def _zip64(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Return the three fields, read from the zip64 extra field where they are all ones (beyond 4 GiB)."""
    values, at = [size, packed, header], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            large = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
            for place, index in enumerate(large):
                values[index] = _unpack("<Q", extra[at + 4 : at + 4 + length], 8 * place)[0]
            break
        at += 4 + length
    return values[0], values[1], values[2]


def _unpack(form: str, data: bytes, at: int) -> tuple[Any, ...]:
    if at + struct.calcsize(form) > len(data):
        raise CheckpointError("is a damaged zip archive.")
    return struct.unpack_from(form, data, at)
