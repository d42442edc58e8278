"""Identity files that Load Identity lists, finds and loads, and their search for the page.

Each folder of identities is an `IdentityStore` of the core. Its index lies among the caches of the user
folder, since a folder of models may be read-only or shared by servers on several machines.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from .http import Answer, query_handler

if TYPE_CHECKING:
    from ...my3dgen_core import Identity
    from ...my3dgen_core.person.identity_store import IdentityStore, StoredIdentity

_STARTER = Path(__file__).resolve().parents[2] / "my3dgen_core" / "starter"
BUNDLED = {
    "starter: demo person": _STARTER / "demo_identity.safetensors",
    "starter: second person": _STARTER / "second_identity.safetensors",
}
LISTED = 200
"""Most files in the node's own list, which every page receives; the search field finds the others."""
CACHE_BYTES = 128 << 20
"""Bytes of loaded identities that are kept for each folder."""
MOST_FOUND, LONGEST_QUERY = 100, 200
"""Most results of a request, and characters of its query."""
DETAILS_SECONDS = 0.05
"""Time that a request spends on reading tags of files that are new to the index."""

_stores: dict[Path, IdentityStore] = {}
_lock = threading.Lock()


def stores() -> list[IdentityStore]:
    """Return the stores of the folders that exist, in the order in which names are looked up."""
    from ...my3dgen_core.person.identity_store import IdentityStore

    found = []
    for folder in host.model_folders(host.IDENTITIES):
        folder = Path(os.path.abspath(folder))
        if not os.path.isdir(folder):
            continue
        with _lock:
            if folder not in _stores:
                name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
                index = host.cache_folder("identity_index") / f"{name}.sqlite"
                _stores[folder] = IdentityStore(
                    folder, index, CACHE_BYTES, host.extensions_of(host.IDENTITIES)
                )
            found.append(_stores[folder])
    return found


def _refresh(store: IdentityStore) -> None:
    """Bring a store up to date; while another process keeps its index locked, it stays as it is."""
    import sqlite3  # here: importing the pack brings nothing that ComfyUI may not have imported

    try:
        store.refresh()
    except sqlite3.OperationalError as error:  # an exception here would hide the node
        host.log.warning("The list of identities in %s is not up to date: %s.", store.folder, error)


def listed() -> list[str]:
    """Return the node's own list: the bundled identities, and the `LISTED` newest files sorted by name."""
    from ...my3dgen_core.common.folders import readable

    newest: list[StoredIdentity] = []
    for store in stores():
        _refresh(store)
        newest += store.newest(LISTED)
    newest.sort(key=lambda entry: -entry.modified)
    names = dict.fromkeys(readable(entry.name) for entry in newest)
    return [*BUNDLED, *sorted(list(names)[:LISTED])]


def find_identity(name: str) -> Path:
    """Return the file of an identity that Load Identity knows.

    Raises:
        FileNotFoundError: there is none, or the name leads outside the folders.
    """
    return BUNDLED.get(name) or host.find_model(host.IDENTITIES, name)


def load_identity(name: str) -> Identity:
    """Return an identity; files in the folders are checked by their hash and kept, see `IdentityStore.get`.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is no identity, or damaged.
    """
    from ...my3dgen_core import Identity

    file = find_identity(name)
    for store in stores():
        if file.is_relative_to(store.folder):
            return store.get(file.relative_to(store.folder).as_posix())
    return Identity.load(file)


def search(query: str, limit: int) -> dict[str, Any]:
    """Find identities by words in name and tags.

    Args:
        query: words, each of which must occur.
        limit: most results.

    Returns:
        `identities`: a list of `name`, `bytes` and `tags`, the bundled ones first, then by name; `total`: the
        number of all that match; `unread`: the number of files whose tags are not known yet.
    """
    from ...my3dgen_core.common.folders import readable

    words = query.casefold().split()
    bundled = [name for name in BUNDLED if all(word in name.casefold() for word in words)]
    found: dict[str, dict[str, Any]] = {}
    total, unread = len(bundled), 0
    for store in stores():
        _refresh(store)
        unread += store.read_details(DETAILS_SECONDS)
        total += store.count(query)
        for entry in store.search(query, limit=limit):
            row = {"name": readable(entry.name), "bytes": entry.nbytes, "tags": entry.tags}
            found.setdefault(row["name"], row)
    rows = [{"name": name, "bytes": BUNDLED[name].stat().st_size, "tags": ()} for name in bundled]
    rows += [found[name] for name in sorted(found)]
    return {"identities": rows[:limit], "total": total, "unread": unread}


async def _search(query: Mapping[str, str]) -> Answer:
    words, limit = query.get("query", ""), query.get("limit", "50")
    if len(words) > LONGEST_QUERY:
        return Answer.error(400, f"A query may have at most {LONGEST_QUERY} characters.")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MOST_FOUND):
        return Answer.error(400, f"limit must be a number from 1 to {MOST_FOUND}.")
    return Answer.json(await asyncio.to_thread(search, words, int(limit)))


host.serve("GET", "/my3dgen/identities", query_handler(_search))
