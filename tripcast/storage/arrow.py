"""Working on Arrow record batches: in the background, into files, and without what pyarrow need not import."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tripcast.storage.files import atomic_write

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Generator[T]:
    """Make the next item in a thread while the caller works on this one, so that reading overlaps writing."""
    end: Any = object()
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, items, end)
            yield item


def arrow_scalar(value: object, kind: pa.DataType) -> pa.Scalar:
    """An Arrow constant from what it reads as: ``arrow_scalar(60, pa.int64())``.

    ``pyarrow.scalar`` does the same, but imports pandas, which takes longer than a month of trips. So does every
    function of ``pyarrow.compute`` that is given a Python number.
    """
    text = str(value).encode()
    offsets = struct.pack("<2i", 0, len(text))
    return pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(text))[0].cast(kind)


@contextmanager
def parquet_writer(file: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a parquet file that appears under its name whole, or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    # Neither dictionaries, statistics nor compression: benchmarks/ingest has what they would cost.
    options = {"use_dictionary": False, "write_statistics": False, "compression": "none"}
    with atomic_write(file) as part, pq.ParquetWriter(part, schema, **options) as writer:
        yield writer
