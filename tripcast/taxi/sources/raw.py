"""A month as its source has it, not read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from tripcast.errors import SourceError

#: Rows in a batch: large enough for vectors, small enough that a few batches are a few dozen megabytes.
BATCH_ROWS = 256 * 1024


@dataclass(frozen=True)
class RawMonth:
    """A month as its source has it, not read yet.

    Attributes:
        location: Where it comes from, for people: a URL, a path or the simulated city's options.
        schema: The names and types of all its columns; of CSV, all are text.
        read: Reads some columns, batch by batch, in the types that the source has. To be called once. A row that
            cannot be taken apart comes as one of nulls only. Raises SourceError if the file turns out to be damaged.
        remarks: What people should know of it, a sentence each; complete when all has been read.
    """

    location: str
    schema: pa.Schema
    read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    remarks: list[str] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all its columns."""
        return tuple(self.schema.names)


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Report damage that is met under the file's own location.

    Raises:
        SourceError: Naming the location, and what to do.
    """
    try:
        yield
    except PermissionError as trouble:
        raise SourceError(
            f"{location} cannot be opened: {trouble.strerror}. Permit this user to read it, and to enter its folders."
        ) from trouble
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, MemoryError) as trouble:
        said = " ".join(str(trouble).split())[:300].rstrip(". ")
        raise SourceError(
            f"{location} cannot be read: {said}. "
            "It is damaged or truncated: fetch it again, or mend it, or ask for another month."
        ) from trouble
