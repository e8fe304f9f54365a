"""Working on Arrow record batches: in the background, and without what pyarrow need not import."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa

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
