"""Which days of the prediction log are older than it is kept, and how one rider's rows are removed from it."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tripcast.storage.store import Store, Stored

_PREFIX = "predictions/"
_DAY = re.compile(rf"{_PREFIX}date=(\d{{4}}-\d{{2}}-\d{{2}})/")


def forget(store: Store, rider_ids: Collection[str]) -> int:
    """Remove the rows of riders, file by file; each is replaced whole or not at all, and doing it again is harmless.

    A service sends its last file again as long as it grows, up to a quarter of an hour: rows of that time come back.

    Args:
        store: Where the log is.
        rider_ids: The ids as the log has them.

    Returns:
        How many rows were removed.

    Raises:
        StorageError: If the store cannot be read or written.
    """
    wanted = pa.array(sorted(rider_ids), pa.string())
    removed = 0
    with TemporaryDirectory() as folder:
        file = Path(folder) / "log.parquet"
        for key in store.list(_PREFIX):
            store.get(key, file)
            rows = pq.ParquetFile(file).read()
            kept = rows.filter(pc.invert(pc.is_in(rows["rider_id"], wanted)))
            if len(kept) < len(rows):
                removed += len(rows) - len(kept)
                if len(kept):
                    pq.write_table(kept, file, compression="zstd")
                    store.put(file, key)
                else:
                    store.delete(key)
    return removed


def days(store: Store) -> dict[date, dict[str, Stored]]:
    """The files of the log by day, UTC.

    Raises:
        StorageError: If the store cannot be read.
    """
    found: dict[date, dict[str, Stored]] = {}
    for key, stored in store.find(_PREFIX).items():
        if day := _DAY.match(key):
            found.setdefault(date.fromisoformat(day[1]), {})[key] = stored
    return found
