"""The contract that a month of trips has to keep before a model may learn from it.

A bad row is set aside with its reason and counted. A bad month is refused, with a sentence that says what, where and
what to do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tripcast.errors import ContractError
from tripcast.months import Month, MonthUsed
from tripcast.storage.arrow import arrow_scalar, parquet_writer, prefetch
from tripcast.storage.files import storage_errors
from tripcast.taxi.feeds import FEEDS, find_feed
from tripcast.taxi.ingestion import Ingested, read_ingested
from tripcast.taxi.trip_files import recorded_schema, trips_schema
from tripcast.taxi.trips import FARTHEST_MILES, LONGEST_MINUTES, MILES, SHORTEST_MINUTES
from tripcast.taxi.zones import LAST_ZONE

#: Odd, and without a pattern in its bits: 2 ** 64 divided by the golden ratio (Knuth, TAOCP 3, section 6.4).
_MIXER = np.uint64(0x9E3779B97F4A7C15)

_SECOND, _MINUTE = 1_000_000, 60_000_000  # in microseconds, the unit of time in the files

#: Why a row is set aside; a row that breaks several rules counts under the first.
REASONS = {
    "unreadable_row": "no needed value can be read: a row with more or fewer fields than the header, for example",
    "missing_value": "a needed value is missing or unreadable",
    "missing_zone": "a zone is missing or unreadable, as often in feeds that do not report all",
    "unknown_zone": f"zone outside 1..{LAST_ZONE}",
    "bad_distance": "distance negative or not finite",
    "bad_duration": f"duration outside {SHORTEST_MINUTES}..{LONGEST_MINUTES} minutes",
    # Times without seconds are off by less than a minute, and an honest report is no further from them.
    "contradiction": "the duration that is reported is negative, or a minute or more off that from pickup to drop-off",
}

_ZONES, _REPORT = ("pickup_zone", "dropoff_zone"), "reported_seconds"

#: What is odd about a row that is kept; a row may carry several flags.
FLAGS = {
    "outside_month": "pickup outside its month",
    "far": f"distance above {FARTHEST_MILES} miles",
    "zero_distance": "distance zero",
    "repeated": "the same as another trip in all that is kept of it; estimated in months of more than 262,144 rows",
}

#: Hours by which a file that was converted to another time zone is off, at least: New York is four or five from UTC.
_ZONE_HOURS = np.timedelta64(4, "h")

#: So many trips out of place show that a month's hours were moved; published months have single ones.
_MANY_MOVED = 10

#: The share of trips that are the same as another one, above which people are told.
_USUAL_REPEATED = 0.01

#: So many trips are compared with each other, at most.
_MOST_COMPARED = 1 << 18


@dataclass(frozen=True)
class MonthRules:
    """When a whole month is refused. The published months that tripcast was built on keep far inside all of these.

    Attributes:
        max_rejected_share: Greatest share of rows set aside, zones that a feed does not report left out of account.
            Published months lose 3 to 6 %, nearly all for their duration; beyond a fifth, something is wrong with the
            file and not with the trips.
        max_outside_share: Greatest share of kept trips with a pickup outside the month. Published months have
            less than 0.1 %; a file under a wrong month's name has nearly all.
        max_repeated_share: Greatest share of kept trips that repeat another one. Published months have less than 1 %,
            fares that were taken back; a file that was appended to itself has half.
        min_kept: Fewest kept trips. A month has tens of thousands: fewer than this is a fragment, on which neither
            a model nor a judgement can stand.
    """

    max_rejected_share: float = 0.20
    max_outside_share: float = 0.05
    max_repeated_share: float = 0.05
    min_kept: int = 100


@dataclass(frozen=True)
class MonthCheck:
    """What the contract found in a month.

    Attributes:
        ingested: The month that was checked.
        kept_file: Its good trips: parquet in ``trips_schema``.
        rejected_file: The rows set aside: parquet in ``recorded_schema`` and ``reason``, one of ``REASONS``.
        rejected: Rows set aside by reason, all of ``REASONS``.
        flagged: Kept rows by flag, all of ``FLAGS``.
        around: Kept trips in the hours around the month's ends, see ``_count_around``.
    """

    ingested: Ingested
    kept_file: Path
    rejected_file: Path
    rejected: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    flagged: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FLAGS, 0)))
    around: Counter[str] = field(default_factory=Counter)

    @property
    def month(self) -> Month:
        """The month that was asked for."""
        return self.ingested.month

    @property
    def rows(self) -> int:
        """Rows that the source had."""
        return self.ingested.rows

    def used(self, role: str) -> MonthUsed:
        """What those need to know who use the month's trips, in the role they have: ``train`` or ``test``."""
        return MonthUsed(
            month=str(self.month),
            role=role,
            location=self.ingested.location,
            rows=self.rows,
            kept=self.kept,
            digest=self.ingested.sha256,
            remarks=" ".join(self.remarks),
        )

    @property
    def remarks(self) -> list[str]:
        """What people should know of the month, a sentence each."""
        remarks = list(self.ingested.remarks)
        repeated = self.flagged["repeated"]
        if repeated > _USUAL_REPEATED * self.kept:
            remarks.append(
                f"{repeated:,} of {self.kept:,} trips of {self.month} are the same as another one, which is more than "
                "in the publisher's months."
            )
        return remarks

    @property
    def kept(self) -> int:
        """Rows that keep the contract."""
        return self.rows - self.rejected.total()

    @property
    def bad(self) -> Counter[str]:
        """Rows set aside that speak against the month, by reason."""
        return speaking_against(self.ingested.taxi, self.rejected)

    @property
    def bad_share(self) -> float:
        """Share of those among them and the kept, 0 to 1; 0 for a month without either."""
        bad = self.bad.total()
        return bad / (bad + self.kept) if bad else 0.0


def speaking_against(taxi: str, rejected: Counter[str]) -> Counter[str]:
    """Of rows set aside, by reason, those that speak against their month: not for zones that its feed often lacks."""
    usual = "missing_zone" if FEEDS[taxi].zones_missing else None
    return Counter({reason: count for reason, count in rejected.items() if reason != usual})


def describe(taxi: str) -> str:
    """The contract in words, as Markdown.

    Args:
        taxi: The feed's name.

    Raises:
        InvalidRequest: If it is unknown.
    """
    feed = find_feed(taxi)
    held, rules = _rules(recorded_schema(taxi).names), MonthRules()
    lines = ["A row is set aside, for the first of these reasons:", ""]
    lines += [f"- `{reason}`: {meaning}" for reason, meaning in REASONS.items() if reason in held]
    lines += ["", "Kept, and flagged:", "", *(f"- `{name}`: {meaning}" for name, meaning in FLAGS.items())]
    lines += [
        "",
        f"A month is refused with more than {rules.max_rejected_share:.0%} of its rows set aside"
        f"{', those that lack a zone left out of account' if feed.zones_missing else ''}, "
        f"{rules.max_outside_share:.0%} of its trips outside of it or {rules.max_repeated_share:.0%} repeated, with "
        f"fewer than {rules.min_kept} trips, and where its hours were moved to another time zone.",
    ]
    return "\n".join(lines) + "\n"


def validate(
    months: Sequence[Ingested], *, kept: Path, rejected: Path, rules: MonthRules | None = None
) -> list[MonthCheck]:
    """Hold months to the contract: sort good rows from bad ones, then refuse what is no month of trips.

    All months are read, batch by batch, before any is refused, so that one run names everything that is wrong.

    Args:
        months: The ingested months.
        kept: Folder for the good trips, one file ``2021-01.parquet`` a month.
        rejected: Folder for the rows set aside, named alike. They stay when a month is refused, to be looked at.
        rules: When a month is refused.

    Returns:
        What was found, in the order of the months.

    Raises:
        ContractError: If months break the rules: one sentence for each of them.
        SourceError: If an ingested file is damaged.
        StorageError: If a file cannot be written.
    """
    checks = [_check(month, kept / f"{month.month}.parquet", rejected / f"{month.month}.parquet") for month in months]
    broken = [sentence for check in checks if (sentence := _refusal(check, rules or MonthRules()))]
    if broken:
        raise ContractError("\n".join(broken))
    return checks


def move_test_month(check: MonthCheck, folder: Path) -> None:
    """Move a month's good trips into a folder of their own, out of reach of whoever trains on the others.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check.kept_file.rename(folder / check.kept_file.name)


def _check(ingested: Ingested, kept_file: Path, rejected_file: Path) -> MonthCheck:
    check, repeats = MonthCheck(ingested, kept_file, rejected_file), _Repeats(ingested.rows)
    aside = recorded_schema(ingested.taxi).append(pa.field("reason", pa.string()))
    with parquet_writer(kept_file, trips_schema()) as good, parquet_writer(rejected_file, aside) as bad:
        for kept, rejected in prefetch(map(sort_rows, read_ingested(ingested))):
            good.write_batch(kept)
            check.flagged.update(_flags(kept, check.month))
            check.around.update(_count_around(kept, check.month))
            repeats.add(kept)
            if len(rejected):
                bad.write_batch(rejected)
                counts = rejected["reason"].value_counts()
                check.rejected.update(dict(zip(*(counts.field(side).to_pylist() for side in (0, 1)), strict=True)))
    check.flagged["repeated"] = repeats.count()
    return check


def sort_rows(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Sort rows in ``recorded_schema`` by the contract.

    A trip whose zones are not both known is no trip to learn from or to be judged on: whoever asks knows where they are
    and where they want to go. And where a report of the duration contradicts the two times, nobody knows which is true.

    Returns:
        The good rows, in ``trips_schema``; and the rows set aside, as they are, with their ``reason``.
    """
    rules = _rules(batch.schema.names)
    # A null in any of the columns makes this null too: that row is not good.
    good = reduce(pc.and_, (rule(batch) for rule in rules.values())).fill_null(arrow_scalar(False, pa.bool_()))
    trips = batch.filter(good)
    kept = pa.record_batch(
        [
            trips["pickup_datetime"],
            trips["pickup_zone"].cast(pa.int16()),
            trips["dropoff_zone"].cast(pa.int16()),
            trips[MILES]
            if MILES in batch.schema.names
            else pa.repeat(arrow_scalar(math.nan, pa.float64()), len(trips)),
            pc.divide(_duration(trips).cast(pa.float64()), arrow_scalar(_MINUTE, pa.float64())),
        ],
        schema=trips_schema(),
    )
    bad = batch.filter(pc.invert(good))
    # The rules are asked in order, the first one that is broken is the reason; null is not broken.
    broken = pa.StructArray.from_arrays([pc.invert(rule(bad)) for rule in rules.values()], names=list(rules))
    return kept, bad.append_column(
        "reason", pc.case_when(broken, *(arrow_scalar(reason, pa.string()) for reason in rules))
    )


def _rules(columns: Sequence[str]) -> dict[str, Callable[[pa.RecordBatch], pa.BooleanArray]]:
    """What a good row keeps, by the reason of a row that does not; null where a value is missing.

    Args:
        columns: Those that the rows have: there is no rule for what a feed does not say.
    """
    # Zones have a reason of their own, and a report is one more witness and no more.
    needed = [column for column in columns if column not in (*_ZONES, _REPORT)]

    def between(values: pa.Array, first: int, last: int) -> pa.BooleanArray:
        return pc.and_(
            pc.greater_equal(values, arrow_scalar(first, values.type)),
            pc.less_equal(values, arrow_scalar(last, values.type)),
        )

    def agree(rows: pa.RecordBatch) -> pa.BooleanArray:
        reported = rows[_REPORT].cast(pa.int64())
        off = pc.abs(pc.subtract(pc.multiply(reported, arrow_scalar(_SECOND, pa.int64())), _duration(rows)))
        return pc.and_(
            pc.greater_equal(reported, arrow_scalar(0, pa.int64())), pc.less(off, arrow_scalar(_MINUTE, pa.int64()))
        ).fill_null(arrow_scalar(True, pa.bool_()))

    rules: dict[str, Callable[[pa.RecordBatch], pa.BooleanArray]] = {
        "unreadable_row": lambda rows: reduce(pc.or_, (column.is_valid() for column in rows.columns)),
        "missing_value": lambda rows: reduce(pc.and_, (rows[column].is_valid() for column in needed)),
        "missing_zone": lambda rows: reduce(pc.and_, (rows[column].is_valid() for column in _ZONES)),
        "unknown_zone": lambda rows: reduce(pc.and_, (between(rows[column], 1, LAST_ZONE) for column in _ZONES)),
        "bad_distance": lambda rows: pc.and_(
            pc.greater_equal(rows[MILES], arrow_scalar(0, pa.float64())), pc.is_finite(rows[MILES])
        ),
        "bad_duration": lambda rows: between(_duration(rows), SHORTEST_MINUTES * _MINUTE, LONGEST_MINUTES * _MINUTE),
        "contradiction": agree,
    }
    asked = {"bad_distance": MILES, "contradiction": _REPORT}
    return {reason: rule for reason, rule in rules.items() if asked.get(reason) in (None, *columns)}


def _duration(rows: pa.RecordBatch) -> pa.Int64Array:
    """Microseconds from pickup to drop-off."""
    return pc.subtract(rows["dropoff_datetime"].cast(pa.int64()), rows["pickup_datetime"].cast(pa.int64()))


def _flags(kept: pa.RecordBatch, month: Month) -> dict[str, int]:
    """How many good rows carry each flag."""
    pickup, miles = kept["pickup_datetime"], kept["trip_distance_miles"]
    start, end = (arrow_scalar(moment, pickup.type) for moment in (month.start, month.end))
    marked = {
        "outside_month": pc.or_(pc.less(pickup, start), pc.greater_equal(pickup, end)),
        "far": pc.greater(miles, arrow_scalar(FARTHEST_MILES, miles.type)),
        "zero_distance": pc.equal(miles, arrow_scalar(0, miles.type)),
    }
    return {flag: rows.true_count for flag, rows in marked.items()}


def _count_around(kept: pa.RecordBatch, month: Month) -> dict[str, int]:
    """How many trips begin in the few hours before and after either end of the month."""
    pickup = _numpy(kept["pickup_datetime"], "datetime64[us]")
    pickup = pickup[(pickup < month.start + _ZONE_HOURS) | (pickup >= month.end - _ZONE_HOURS)]
    counts = {}
    for name, end in {"start": month.start, "end": month.end}.items():
        counts[f"before {name}"] = int(np.count_nonzero((pickup >= end - _ZONE_HOURS) & (pickup < end)))
        counts[f"after {name}"] = int(np.count_nonzero((pickup >= end) & (pickup < end + _ZONE_HOURS)))
    return counts


def _numpy(values: pa.Array, kind: str) -> npt.NDArray[Any]:
    """The memory of an array without nulls; ``to_numpy`` would do, but imports pandas."""
    return np.frombuffer(values.buffers()[1], kind, len(values) + values.offset)[values.offset :]


class _Repeats:
    """Counts trips that are the same as another one, by 64-bit hashes of them.

    Trips are compared that begin at certain moments: all, or where those would be too many, half of them, a quarter,
    and so on. All copies of a trip begin at the same moment.

    Args:
        rows: How many records there are.
    """

    def __init__(self, rows: int) -> None:
        # An estimate rests on an eighth of what would be counted.
        self._halvings = (rows // (_MOST_COMPARED >> 3)).bit_length() if rows > _MOST_COMPARED else 0
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def add(self, kept: pa.RecordBatch) -> None:
        """Take in the next trips, in ``trips_schema``."""
        if not len(kept):
            return
        places = _numpy(kept["pickup_datetime"], "u8") * _MIXER
        chosen = np.flatnonzero(places <= np.uint64(2 ** (64 - self._halvings) - 1))
        hashes = places[chosen]
        for name in kept.schema.names[1:]:
            column = _numpy(kept[name], f"u{kept[name].type.bit_width // 8}")[chosen]
            hashes = (hashes ^ column.astype(np.uint64)) * _MIXER
            hashes ^= hashes >> np.uint64(32)
        self._hashes.append(hashes)

    def count(self) -> int:
        """How many trips repeat an earlier one."""
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        return int(len(hashes) - len(np.unique(hashes))) << self._halvings


def _refusal(check: MonthCheck, rules: MonthRules) -> str | None:
    """The sentence that refuses a month, or None for a month that keeps the rules."""
    where = f"{check.month} from {check.ingested.location}"
    if not check.rows:
        return f"{where} is empty: it has the right columns but no rows. Fetch it again, or leave the month out."
    if check.bad_share > rules.max_rejected_share:
        reason, count = check.bad.most_common(1)[0]
        bad = check.bad.total()
        return (
            f"{where} has too many bad rows: {bad:,} of {bad + check.kept:,} "
            f"({check.bad_share:.1%}, at most {rules.max_rejected_share:.1%} are allowed), most often {reason} "
            f"({count:,}: {REASONS[reason]}). Look at them in {check.rejected_file}, then correct the month "
            "or leave it out."
        )
    if check.kept < rules.min_kept:
        reason, count = check.rejected.most_common(1)[0]
        aside = f" ({count:,} are set aside as {reason}: {REASONS[reason]})" if count else ""
        return (
            f"{where} has too few trips: {check.kept:,} are left of {check.rows:,} rows{aside}, and at least "
            f"{rules.min_kept:,} are needed. Look for the whole month, or leave it out."
        )
    outside = check.flagged["outside_month"]
    if outside > rules.max_outside_share * check.kept:
        return (
            f"{where} is not that month: {outside:,} of {check.kept:,} trips ({outside / check.kept:.1%}, at most "
            f"{rules.max_outside_share:.1%} are allowed) begin outside of it. Check that the file has the right name, "
            "or leave the month out."
        )
    repeated = check.flagged["repeated"]
    if repeated > rules.max_repeated_share * check.kept:
        return (
            f"{where} has trips more than once: about {repeated:,} of {check.kept:,} repeat another one "
            f"({repeated / check.kept:.1%}, at most {rules.max_repeated_share:.1%} are allowed). Remove the copies, or "
            "fetch the month again: it may have been appended to itself."
        )
    return _moved_hours(check, where)


def _moved_hours(check: MonthCheck, where: str) -> str | None:
    """The sentence that refuses a month whose hours were moved by a conversion of time zones, or None."""
    around = check.around
    for beyond, within, moved in (
        ("after end", "after start", "late: converted to UTC, for example"),
        ("before start", "before end", "early: converted from UTC to New York's time twice, for example"),
    ):
        if around[beyond] >= _MANY_MOVED and around[beyond] > around[within]:
            outside, inside = around[beyond], around[within]
            where_outside, where_inside = (place.replace(" ", " its ") for place in (beyond, within))
            return (
                f"The hours of {where} are moved: {outside:,} trips begin in the {_ZONE_HOURS.astype(int)} hours "
                f"{where_outside}, and {inside:,} in those {where_inside}. Its times are not New York's wall clock, "
                f"but {moved}. Convert them to America/New_York and write them without a zone, or take the "
                "publisher's file."
            )
    return None


def summary(checks: Sequence[MonthCheck]) -> str:
    """The findings as a Markdown table, a line a month, and what people should know of the months beneath."""
    names = [*REASONS, *FLAGS]
    head = ["month", "rows", "kept", "set aside", *names]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' + '---:|' * (len(head) - 1)}"]
    for check in checks:
        counts = [check.rows, check.kept, check.rejected.total()]
        counts += [(check.rejected | check.flagged)[name] for name in names]
        lines.append(f"| {check.month} | {' | '.join(f'{count:,}' for count in counts)} |")
    lines += ["", *(remark for check in checks for remark in check.remarks)]
    return "\n".join(lines) + "\n"


def metrics(checks: Sequence[MonthCheck]) -> dict[str, float]:
    """The findings over all months, for the tracker: rows, and shares of them from 0 to 1."""
    rows = sum(check.rows for check in checks)
    kept = sum(check.kept for check in checks)
    counted = sum((check.rejected + check.flagged for check in checks), Counter[str]())
    return {
        "rows": rows,
        "kept": kept,
        "rejected_share": (rows - kept) / max(rows, 1),
        **{f"rejected.{reason}": counted[reason] for reason in REASONS},
        **{f"flagged.{flag}": counted[flag] for flag in FLAGS},
    }
