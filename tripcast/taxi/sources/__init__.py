"""Where months of trip records come from: the publisher, an S3 bucket, a folder, or a simulated city."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Protocol

from tripcast.errors import InvalidRequest
from tripcast.months import Month
from tripcast.taxi.simulation import City
from tripcast.taxi.sources.folder import Folder
from tripcast.taxi.sources.raw import RawMonth
from tripcast.taxi.sources.s3 import S3


class Source(Protocol):
    """Anything that months of trip records can be had from."""

    def revision(self, taxi: str, month: Month) -> str:
        """What tells this revision of a month from an earlier or later one, asked without reading the month.

        Raises:
            SourceError: If the month is not there, or the source cannot be reached.
        """

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi.

        Raises:
            SourceError: If the month is not there, or the source cannot be reached.
            StorageError: If the month has to be downloaded and cannot be written.
        """


class Simulated:
    """A simulated city, which makes any month it is asked for."""

    def __init__(self, text: str) -> None:
        """Take the source as it was written: ``simulated``, or ``simulated?trips=5000&...``."""
        self._text, self._city = text, City.parse(text)

    def revision(self, taxi: str, month: Month) -> str:
        """The city itself: it makes the same month each time."""
        return repr(self._city)

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi, made as it is read."""
        batches = self._city.month(taxi, month)
        first = next(batches)
        return RawMonth(
            location=self._text,
            schema=first.schema,
            read=lambda columns: (batch.select(columns) for batch in chain([first], batches)),
        )


def open_source(text: str, downloads: Path) -> Source:
    """Open a source as a person writes it.

    Args:
        text: ``tlc`` for the publisher's website, ``s3://bucket/prefix``, ``simulated`` with or without
            ``?name=value&...``, or the path of a folder. A folder of one of those names is written ``./tlc``.
        downloads: Folder that keeps what has to be downloaded.

    Raises:
        InvalidRequest: If the text names no kind of source, or an option of the simulated city is wrong.
        SourceError: If it is a folder that does not exist.
    """
    name, _, rest = text.partition("://")
    if text == "tlc":
        from tripcast.taxi.sources.tlc import TLC  # requests, a tenth of a second for every step on other months

        return TLC(downloads)
    if name.lower() == "s3" and "://" in text:
        return S3(f"s3://{rest}", downloads)
    if rest:
        raise InvalidRequest(
            f"'{text}' is not a source of months: {name}:// is not supported. "
            "Write tlc, s3://bucket/prefix, simulated, or the path of a folder."
        )
    if is_simulated(text):
        return Simulated(text)
    return Folder(text)


def is_simulated(text: str) -> bool:
    """Whether a source, or the location of a month, is a simulated city."""
    return text.partition("?")[0] == "simulated"
