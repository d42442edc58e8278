"""Store of many identities: a folder of files, and an index that finds, checks and serves them.

The files are the truth: tags and the time of `add` are in their metadata. The index is an SQLite file that is
rebuilt from the folder whenever it is missing or damaged, so it can be deleted at any time.

The hash that is checked is the SHA-256 of a file's bytes. It is recorded by `add` and at the first read, and
compared whenever the file is read again while its size and modification time are as they were. A file whose
size or time has changed counts as a new version, and its hash is recorded again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sqlite3
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..common.errors import CheckpointError
from ..common.folders import Folder, find_below, is_hidden, read_folder, readable, walk
from ..formats.safetensors_file import (
    is_safetensors,
    read_metadata,
    read_safetensors,
    sha256,
    write_safetensors,
)
from .identity import FORMAT, Identity

log = logging.getLogger("my3dgen")

INDEX = ".my3dgen_index.sqlite"
"""Name of the index in the folder of the identities; it is hidden, so no list shows it."""
CACHE_BYTES = 256 << 20
"""Bytes of loaded identities that a store keeps, about 250 of the paper's rank 1."""
BUSY_SECONDS = 10.0
"""Seconds to wait for another process that writes to the index."""
CLOCK_TICK = 2 * 10**9
"""Nanoseconds within which a file system may give two changes of a folder the same time."""
MOST_TAGS, LONGEST_TAG, LONGEST_NAME = 32, 64, 200
"""Tags of an identity, characters of a tag, and bytes of a part of a name."""
_VERSION = 1
_TABLE = """
CREATE TABLE identities (
    name TEXT PRIMARY KEY, folder TEXT NOT NULL, words TEXT NOT NULL, bytes INTEGER NOT NULL,
    modified INTEGER NOT NULL, created REAL NOT NULL,
    base_hash TEXT, tags TEXT, sha256 TEXT, content_hash TEXT
) WITHOUT ROWID
"""
_INDEXES = (
    "CREATE INDEX by_folder ON identities (folder)",
    "CREATE INDEX by_time ON identities (modified)",
    "CREATE INDEX unread ON identities (name) WHERE tags IS NULL",
)
_COLUMNS = "name, bytes, modified, created, base_hash, tags, sha256, content_hash"


@dataclass(frozen=True)
class StoredIdentity:
    """Entry of an `IdentityStore`."""

    name: str
    """Path of the file relative to the folder, with `/`: the id of the identity in the store."""
    nbytes: int
    """Size of the file in bytes."""
    modified: int
    """Modification time of the file in nanoseconds since the epoch."""
    created: float
    """Seconds since the epoch: when `add` wrote it, or the modification time of a file from elsewhere."""
    base_hash: str | None = None
    """`Identity.base_hash`; None for a file that has not been looked into, or is no identity file."""
    tags: tuple[str, ...] = ()
    """Tags, sorted."""
    sha256: str | None = None
    """SHA-256 of the file's bytes; None until it has been read."""
    content_hash: str | None = None
    """`Identity.content_hash`; None until it has been loaded."""


class IdentityStore:
    """A folder of identity files, searched through an index and loaded through a bounded cache.

    Files that are copied into the folder or removed from it by other means are noticed. Several processes can
    use one folder; where they run on several machines, give each an index of its own, because SQLite's
    write-ahead log needs one machine. Thread-safe.

    Args:
        folder: the folder; subfolders and links in it belong to it. `add` makes it.
        index: file of the index; None: `.my3dgen_index.sqlite` in the folder. Where it cannot be written, it
            is kept in memory.
        cache_bytes: limit of the tensors of loaded identities that are kept, the least recently used dropped
            first; 0: none are kept.
        extensions: endings of the files that belong to it, in lower case.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        index: str | os.PathLike[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        extensions: Iterable[str] = (".safetensors",),
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.index = self.folder / INDEX if index is None else Path(index)
        self.cache_bytes, self.extensions = cache_bytes, frozenset(extensions)
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._folders: dict[str, tuple[int, Folder]] = {}
        self._loaded: OrderedDict[str, tuple[tuple[int, int], Identity]] = OrderedDict()
        self._loaded_bytes = 0

    def close(self) -> None:
        """Close the index and forget the loaded identities; the next call opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None
            self._folders.clear()
            self._loaded.clear()
            self._loaded_bytes = 0

    # --- Files --------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return the file of an identity.

        Raises:
            FileNotFoundError: there is none of this name, or the name leads outside the folder.
        """
        found = None
        hidden = "\0" in name or is_hidden(name.replace("\\", "/"))
        if not hidden and Path(name).suffix.lower() in self.extensions:
            with suppress(OSError):  # a name that is too long
                found = find_below(self.folder, name)
        if found is None or not found.is_file():
            raise FileNotFoundError(
                f"There is no identity {readable(name)!r} in {self.folder}. Search the store for its name."
            )
        return found

    def get(self, name: str) -> Identity:
        """Return an identity, from the cache if its file has not changed.

        The result is shared with other callers: do not change it.

        Raises:
            FileNotFoundError: no such identity.
            CheckpointError: not an identity, or a file whose bytes have changed while its size and
                modification time have not.
        """
        exact = self._plain_path(name)
        file = exact if exact is not None and os.path.isfile(exact) else self.path(name)
        name = file.relative_to(self.folder).as_posix()
        with self._lock:
            stamp = _stamp(file)
            kept = self._loaded.get(name)
            if kept is not None and kept[0] == stamp:
                self._loaded.move_to_end(name)
                return kept[1]
            self._forget(name)
            row = self._row(name)
        known = row.sha256 if row is not None and (row.modified, row.nbytes) == stamp else None
        found = sha256(file)
        with torch.inference_mode(False):
            identity = Identity.load(file)
        if _stamp(file) != stamp:
            raise CheckpointError(f"{readable(name)} was replaced while it was read. Load it again.")
        if known is not None and found != known:
            raise CheckpointError(
                f"{readable(name)} is damaged: its bytes have SHA-256 {found[:12]}, but {known[:12]} when it "
                "was stored, with the same size and modification time. Copy it from a backup; if it is meant "
                "to be as it is, give it a new modification time."
            )
        if known is None:
            entry = replace(self._described(name, file), sha256=found, content_hash=identity.content_hash())
            with self._changing():
                self._insert([entry])
        with self._lock:
            self._keep(name, stamp, identity)
        return identity

    def add(
        self,
        identity: Identity,
        name: str,
        tags: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
    ) -> StoredIdentity:
        """Write an identity into the folder, atomically.

        Args:
            identity: the identity; it is not changed.
            name: path relative to the folder, with `/`; `.safetensors` is added if it is missing.
            tags: words or phrases to find it by; case is ignored when searching.
            dtype: as in `Identity.save`.
            overwrite: replace a file of this name.

        Raises:
            ValueError: a name that leads outside the folder or that some file system refuses, or a bad tag.
            FileExistsError: there is one of this name, and `overwrite` is False.
        """
        name = name if name.lower().endswith(".safetensors") else f"{name}.safetensors"
        file, tags = self._new_path(name), _checked_tags(tags)
        provenance = {**identity.provenance, "created": time.time()}
        provenance.pop("tags", None)
        if tags:
            provenance["tags"] = list(tags)
        with self._changing():  # of two processes that add one name, the second one finds the first one's
            if not overwrite and file.exists():
                raise FileExistsError(
                    f"There is an identity {name!r} already. Choose another name, or pass overwrite=True."
                )
            replace(identity, provenance=provenance).save(file, dtype)
            # stored values, not those given: float16 and int8 round
            content_hash = (identity if dtype == torch.float32 else Identity.load(file)).content_hash()
            entry = replace(self._described(name, file), sha256=sha256(file), content_hash=content_hash)
            self._insert([entry])
            self._forget(name)
        return entry

    def tag(self, name: str, tags: Sequence[str]) -> StoredIdentity:
        """Replace the tags of an identity; its tensors stay as they are.

        Raises:
            FileNotFoundError: no such identity.
            ValueError: a bad tag.
            CheckpointError: the file is not a .safetensors file of an identity.
        """
        tags, file = _checked_tags(tags), self.path(name)
        name = file.relative_to(self.folder).as_posix()
        if not is_safetensors(file):
            raise CheckpointError(f"{readable(name)} has no place for tags. Save it as an identity first.")
        content_hash = self.get(name).content_hash()
        with self._changing():
            tensors, metadata = read_safetensors(file)
            provenance = json.loads(metadata["provenance"])
            provenance.pop("tags", None)
            provenance |= {"tags": list(tags)} if tags else {}
            write_safetensors(tensors, file, {**metadata, "provenance": json.dumps(provenance)})
            entry = replace(self._described(name, file), sha256=sha256(file), content_hash=content_hash)
            self._insert([entry])
            self._forget(name)
        return entry

    def remove(self, name: str) -> None:
        """Delete an identity's file; of a link, the link.

        Raises:
            FileNotFoundError: no such identity.
        """
        file = self.path(name)
        name = file.relative_to(self.folder).as_posix()
        with self._changing() as database:
            file.unlink(missing_ok=True)
            database.execute("DELETE FROM identities WHERE name = ?", (_sql(name),))
            self._forget(name)

    # --- Lists --------------------------------------------------------------------------------------------

    def refresh(self, rebuild: bool = False) -> None:
        """Bring the names in the index up to date with the folder; unchanged subfolders are not read.

        Args:
            rebuild: forget the index and read the folder again. Hashes are recorded again at the next reads.
        """
        with self._lock:
            if rebuild:
                self._use(lambda database: database.execute("DELETE FROM identities"))
                self._folders.clear()
            self._use(self._scan)

    def list(self, offset: int = 0, limit: int | None = None) -> Sequence[StoredIdentity]:
        """Return entries sorted by name, as of the last `refresh` (the first call makes one)."""
        return self._select("1 ORDER BY name LIMIT ? OFFSET ?", (-1 if limit is None else limit, offset))

    def newest(self, limit: int) -> Sequence[StoredIdentity]:
        """Return the entries of the files that were modified last, the last one first."""
        return self._select("1 ORDER BY modified DESC, name LIMIT ?", (limit,))

    def search(
        self, query: str = "", tag: str | None = None, base_hash: str | None = None, limit: int = 50
    ) -> Sequence[StoredIdentity]:
        """Return entries sorted by name, as of the last `refresh` (the first call makes one).

        Where `tag` or `base_hash` is given, files that have not been looked into are read first
        (`read_details`): about a tenth of a millisecond each, once.

        Args:
            query: words between spaces, each of which must occur in the name or in a tag; case is ignored.
                Characters have no special meaning.
            tag: a whole tag; case is ignored.
            base_hash: `Generator.base_hash()` or its beginning.
            limit: most entries.
        """
        where, values = self._condition(query, tag, base_hash)
        return self._select(f"{where} ORDER BY name LIMIT ?", (*values, limit))

    def count(self, query: str = "", tag: str | None = None, base_hash: str | None = None) -> int:
        """Return the number of entries that `search` finds without a limit."""
        where, values = self._condition(query, tag, base_hash)
        self._scan_once()
        sql = f"SELECT COUNT(*) FROM identities WHERE {where}"
        return int(self._use(lambda database: database.execute(sql, values).fetchone()[0]))

    def read_details(self, seconds: float | None = None) -> int:
        """Look into files whose base hash and tags the index does not know.

        Args:
            seconds: stop after this time; None: read all.

        Returns:
            The number of files that are left.
        """
        self._scan_once()
        end = math.inf if seconds is None else time.monotonic() + seconds
        unread = "SELECT name FROM identities WHERE tags IS NULL LIMIT 500"
        while rows := self._use(lambda database: database.execute(unread).fetchall()):
            found: dict[str, StoredIdentity | None] = {}
            for (stored,) in rows:
                if found and time.monotonic() > end:
                    break
                name = _text(stored)
                try:
                    found[stored] = self._described(name, self.folder / name)
                except OSError:
                    found[stored] = None
            with self._changing() as database:
                self._insert(entry for entry in found.values() if entry is not None)
                gone = [(stored,) for stored, entry in found.items() if entry is None]
                database.executemany("DELETE FROM identities WHERE name = ?", gone)
            if time.monotonic() > end:
                break
        count = "SELECT COUNT(*) FROM identities WHERE tags IS NULL"
        return int(self._use(lambda database: database.execute(count).fetchone()[0]))

    def _condition(self, query: str, tag: str | None, base_hash: str | None) -> tuple[str, tuple[Any, ...]]:
        """Return the WHERE clause of a search and its values."""
        if tag or base_hash:
            self.read_details()
        terms = ["1"]
        values: list[Any] = []
        for word in _folded(query).split():
            terms.append("instr(words, ?) > 0")
            values.append(word)
        if tag:
            terms.append("instr(words, ?) > 0")
            values.append(f"\n{_folded(tag)}\n")
        if base_hash:
            terms.append("substr(base_hash, 1, ?) = ?")
            values += [len(base_hash), base_hash]
        return " AND ".join(terms), tuple(values)

    # --- Index --------------------------------------------------------------------------------------------

    def _use(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return work(connection); a damaged index is rebuilt first, one that is read-only left alone."""
        with self._lock:
            try:
                return work(self._open())
            except sqlite3.OperationalError as error:
                if "no such" in str(error):  # a table or a column
                    self._make_anew(error)
                elif _is_read_only(error):
                    self._in_memory(error)
                else:
                    raise
            except sqlite3.DatabaseError as error:
                self._make_anew(error)
            self._scan(self._open())
            return work(self._open())

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction that keeps other processes from writing."""
        with self._lock:
            self._use(lambda database: database.execute("BEGIN IMMEDIATE"))
            database = self._open()
            try:
                yield database
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        """Return the connection; open the index, or make it, if that has not been done."""
        if self._database is None:
            try:
                self._database = self._connect(self.index)
            except sqlite3.OperationalError as error:
                if "no such" in str(error):
                    self._make_anew(error)
                elif _is_read_only(error):
                    self._in_memory(error)
                else:
                    raise
            except OSError as error:
                self._in_memory(error)
            except sqlite3.DatabaseError as error:
                self._make_anew(error)
        assert self._database is not None
        return self._database

    def _connect(self, index: Path | str) -> sqlite3.Connection:
        if isinstance(index, Path):
            index.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.Connection(
            index, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            if not _tables(database):
                database.execute("BEGIN IMMEDIATE")
                if not _tables(database):  # another process may have made it meanwhile
                    for statement in (_TABLE, *_INDEXES, f"PRAGMA user_version = {_VERSION}"):
                        database.execute(statement)
                database.execute("COMMIT")
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                raise sqlite3.DatabaseError("it was written by another version")
            database.execute(f"SELECT {_COLUMNS}, folder, words FROM identities LIMIT 1")
        except BaseException:
            database.close()
            raise
        return database

    def _make_anew(self, error: Exception) -> None:
        """Replace a damaged index by an empty one, which the next scan fills."""
        log.warning("The index %s cannot be used (%s) and is rebuilt from the folder.", self.index, error)
        if self._database is not None:
            self._database.close()
        self._database = None
        self._folders.clear()
        try:
            for end in ("", "-wal", "-shm"):
                Path(f"{self.index}{end}").unlink(missing_ok=True)
            self._database = self._connect(self.index)
        except (OSError, sqlite3.DatabaseError) as again:
            self._in_memory(again)

    def _in_memory(self, error: Exception) -> None:
        log.warning("The index %s cannot be written (%s) and is kept in memory.", self.index, error)
        if self._database is not None:
            self._database.close()
        self._folders.clear()
        self._database = self._connect(":memory:")

    def _scan_once(self) -> None:
        with self._lock:
            self._open()
            if not self._folders:
                self.refresh()

    def _scan(self, database: sqlite3.Connection) -> None:
        """Compare the folders that have changed since the last scan with the index."""
        seen, changed = set(), {}

        def read(path: str) -> Folder:
            try:
                modified = os.stat(path).st_mtime_ns
            except OSError:
                return Folder(path)
            seen.add(path)
            known = self._folders.get(path)
            if known is not None and known[0] == modified:
                return known[1]
            folder = read_folder(path)
            changed[path] = [name for name in folder.files if Path(name).suffix.lower() in self.extensions]
            # a folder that has just changed may change again within one tick of the clock
            settled = modified if time.time_ns() - modified > CLOCK_TICK else -1
            self._folders[path] = settled, replace(folder, files=())
            return self._folders[path][1]

        for _ in walk(self.folder, read):
            pass
        gone = [path for path in self._folders if path not in seen]
        for path in gone:
            del self._folders[path]
        folders = {row[0] for row in database.execute("SELECT DISTINCT folder FROM identities")}
        lost = folders - {_sql(self._relative(path)) for path in seen}
        plan = [(path, *self._differences(database, path, names)) for path, names in changed.items()]
        if not (lost or any(new or old for _, new, old in plan)):
            return
        try:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM identities WHERE folder = ?", [(folder,) for folder in lost])
            for _, new, old in plan:
                database.executemany("DELETE FROM identities WHERE name = ?", old)
                self._insert(new, known=False)
            database.execute("COMMIT")
        except BaseException:
            for path in changed:  # to be read again
                self._folders[path] = -1, self._folders[path][1]
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _differences(
        self, database: sqlite3.Connection, path: str, names: Iterable[str]
    ) -> tuple[Sequence[StoredIdentity], Sequence[tuple[str]]]:
        """Return the entries of a folder that are new or changed, and the rows whose files are gone."""
        relative = self._relative(path)
        rows = database.execute(
            "SELECT name, modified, bytes FROM identities WHERE folder = ?", (_sql(relative),)
        )
        known = {name: (modified, nbytes) for name, modified, nbytes in rows}
        new = []
        for leaf in names:
            name = f"{relative}/{leaf}" if relative else leaf
            try:
                stamp = _stamp(Path(path, leaf))
            except OSError:
                continue
            if known.pop(_sql(name), None) != stamp:
                new.append(StoredIdentity(name, stamp[1], stamp[0], stamp[0] / 1e9))
        return new, [(name,) for name in known]

    def _insert(self, entries: Iterable[StoredIdentity], known: bool = True) -> None:
        """Insert or replace rows; unless `known`, their base hash and tags are to be read later."""
        self._open().executemany(
            "INSERT OR REPLACE INTO identities "
            f"({_COLUMNS}, folder, words) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(_sql(one.name), one.nbytes, one.modified, one.created, one.base_hash),
                    *(json.dumps(one.tags) if known else None, one.sha256, one.content_hash),
                    *(_sql(one.name.rpartition("/")[0]), _words(one)),
                )
                for one in entries
            ],
        )

    def _select(self, rest: str, values: tuple[Any, ...]) -> Sequence[StoredIdentity]:
        self._scan_once()
        sql = f"SELECT {_COLUMNS} FROM identities WHERE {rest}"
        return [_entry(row) for row in self._use(lambda database: database.execute(sql, values).fetchall())]

    def _row(self, name: str) -> StoredIdentity | None:
        sql = f"SELECT {_COLUMNS} FROM identities WHERE name = ?"
        row = self._use(lambda database: database.execute(sql, (_sql(name),)).fetchone())
        return None if row is None else _entry(row)

    # --- Helpers ------------------------------------------------------------------------------------------

    def _relative(self, path: str) -> str:
        relative = Path(path).relative_to(self.folder).as_posix()
        return "" if relative == "." else relative

    def _plain_path(self, name: str) -> Path | None:
        """Return the path of a name that is spelled as in the index and cannot lead outside, else None."""
        parts = name.split("/")
        if "\\" in name or ":" in name or "\0" in name or ".." in parts or "" in parts or is_hidden(name):
            return None
        return self.folder / name if Path(name).suffix.lower() in self.extensions else None

    def _new_path(self, name: str) -> Path:
        """Return the file for a new name; raise ValueError for one that not every file system takes."""
        file = self._plain_path(name)
        refused = (
            re.search(r'[<>:"|?*\\\x00-\x1f\x7f\ud800-\udfff]', name)
            or re.search(r"(^|[/ ])[ .]|[ .](/|$)", name)
            or re.search(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(?=[./])", name)
            or any(len(part.encode(errors="replace")) > LONGEST_NAME for part in name.split("/"))
        )
        if file is None or refused:
            raise ValueError(
                f"{readable(name)[:80]!r} cannot be the name of an identity. Use letters, digits, - and _, "
                f"and / between folders, at most {LONGEST_NAME} bytes each."
            )
        if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(self.folder)):
            raise ValueError(f"{name!r} lies outside {self.folder}, by a link. Choose another name.")
        return file

    def _described(self, name: str, file: Path) -> StoredIdentity:
        """Return the entry of a file; for one that is no identity, with its size and time only."""
        modified, nbytes = _stamp(file)
        entry = StoredIdentity(name, nbytes, modified, modified / 1e9)
        try:
            metadata = read_metadata(file) if is_safetensors(file) else {}
            if metadata.get("format") != FORMAT:
                return entry
            made = json.loads(metadata["provenance"])
            tags, created = made.get("tags", ()), made.get("created")
            if not isinstance(created, int | float) or not math.isfinite(created):
                created = entry.created
            tags = tags if isinstance(tags, list) else ()
            tags = tuple(sorted(one for one in tags[:MOST_TAGS] if isinstance(one, str) and _is_tag(one)))
            return replace(entry, base_hash=str(metadata["base_hash"]), tags=tags, created=float(created))
        except (ValueError, LookupError, AttributeError, RecursionError, OSError):
            return entry  # damaged: listed, and `get` says what is wrong with it

    def _keep(self, name: str, stamp: tuple[int, int], identity: Identity) -> None:
        self._forget(name)
        if identity.nbytes > self.cache_bytes:
            return
        self._loaded[name] = stamp, identity
        self._loaded_bytes += identity.nbytes
        while self._loaded_bytes > self.cache_bytes:
            self._forget(next(iter(self._loaded)))

    def _forget(self, name: str) -> None:
        kept = self._loaded.pop(name, None)
        if kept is not None:
            self._loaded_bytes -= kept[1].nbytes


def _stamp(file: Path) -> tuple[int, int]:
    """Return modification time in nanoseconds and size in bytes of a file."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _tables(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])


def _is_read_only(error: sqlite3.OperationalError) -> bool:
    """Return whether an error says that the index cannot be written: no rights, no folder, a full disk."""
    return any(word in str(error) for word in ("readonly", "unable to open", "disk I/O", "is full"))


def _sql(name: str) -> str:
    """Return a name as SQLite can hold it: surrogates, which stand for bytes of other encodings, escaped."""
    doubled = name.replace("\\", "\\\\")
    return doubled.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(stored: str) -> str:
    """Return the name that `_sql` made the stored one of."""
    escapes = r"\\(\\|u[0-9a-f]{4})"
    return re.sub(escapes, lambda found: found[0].encode("ascii").decode("unicode_escape"), stored)


def _entry(row: tuple[Any, ...]) -> StoredIdentity:
    name, nbytes, modified, created, base_hash, tags, digest, content_hash = row
    known = tuple(json.loads(tags)) if tags else ()
    return StoredIdentity(_text(name), nbytes, modified, created, base_hash, known, digest, content_hash)


def _folded(text: str) -> str:
    """Return a text as it is compared: readable, composed, without case."""
    return unicodedata.normalize("NFC", readable(text)).casefold()


def _words(entry: StoredIdentity) -> str:
    """Return what a search looks through: the name, and each tag between line breaks."""
    return "\n".join([_folded(entry.name), *map(_folded, entry.tags), ""])


def _is_tag(tag: str) -> bool:
    return bool(tag.strip()) and len(tag) <= LONGEST_TAG and readable(tag) == tag


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags sorted, each once; raise ValueError for one that cannot be stored."""
    if isinstance(tags, str):
        raise ValueError(f"Give tags as a list, not as the text {tags[:40]!r}.")
    clean = sorted({tag.strip() for tag in tags})
    wrong = [tag for tag in clean if not _is_tag(tag)]
    if wrong or len(clean) > MOST_TAGS:
        raise ValueError(
            f"An identity has at most {MOST_TAGS} tags of 1 to {LONGEST_TAG} characters in one line; "
            + (f"{readable(wrong[0])[:80]!r} is none." if wrong else f"these are {len(clean)}.")
        )
    return tuple(clean)
