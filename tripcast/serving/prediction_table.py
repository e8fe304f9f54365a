"""The prediction log as a table: its columns, made of the rows in memory.

Another problem changes them with the record of ``tripcast.serving.prediction_rows``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tripcast.serving.prediction_rows import RECORD, Rows
from tripcast.serving.riders import pseudonym
from tripcast.storage.arrow import arrow_scalar

#: Nanoseconds.
_DAY = 86_400 * 10**9


def prediction_schema() -> pa.Schema:
    """A row of the prediction log.

    - ``prediction_id``: what the client was told, see ``PredictionLog``.
    - ``predicted_at``: when, UTC.
    - ``model``, ``version``, ``arm``: which registered model answered, and whether as champion or challenger.
    - ``rider_id``: who asked, as ``tripcast.serving.riders.pseudonym`` has it unless the service was told to log ids as
      they are; null where the client did not say.
    - ``pickup_datetime``: New York local time, to the second.
    - ``trip_distance_miles``: null where the client did not know.
    - ``way``: in which way it was asked, by what was known of the trip; null in files of before there were ways.
    - ``duration_minutes``, ``lower_minutes``, ``upper_minutes``: the answer.
    """
    return pa.schema(
        {
            "prediction_id": pa.string(),
            "predicted_at": pa.timestamp("us", tz="UTC"),
            "model": pa.string(),
            "version": pa.int32(),
            "arm": pa.string(),
            "rider_id": pa.string(),
            "pickup_datetime": pa.timestamp("us"),
            "pickup_zone": pa.int16(),
            "dropoff_zone": pa.int16(),
            "trip_distance_miles": pa.float64(),
            "way": pa.string(),
            "duration_minutes": pa.float64(),
            "lower_minutes": pa.float64(),
            "upper_minutes": pa.float64(),
        }
    )


def by_date(rows: Rows, packed: list[bytes]) -> dict[str, pa.RecordBatch]:
    """Make Arrow columns of packed rows, by the UTC date of the answer.

    Args:
        rows: Where they come from.
        packed: What was taken from there.
    """
    width = RECORD.itemsize
    records = np.frombuffer(b"".join([row[:width] for row in packed]), RECORD)
    riders = [row[width:] for row in packed]
    if (secret := rows.rider_secret) is not None:
        known = records["has_rider"].tolist()
        riders = [pseudonym(rider, secret) if has else b"" for rider, has in zip(riders, known, strict=True)]
    batch = _convert(rows, records, riders)
    days = records["predicted_at"] // _DAY
    return {
        str(np.datetime64(int(day), "D")): batch.filter(
            pa.Array.from_buffers(pa.bool_(), len(days), [None, _bits(days == day)])
        )
        for day in np.unique(days)
    }


def _convert(rows: Rows, records: npt.NDArray[np.void], riders: list[bytes]) -> pa.RecordBatch:
    """Make Arrow columns, by way of buffers: ``pyarrow.array`` would import pandas where it is installed."""

    def column(values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
        kind = pa.from_numpy_dtype(values.dtype)
        validity = None if valid is None else _bits(valid)
        return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(np.ascontiguousarray(values))])

    def text(values: Sequence[bytes], valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=offsets[1:])
        validity = None if valid is None else _bits(valid)
        return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)), validity)

    answerers, ways = zip(*rows.answerers, strict=True)
    models, versions, arms = zip(*answerers, strict=True)
    answerer = column(records["answerer"])
    numbers = column(records["number"]).cast(pa.string())
    miles = records["trip_distance_miles"]
    columns = {
        "prediction_id": pc.binary_join_element_wise(
            arrow_scalar(rows.prefix, pa.string()), numbers, arrow_scalar("", pa.string())
        ),
        "predicted_at": column(records["predicted_at"] // 1000),
        "model": text([model.encode() for model in models]).take(answerer),
        "version": column(np.array(versions, np.int32)).take(answerer),
        "arm": text([arm.encode() for arm in arms]).take(answerer),
        "way": text([way.encode() for way in ways]).take(answerer),
        "rider_id": text(riders, records["has_rider"]),
        "pickup_datetime": column(records["pickup"] * 1_000_000),
        "pickup_zone": column(records["pickup_zone"]),
        "dropoff_zone": column(records["dropoff_zone"]),
        "trip_distance_miles": column(miles, ~np.isnan(miles)),
        "duration_minutes": column(records["duration_minutes"]),
        "lower_minutes": column(records["lower_minutes"]),
        "upper_minutes": column(records["upper_minutes"]),
    }
    schema = prediction_schema()
    return pa.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)


def _bits(values: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Arrow's form of truth values: a bit each, the lowest first."""
    return pa.py_buffer(np.packbits(values, bitorder="little"))
