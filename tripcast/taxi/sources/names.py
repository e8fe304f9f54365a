"""What a month's file is called, and what to say when it is there under another name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from tripcast.errors import SourceError
from tripcast.months import Month
from tripcast.taxi.feeds import FEEDS, Feed

#: The forms in which a month may be there, the preferred one first.
ENDINGS = (".parquet", ".csv", ".csv.gz")

#: The feeds that a path is about by its words, "fhvhv" before "fhv".
_FEEDS = re.compile("|".join(sorted(FEEDS, key=len, reverse=True)))


def month_file(names: Iterable[str], taxi: str, month: Month) -> str | None:
    """The name, among those that are there, under which a month is published; None if it is not there."""
    there = set(names)
    return next((name for ending in ENDINGS if (name := f"{FEEDS[taxi].file(month)}{ending}") in there), None)


def parts_of(names: Iterable[str], location: str) -> list[str]:
    """The data files in the folder that Spark and its like write in place of a file, in order.

    Args:
        names: The paths in it, relative to it.
        location: The folder, for error messages.

    Raises:
        SourceError: If it is a table of another kind, is not whole, or holds no data.
    """
    names = list(names)
    within = {name.partition("/")[0] for name in names}
    if within & {"_delta_log", "metadata", ".hoodie"}:
        raise SourceError(
            f"{location} is a table of Delta Lake, Iceberg or Hudi, in which files may be out of date. Export the "
            "month as one parquet file."
        )
    if "_temporary" in within:
        raise SourceError(
            f"{location} is a folder that was not written to its end (it holds _temporary). Write it anew."
        )
    parts = sorted(name for name in names if not any(part.startswith(("_", ".")) for part in name.split("/")))
    if nested := next((name for name in parts if "/" in name), None):
        raise SourceError(
            f"{location} is a folder that holds folders, such as {nested.rpartition('/')[0]}: values that stand in "
            "their names are not read. Write the month as one parquet file."
        )
    if not parts:
        raise SourceError(f"{location} is a folder without a data file. Put the month there, as one file or in parts.")
    return parts


def missing_month(names: Sequence[str], taxi: str, month: Month, where: str) -> SourceError:
    """The error for a month that is not there, which says what is there instead.

    Args:
        names: The paths that are there, relative to the place; in folders, too.
        taxi: The feed's name.
        month: The month.
        where: The place.
    """
    feed = FEEDS[taxi]
    alike = _alike(names, feed, month)
    if alike:
        return SourceError(f"There is no {feed.file(month)}.parquet (nor .csv, nor .csv.gz) in {where}. {alike}")
    dates = r"(\d{4}-(?:0[1-9]|1[0-2]))"
    named = re.compile(rf"{feed.file(dates)}(?:{'|'.join(map(re.escape, ENDINGS))})")
    months = sorted({Month.parse(match[1]) for name in names if (match := named.fullmatch(name))})
    listed = f"{', '.join(map(str, months[:6]))}, ... {months[-1]}" if len(months) > 7 else ", ".join(map(str, months))
    return SourceError(
        f"There is no {month} of the {feed.title} in {where}. "
        + (f"It has {listed}: ask for one of these" if months else f"It has no month of the {feed.title} at all")
        + f", or put {feed.file(month)}.parquet (or .csv, or .csv.gz) there."
    )


def _alike(names: Sequence[str], feed: Feed, month: Month) -> str | None:
    """What the month is there as, and what to do; None if nothing looks like it."""
    dated = re.compile(rf"(?<!\d){month.year}\D{{0,8}}0?{month.month}(?!\d)")
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    found = [
        PurePosixPath(name)
        for name in names
        if dated.search(name) and name not in folders and _about(name, feed) is not False
    ]
    if not found:
        return None
    stem = feed.file(month)
    path = min(found, key=lambda path: (not _about(path.name, feed), len(path.parts), path))
    ending = path.name.lower().partition(".")[2]
    if path.name.startswith(stem) and f".{ending}" in ENDINGS:
        return f"It is in a folder there, {path.parent}: name that folder, or put a link to {path} beside the others."
    if not dated.search(path.name):
        folder = next(parent for parent in reversed(path.parents) if dated.search(str(parent)))
        return (
            f"The folder {folder} looks like it: link it under the name that is looked for, "
            f"ln -s {folder} {stem}.parquet, or name the folder that holds such files."
        )
    readable = {"parquet": ".parquet", "csv": ".csv", "csv.gz": ".csv.gz"}.get(ending)
    if readable is None:
        return (
            f"It has {path}, which looks like it; but only parquet, CSV and gzipped CSV are read: unpack it, or save "
            f"it as {stem}.parquet or {stem}.csv."
        )
    return f"It is there under another name, {path}: rename it to {stem}{readable}, or link it so."


def _about(path: str, feed: Feed) -> bool | None:
    """Whether a path is about a feed's trips, by its words; None if it is about nobody's."""
    words = _FEEDS.findall(path.lower())
    return feed.name in words if words else None
