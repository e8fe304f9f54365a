"""Batch scoring: a month of trip records in, a prediction for each of its trips out.

A record is scored if all is there that a model has to know when a trip begins: the time of the pickup, and two zones
that exist. Nothing else is asked of it. A meter that ran all day, or no drop-off at all, says nothing against the
prediction; and a distance that is missing or impossible counts as unknown, as it does in the prediction service. So
more records are scored than keep the contract (``tripcast.taxi.contract``). Those that keep it carry their true
duration, and errors are measured on them alone: on the trips that models are judged on.

The scores of a month are a folder in the artifact store, ``scores/green/version=3/month=2021-03/``, with a part for
every million trips and the marker ``_SUCCESS``, the usual sign that a folder is whole: what it says is in ``Scored``.
It is taken away before the first part changes and comes back after the last one. In between, parts that a former
revision of the month had and this one has not are deleted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tripcast.errors import ContractError, InvalidRequest
from tripcast.jobs.months import find_months, look_into
from tripcast.models import Model
from tripcast.months import Month, parse_months
from tripcast.registry.connection import check_reachable
from tripcast.registry.registry import Registry
from tripcast.registry.versions import Version
from tripcast.settings import Settings
from tripcast.storage.arrow import arrow_scalar, prefetch
from tripcast.storage.files import storage_errors
from tripcast.storage.store import Store, open_store, sha256_of
from tripcast.taxi import model_name
from tripcast.taxi.contract import MonthRules, sort_rows, speaking_against
from tripcast.taxi.feeds import find_feed
from tripcast.taxi.ingestion import Ingested, read_ingested
from tripcast.taxi.sources import open_source
from tripcast.taxi.trips import MILES, PICKUP_COLUMNS, TARGET, Trips
from tripcast.taxi.ways import ways_of
from tripcast.taxi.zones import LAST_ZONE

#: Why a record is not scored; one to which several apply counts under the first.
REASONS = {
    "missing_value": "the pickup's time is missing or unreadable",
    "missing_zone": "a zone is missing or unreadable",
    "unknown_zone": f"zone outside 1..{LAST_ZONE}",
}

#: The file whose presence says that the scores beside it are whole.
MARKER = "_SUCCESS"

#: A part is closed with the batch that brings it to this many trips.
_PART_TRIPS = 1_000_000

#: The key under which a part tells what made it.
_PROVENANCE = b"tripcast"


def scores_schema() -> pa.Schema:
    """A scored trip. The version and the month are in the folders' names, where Hive partitioning looks for them.

    - ``row``: the record's number in the month as its source has it, from 0.
    - ``pickup_datetime``: New York local time.
    - ``trip_distance_miles``: null where the record has none, or an impossible one: negative or not finite.
    - ``way``: ``metered``, or ``zones_only`` where the record has no plausible distance, or its feed none at all.
    - ``duration_minutes``, ``lower_minutes``, ``upper_minutes``: the prediction, and its 10-90 % interval.
    - ``true_minutes``: how long the trip took; null where the record does not keep the contract.
    - ``model``: the registered model's name.
    """
    return pa.schema(
        {
            "row": pa.int64(),
            "pickup_datetime": pa.timestamp("us"),
            "pickup_zone": pa.int16(),
            "dropoff_zone": pa.int16(),
            "trip_distance_miles": pa.float64(),
            "way": pa.string(),
            "duration_minutes": pa.float64(),
            "lower_minutes": pa.float64(),
            "upper_minutes": pa.float64(),
            "true_minutes": pa.float64(),
            "model": pa.string(),
        }
    )


@dataclass(frozen=True)
class Scored:
    """The scores of a month.

    Attributes:
        model: The registered model's name.
        version: Its version.
        digest: That version's identity, the SHA-256 of its model folder.
        month: The month.
        records: SHA-256 of its records, see ``tripcast.taxi.ingestion.ContentHash``.
        location: Where the scores are: the folder's URI.
        trips: Number of records.
        predicted: How many of them were scored.
        not_predicted: How many were not, by reason, all of ``REASONS``.
        judged: How many scored trips have a true duration.
        rmse: Root mean squared error on those, minutes; None where there are none.
        parts: SHA-256 of each part, by file name.
    """

    model: str
    version: int
    digest: str
    month: str
    records: str
    location: str
    trips: int
    predicted: int
    not_predicted: dict[str, int]
    judged: int
    rmse: float | None
    parts: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """All of it, ready for JSON; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def plan_scoring(source: str, taxi: str, months: str, model: str) -> list[dict[str, str | int]]:
    """Check a scoring request, find its months and the model's version.

    The version is settled here, once for all months: an alias may move while they are scored.

    Args:
        source: Where months come from, as ``tripcast.taxi.sources.open_source`` takes it.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        months: Months to score, as ``2021-01..2021-03``.
        model: A version's number, or an alias: ``champion``, ``challenger``, ``previous``.

    Returns:
        For each month, in time order, its ``month``, the ``revision`` that the source has, and the ``version``.

    Raises:
        InvalidRequest: If the taxi, the version or the alias is unknown, or a month cannot be read.
        SourceError: If months are missing at the source, or are no tables.
        ContractError: If months have not the columns of the taxi's.
        SourceUnreachable: If the source does not answer.
        TrackingError: If the tracking server does not answer.
        StorageError: If the artifact store does not, or refuses.
    """
    find_feed(taxi)
    asked = parse_months(months)
    settings = Settings.load()
    check_reachable(settings.tracking_uri)
    open_store(settings.artifacts).check()
    version = find_version(Registry(model_name(taxi), settings), model)

    opened = open_source(source, settings.downloads)
    revisions = find_months(opened, taxi, asked)
    for remark in look_into(opened, taxi, asked):
        print(remark)
    return [
        {"month": str(month), "revision": revision, "version": version.number} for month, revision in revisions.items()
    ]


def find_version(registry: Registry, model: str) -> Version:
    """The version that a person means.

    Args:
        registry: The registered model.
        model: A version's number, or an alias.

    Raises:
        InvalidRequest: If there is no such version.
        TrackingError: If the registry does not answer.
    """
    versions = registry.versions()
    if not versions:
        raise InvalidRequest(f"{registry.name} has no versions yet, so none is '{model}': train one, then score.")
    for version in versions:
        if model == str(version.number) or model in version.aliases:
            return version
    known = ", ".join(" ".join([str(version.number), *version.aliases]) for version in reversed(versions))
    raise InvalidRequest(
        f"{registry.name} has no version '{model}'. Its versions and their aliases: {known}. Name one of these."
    )


def score(registry: Registry, number: int, month: Month, records: Path, folder: Path, store: Store) -> Scored:
    """Score a month, and keep its scores in the artifact store in place of any that are there for it.

    Memory follows a batch, not the month. The same records and version give the same files, to the last byte.

    Args:
        registry: The registered model.
        number: The version to score with.
        month: The month that the records are of.
        records: The month's records, as ``tripcast.taxi.ingestion.ingest`` wrote them.
        folder: Where the scores are written first: parts in ``scores_schema``, and the marker.
        store: Where they are kept.

    Returns:
        What was scored, and where the scores are.

    Raises:
        InvalidRequest: If there is no such version.
        ContractError: If this is not that month of trips; nothing is kept of it then.
        SourceError: If the records are damaged.
        TrackingError: If the model cannot be had.
        StorageError: If the scores cannot be written or kept.
    """
    ingested = Ingested.open(records)
    model = registry.load(registry.version(number))
    origin = {"model": registry.name, "version": number, "digest": model.digest, "records": ingested.sha256}
    schema = scores_schema().with_metadata({_PROVENANCE: json.dumps(origin)})
    tally = _Tally(ingested.taxi, month)
    parts = _write_parts(_score_batches(model, registry.name, ingested, tally), folder, schema)
    tally.check_month(ingested.location)
    key = f"scores/{ingested.taxi}/version={number}/month={month}"
    scored = Scored(
        model=registry.name,
        version=number,
        digest=model.digest,
        month=str(month),
        records=ingested.sha256,
        location=f"{store.uri}/{key}",
        trips=tally.predicted + tally.not_predicted.total(),
        predicted=tally.predicted,
        not_predicted=dict(tally.not_predicted),
        judged=tally.judged,
        rmse=math.sqrt(tally.squared_error / tally.judged) if tally.judged else None,
        parts={part.name: sha256_of(part) for part in parts},
    )
    marker = folder / MARKER
    with storage_errors(marker):
        marker.write_text(json.dumps(scored.to_dict(), indent=1) + "\n")
    _publish(parts, marker, key, store)
    return scored


def score_rows(model: Model, name: str, rows: pa.RecordBatch, first: int) -> tuple[pa.RecordBatch, Counter[str]]:
    """Score the next records of a month.

    Args:
        model: The model.
        name: Its name in the registry.
        rows: Records in ``tripcast.taxi.trip_files.recorded_schema``.
        first: The number of the first of them in the month.

    Returns:
        The scored trips, in ``scores_schema`` and in the records' order; and how many records were not scored, by
        reason.
    """
    number = np.arange(first, first + len(rows))
    good, aside = sort_rows(rows.append_column("row", pa.array(number)))
    keeps_contract = ~np.isin(number, aside["row"].to_numpy())
    truth = np.full(len(rows), np.nan)
    truth[keeps_contract] = good[TARGET].to_numpy()

    has_distance = MILES in rows.schema.names
    pickup, starts, ends = (rows[column].to_numpy(zero_copy_only=False) for column in PICKUP_COLUMNS if column != MILES)
    miles = rows[MILES].to_numpy(zero_copy_only=False) if has_distance else np.full(len(rows), np.nan)
    # Numbers that are missing are NaN, and NaN lies in no range.
    untimed, unplaced = np.isnat(pickup), np.isnan(starts) | np.isnan(ends)
    exist = (starts >= 1) & (starts <= LAST_ZONE) & (ends >= 1) & (ends <= LAST_ZONE)
    scored = ~untimed & exist
    not_predicted = Counter(
        missing_value=int(untimed.sum()),
        missing_zone=int((~untimed & unplaced).sum()),
        unknown_zone=int((~untimed & ~unplaced & ~exist).sum()),
    )
    trips = Trips(
        pickup[scored],
        starts[scored].astype(np.int16),
        ends[scored].astype(np.int16),
        np.where(np.isfinite(miles) & (miles >= 0), miles, np.nan)[scored],
    )
    prediction = model.predict(trips, metered=has_distance)
    columns = [
        number[scored],
        trips.pickup_datetime,
        trips.pickup_zone,
        trips.dropoff_zone,
        _null_where_unknown(trips.trip_distance_miles),
        pa.array(ways_of(trips, metered=True), pa.string()),
        prediction.minutes,
        prediction.lower,
        prediction.upper,
        _null_where_unknown(truth[scored]),
        pa.repeat(arrow_scalar(name, pa.string()), len(trips)),
    ]
    return pa.record_batch(columns, schema=scores_schema()), not_predicted


def _null_where_unknown(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _score_batches(model: Model, name: str, ingested: Ingested, tally: _Tally) -> Iterator[pa.RecordBatch]:
    first = 0
    for rows in prefetch(read_ingested(ingested)):
        scores, not_predicted = score_rows(model, name, rows, first)
        tally.add(scores, not_predicted)
        first += len(rows)
        yield scores


@dataclass
class _Tally:
    """What the batches of a month come to."""

    taxi: str
    month: Month
    predicted: int = 0
    outside_month: int = 0
    not_predicted: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    judged: int = 0
    squared_error: float = 0.0

    def add(self, scores: pa.RecordBatch, not_predicted: Counter[str]) -> None:
        self.not_predicted.update(not_predicted)
        self.predicted += len(scores)
        pickup = scores["pickup_datetime"].to_numpy()
        self.outside_month += int(((pickup < self.month.start) | (pickup >= self.month.end)).sum())
        truth = scores["true_minutes"].to_numpy(zero_copy_only=False)
        self.judged += len(truth) - scores["true_minutes"].null_count
        self.squared_error += float(np.nansum((scores["duration_minutes"].to_numpy() - truth) ** 2))

    def check_month(self, location: str) -> None:
        """Hold the month to the contract's bounds, in as far as they are about what a model looks at."""
        rules, where = MonthRules(), f"{self.month} from {location}"
        if not self.predicted + self.not_predicted.total():
            raise ContractError(
                f"{where} is empty: it has the right columns but no rows. Fetch it again, or leave the month out."
            )
        bad = speaking_against(self.taxi, self.not_predicted) if self.predicted else self.not_predicted
        lost = bad.total()
        trips = self.predicted + lost
        if lost > rules.max_rejected_share * trips:
            reason, count = bad.most_common(1)[0]
            raise ContractError(
                f"{where} has too many records that cannot be predicted: {lost:,} of {trips:,} ({lost / trips:.1%}, "
                f"at most {rules.max_rejected_share:.1%} are allowed), most often {reason} ({count:,}: "
                f"{REASONS[reason]}). Correct the month, or leave it out."
            )
        if self.outside_month > rules.max_outside_share * self.predicted:
            raise ContractError(
                f"{where} is not that month: {self.outside_month:,} of {self.predicted:,} trips "
                f"({self.outside_month / self.predicted:.1%}, at most {rules.max_outside_share:.1%} are allowed) begin "
                "outside of it. Check that the file has the right name, or leave the month out."
            )


def _write_parts(batches: Iterator[pa.RecordBatch], folder: Path, schema: pa.Schema) -> list[Path]:
    """Write batches to a folder, in parts of bounded size."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    batch = next(batches, None)
    while batch is not None:
        parts.append(folder / f"part-{len(parts):05d}.parquet")
        trips = 0
        # They are kept and fetched: compressed, they have 40 % of the size.
        with (
            storage_errors(parts[-1]),
            pq.ParquetWriter(parts[-1], schema, compression="zstd", use_dictionary=["way", "model"]) as writer,
        ):
            while batch is not None and trips < _PART_TRIPS:
                writer.write_batch(batch)
                trips += len(batch)
                batch = next(batches, None)
    return parts


def _publish(parts: list[Path], marker: Path, key: str, store: Store) -> None:
    """Put scores under a key in place of those that are there; see the module."""
    former = set(store.list(f"{key}/"))
    store.delete(f"{key}/{MARKER}")
    for part in parts:
        store.put(part, f"{key}/{part.name}")
    for stale in sorted(former - {f"{key}/{file.name}" for file in (*parts, marker)}):
        store.delete(stale)
    store.put(marker, f"{key}/{MARKER}", "application/json")
