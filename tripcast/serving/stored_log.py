"""The prediction log as it lies in the store: read by time, listed by day, and rid of a rider's rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tripcast.errors import InvalidRequest, StorageError
from tripcast.serving.prediction_table import prediction_schema
from tripcast.storage.store import Store, Stored

_PREFIX = "predictions/"
_DAY = re.compile(rf"{_PREFIX}date=(\d{{4}}-\d{{2}}-\d{{2}})/")

#: A span of more days than this is found in a listing of all days: one of each would take longer.
_DAYS_LISTED_ONE_BY_ONE = 40

#: Files fetched at a time: they are many and small, so the store's answers are what takes long.
_READERS = 8


def read_log(
    store: Store,
    since: datetime,
    until: datetime,
    where: pc.Expression | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read the answers given in a span of time; the partitions of other days are not looked at.

    Args:
        store: Where the log is.
        since: The first moment, with a time zone.
        until: The moment after the last, with a time zone.
        where: Which rows, by the columns of ``prediction_schema``; None for all.
        columns: Which of those columns; None for all.

    Returns:
        The rows, those of each process in the order of its answers.

    Raises:
        InvalidRequest: If a moment has no time zone.
        StorageError: If the store cannot be read.
    """
    for moment in (since, until):
        if moment.tzinfo is None:
            raise InvalidRequest(f"{moment.isoformat()} has no time zone: write {moment.isoformat()}+00:00 for UTC.")
    schema = prediction_schema()
    names = list(columns or schema.names)
    first = since.astimezone(UTC).date()
    last = until.astimezone(UTC).date()
    asked_for = (pc.field("predicted_at") >= since) & (pc.field("predicted_at") < until)
    if where is not None:
        asked_for &= where
    days = {str(first + timedelta(days=day)) for day in range((last - first).days + 1)}
    if len(days) > _DAYS_LISTED_ONE_BY_ONE:
        keys = [key for key in store.list(_PREFIX) if key.split("/")[1].removeprefix("date=") in days]
    else:
        keys = [key for day in sorted(days) for key in store.list(f"{_PREFIX}date={day}/")]

    with TemporaryDirectory() as folder, ThreadPoolExecutor(_READERS) as readers:

        def read(key: str) -> pa.Table:
            file = Path(folder) / Path(key).name
            try:
                store.get(key, file)
            except StorageError:  # it has grown between two of the store's answers, perhaps
                store.get(key, file)
            with pq.ParquetFile(file) as log:
                rows = log.read().filter(asked_for)
            file.unlink()
            return rows.select([name for name in names if name in rows.column_names])

        empty = schema.empty_table().select(names)
        # Files of before a column came to be have nulls there.
        return pa.concat_tables([empty, *readers.map(read, keys)], promote_options="default")


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
