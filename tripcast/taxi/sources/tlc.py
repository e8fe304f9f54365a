"""Months from the publisher, the New York City Taxi and Limousine Commission (TLC), over HTTPS."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import requests

from tripcast.errors import SourceError, SourceUnreachable
from tripcast.http import http_session
from tripcast.months import Month
from tripcast.storage.files import storage_errors
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.sources.downloads import Download, progress
from tripcast.taxi.sources.files import open_month_file
from tripcast.taxi.sources.raw import RawMonth

#: Where TLC publishes, as linked from https://www.nyc.gov/site/tlc/about/tlc-trip-record-data.page
PUBLISHER = "https://d37ci6vzurychx.cloudfront.net/trip-data"

#: Seconds to wait for a connection, and for the next bytes.
_TIMEOUT = (10, 60)

#: The longest wait, in seconds, that a server may ask for with Retry-After.
_LONGEST_WAIT = 120

#: A broken connection loses at most this much.
_CHUNK_BYTES = 64 * 1024


class TLC:
    """The publisher's website: one parquet file a month and taxi.

    A month is downloaded once and asked after again each time, because TLC replaces months: what the publisher says
    is unchanged is not sent again, and where the publisher cannot be reached the copy that is here is used. A
    download that breaks off goes on where it stopped, in this process or in a later one.
    """

    def __init__(self, downloads: Path, base_url: str = PUBLISHER, retries: int = 5) -> None:
        """Take the folder for downloads.

        Args:
            downloads: Folder that keeps the months.
            base_url: The address that the file names are put behind.
            retries: How often to try again, with growing pauses, before giving up.
        """
        self._downloads, self._base_url, self._retries = downloads, base_url.rstrip("/"), retries

    def revision(self, taxi: str, month: Month) -> str:
        """The ETag or date that the publisher gives the month; of the copy that is here if nobody answers.

        Raises:
            SourceError: If the month is not published, or the publisher cannot be reached and no copy is here.
        """
        url, download = self._place(taxi, month)
        try:
            with http_session(self._retries, _LONGEST_WAIT) as session, session.head(url, timeout=_TIMEOUT) as answer:
                _refuse_missing(answer, url, _named(taxi, month))
                answer.raise_for_status()
                return _revision(answer) or answer.headers.get("Content-Length", "")
        except requests.RequestException as trouble:
            return _copy_or_raise(url, download, _named(taxi, month), trouble)

    def month(self, taxi: str, month: Month) -> RawMonth:
        """Open one month of one taxi, downloading it if need be.

        Raises:
            SourceError: If the month is not published, the publisher cannot be reached, or the file is no table.
            StorageError: If the download cannot be written.
        """
        url, download = self._place(taxi, month)
        try:
            with http_session(self._retries, _LONGEST_WAIT) as session:
                self._download(session, url, download, _named(taxi, month))
        except requests.RequestException as trouble:
            _copy_or_raise(url, download, _named(taxi, month), trouble)
        return open_month_file(download.file, url)

    def _place(self, taxi: str, month: Month) -> tuple[str, Download]:
        """Where a month is published, and where it is kept here."""
        name = f"{FEEDS[taxi].file(month)}.parquet"
        return f"{self._base_url}/{name}", Download(self._downloads / "tlc" / name)

    def _download(self, session: requests.Session, url: str, download: Download, what: str) -> None:
        """Ask again until the whole file is here; tries that bring something do not count as retries."""
        failures, arrived = 0, download.begun()
        while not _advance(session, url, download, what):
            failures = failures + 1 if arrived == (arrived := download.begun()) else 0
            if failures > self._retries:
                raise requests.ConnectionError(f"the connection broke off {failures} times")
            time.sleep(min(0.5 * 2**failures, 30) if failures else 0)


def _named(taxi: str, month: Month) -> str:
    return f"{month} of the {FEEDS[taxi].title}"


def _copy_or_raise(url: str, download: Download, what: str, trouble: Exception) -> str:
    """Fall back on the copy that is here, and return its revision."""
    revision = download.revision()
    if revision is None:
        raise SourceUnreachable(
            f"The {what} cannot be downloaded from {url}: {trouble}. Check the network, then run again: what "
            "has arrived is kept. Or use a folder, or simulated, as the source."
        ) from trouble
    print(f"Using the copy of {url} that is here: {trouble}", file=sys.stderr, flush=True)
    return revision


def _refuse_missing(answer: requests.Response, url: str, what: str) -> None:
    # CloudFront answers 403, not 404, for a file that is not there.
    if answer.status_code in (403, 404):
        raise SourceError(
            f"The {what} is not published: {url} answers {answer.status_code}. "
            "TLC publishes a month about two months after its end: ask for an earlier one."
        )


def _advance(session: requests.Session, url: str, download: Download, what: str) -> bool:
    """Ask once, from where the last try stopped, and take what comes.

    Returns:
        Whether the whole and current file is here now.
    """
    begun = download.begun()
    with session.get(url, headers=_headers(download), stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 304:
            return True
        _refuse_missing(answer, url, what)
        resumes = answer.status_code == 206
        if answer.status_code == 416 or (resumes and not _continues(answer, begun)):
            download.restart(revision=None)
            return False
        answer.raise_for_status()
        if not resumes:
            download.restart(_revision(answer))
        done = begun[0] if begun and resumes else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with progress(url, total, done) as advance, storage_errors(download.file), download.part.open("ab") as part:
            try:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    part.write(chunk)
                    advance(len(chunk))
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                return False
    if total is not None and download.part.stat().st_size != total:
        return False
    download.finish()
    return True


def _headers(download: Download) -> dict[str, str]:
    """Ask for the rest of a part, or whether a whole file has changed (RFC 9110, sections 13 and 14)."""
    # Ranges count bytes as they are stored, so no compression on the way.
    headers = {"Accept-Encoding": "identity"}
    if begun := download.begun():
        headers |= {"Range": f"bytes={begun[0]}-", "If-Range": begun[1]}
    elif revision := download.revision():
        headers["If-None-Match" if revision.startswith('"') else "If-Modified-Since"] = revision
    return headers


def _revision(answer: requests.Response) -> str | None:
    """What tells this revision of the file from others: its ETag if it is a strong one, else its date."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified")


def _continues(answer: requests.Response, begun: tuple[int, str] | None) -> bool:
    """Whether a partial answer is the rest of what has arrived: the same revision, from the next byte on."""
    return (
        begun is not None
        and _revision(answer) == begun[1]
        and answer.headers.get("Content-Range", "").startswith(f"bytes {begun[0]}-")
    )
