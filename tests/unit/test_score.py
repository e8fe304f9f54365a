"""Batch scoring: which records are predicted, what is kept of them, and how one set of scores replaces another."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_trips
from tripcast.errors import ContractError, InvalidRequest, SourceError, StorageError, TrackingError
from tripcast.jobs import score as scoring
from tripcast.jobs.score import MARKER, Scored, find_version, plan_scoring, score, scores_schema
from tripcast.jobs.train import train
from tripcast.months import Month
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import DIGEST
from tripcast.settings import Settings
from tripcast.storage.store import FolderStore, Store, open_store, sha256_of
from tripcast.taxi.contract import validate
from tripcast.taxi.ingestion import Ingested, ingest
from tripcast.taxi.pyfunc import flavour
from tripcast.taxi.sources import files
from tripcast.taxi.trip_files import read_trips
from tripcast.taxi.trips import Trip, Trips

MARCH = Month(2021, 3)
BOOSTED, LINEAR = 1, 2
PART = "part-00000.parquet"

Record = tuple[datetime | None, datetime | None, int | None, int | None, float | None]

COLUMNS = {
    "lpep_pickup_datetime": pa.timestamp("us"),
    "lpep_dropoff_datetime": pa.timestamp("us"),
    "PULocationID": pa.int64(),
    "DOLocationID": pa.int64(),
    "trip_distance": pa.float64(),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Settings:
    """A home with two registered versions: version 1, boosted trees, is the champion; version 2 is linear."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, folder / "mlflow.db")
    settings = Settings(folder, str(folder), f"sqlite:///{folder / 'mlflow.db'}", None, image="")
    registry = Registry("tripcast-green", settings)
    for candidate in ("lightgbm", "linear"):
        model = folder / candidate
        train(candidate, make_trips(), taxi="green", data={"2021-01": "0" * 64}).save(model)
        with Tracker("tripcast-green", settings).pipeline_run(candidate, candidate) as run_id:
            registry.register(model, flavour=flavour("green"), run_id=run_id, tags={})
    registry.promote(BOOSTED, "The first.")
    return settings


@pytest.fixture
def registry(home: Settings) -> Registry:
    return Registry("tripcast-green", home)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def records(folder: Path, rows: list[Record]) -> Path:
    """A month as ``ingest`` hands it on, made of rows in the order of ``COLUMNS``."""
    table = pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema=pa.schema(COLUMNS))
    return ingested_table(folder, table)


def ingested_table(folder: Path, table: pa.Table) -> Path:
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, source / f"green_tripdata_{MARCH}.parquet")
    keep = open_store(str(folder / "snapshots"))
    ingest(str(source), "green", MARCH, output=folder / "records", downloads=folder / "downloads", store=keep)
    return folder / "records"


def record(
    at: datetime | None = datetime(2021, 3, 10, 8, 15),
    minutes: float | None = 12.0,
    start: int | None = 74,
    end: int | None = 236,
    miles: float | None = 2.3,
) -> Record:
    off = None if at is None or minutes is None else at + timedelta(minutes=minutes)
    return (at, off, start, end, miles)


def many(count: int, seed: int = 1) -> pa.Table:
    """Good trips of March among eight zones."""
    trips = make_trips(count, seed)
    assert trips.duration_minutes is not None
    pickup = trips.pickup_datetime + np.timedelta64(59, "D")
    off = pickup + (trips.duration_minutes * 60_000_000).astype("timedelta64[us]")
    columns = [pickup, off, trips.pickup_zone, trips.dropoff_zone, trips.trip_distance_miles]
    return pa.table(dict(zip(COLUMNS, columns, strict=True))).cast(pa.schema(COLUMNS))


def score_march(registry: Registry, month: Path, store: Store, version: int = BOOSTED) -> Scored:
    return score(registry, version, MARCH, month, month.parent / "scores", store)


def read_scores(store: Store) -> pa.Table:
    return pyarrow.dataset.dataset(f"{store.uri}/scores/green", partitioning="hive").to_table()


def trips_of(scores: pa.Table) -> Trips:
    names = ("pickup_datetime", "pickup_zone", "dropoff_zone", "trip_distance_miles")
    return Trips(*(scores[name].to_numpy() for name in names))


def content(folder: str) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


# Which records are predicted.


def test_a_record_is_predicted_if_its_pickup_time_and_its_zones_are_known(tmp_path, registry, store):
    good = [record()] * 30
    predicted = [
        record(),
        record(minutes=1_400),  # the meter ran all day
        record(minutes=-3),
        record(minutes=None),
        record(miles=None),
        record(miles=-1.0),
        record(miles=5_000.0),
        record(miles=0.0),
        record(start=264, end=265),
        record(at=datetime(2009, 1, 1)),
    ]
    missing = [record(at=None), record(start=None), record(end=None), record(start=None, end=999)]
    unknown = [record(start=0), record(end=266), record(start=-74), record(end=65_610)]

    scored = score_march(registry, records(tmp_path, [*good, *missing, *predicted, *unknown]), store)

    assert (scored.trips, scored.predicted) == (48, 40)
    assert scored.not_predicted == {"missing_value": 1, "missing_zone": 3, "unknown_zone": 4}
    assert read_scores(store)["row"].to_pylist() == [*range(30), *range(34, 44)]


def test_a_scored_trip_carries_what_was_recorded(tmp_path, registry, store):
    score_march(registry, records(tmp_path, [record(), record(start=None), *[record(start=41)] * 4]), store)

    row = read_scores(store).to_pylist()[1]

    model = registry.load(registry.version(BOOSTED))
    pickup = int(np.datetime64("2021-03-10T08:15", "s").astype(int))
    minutes, lower, upper = model.predict_one(Trip(41, 236, 2.3, pickup), metered=True)
    assert row == {
        "row": 2,
        "pickup_datetime": datetime(2021, 3, 10, 8, 15),
        "pickup_zone": 41,
        "dropoff_zone": 236,
        "trip_distance_miles": 2.3,
        "way": "metered",
        "duration_minutes": pytest.approx(minutes, abs=1e-9),
        "lower_minutes": pytest.approx(lower, abs=1e-9),
        "upper_minutes": pytest.approx(upper, abs=1e-9),
        "true_minutes": 12.0,
        "model": "tripcast-green",
        "version": 1,
        "month": "2021-03",
    }


@pytest.mark.parametrize("version", [BOOSTED, LINEAR])
def test_an_impossible_distance_counts_as_unknown(tmp_path, registry, store, version):
    odd = [None, -1.0, -3_000.0, float("nan"), float("inf")]
    score_march(registry, records(tmp_path, [record(miles=miles) for miles in odd]), store, version)

    scores = read_scores(store)

    assert scores["trip_distance_miles"].null_count == len(odd)
    assert len(set(scores["duration_minutes"].to_pylist())) == 1


def test_the_truth_is_there_for_records_that_keep_the_contract_alone(tmp_path, registry, store):
    rows = [
        record(minutes=1),
        record(minutes=60),
        record(minutes=0.9),
        record(minutes=61),
        record(minutes=None),
        record(miles=-1.0),
        record(minutes=7.5),
    ]

    scored = score_march(registry, records(tmp_path, rows), store)

    assert read_scores(store)["true_minutes"].to_pylist() == [1.0, 60.0, None, None, None, None, 7.5]
    assert scored.judged == 3


def test_a_month_without_any_truth_is_scored_and_has_no_error(tmp_path, registry, store):
    scored = score_march(registry, records(tmp_path, [record(minutes=None)] * 3), store)

    assert (scored.predicted, scored.judged, scored.rmse) == (3, 0, None)
    assert "rmse" not in scored.to_dict()


# The predictions.


@pytest.mark.parametrize("version", [BOOSTED, LINEAR])
def test_predictions_are_those_of_the_model_to_the_last_bit(tmp_path, registry, store, monkeypatch, version):
    monkeypatch.setattr(files, "BATCH_ROWS", 701)
    score_march(registry, ingested_table(tmp_path, many(5_000)), store, version)
    scores = read_scores(store)
    model = registry.load(registry.version(version))

    prediction = model.predict(trips_of(scores), metered=True)

    assert len(scores) == 5_000
    for name, values in (
        ("duration_minutes", prediction.minutes),
        ("lower_minutes", prediction.lower),
        ("upper_minutes", prediction.upper),
    ):
        assert np.array_equal(scores[name].to_numpy(), values)


@pytest.mark.parametrize("version", [BOOSTED, LINEAR])
def test_predictions_are_those_that_the_service_gives(tmp_path, registry, store, version):
    score_march(registry, ingested_table(tmp_path, many(500)), store, version)
    scores = read_scores(store)
    model = registry.load(registry.version(version))

    for row in scores.to_pylist():
        pickup = int(np.datetime64(row["pickup_datetime"], "s").astype(int))
        answer = model.predict_one(
            Trip(row["pickup_zone"], row["dropoff_zone"], row["trip_distance_miles"], pickup), metered=True
        )
        stored = (row["duration_minutes"], row["lower_minutes"], row["upper_minutes"])
        assert stored == pytest.approx(answer, abs=1e-9)


def test_the_error_is_the_one_that_evaluation_finds_on_the_same_month(tmp_path, registry, store):
    dirty = [record(minutes=1_400), record(miles=-2.0), record(start=None), record(miles=700.0)] * 5
    spoiled = pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in dirty], schema=pa.schema(COLUMNS))
    month = ingested_table(tmp_path, pa.concat_tables([many(2_000), spoiled]))
    (check,) = validate([Ingested.open(month)], kept=tmp_path / "kept", rejected=tmp_path / "rejected")
    trips = read_trips([check.kept_file])
    assert trips.duration_minutes is not None
    minutes = registry.load(registry.version(BOOSTED)).predict(trips, metered=True).minutes

    scored = score_march(registry, month, store)

    assert scored.judged == len(trips)
    assert scored.rmse == pytest.approx(np.sqrt(np.mean((minutes - trips.duration_minutes) ** 2)), rel=1e-12)


# What is kept.


def test_scores_are_partitioned_by_version_and_month(tmp_path, registry, store):
    month = ingested_table(tmp_path, many(50))
    for version in (BOOSTED, LINEAR):
        score_march(registry, month, store, version)

    assert store.list("scores/") == [
        f"scores/green/version={version}/month=2021-03/{name}" for version in (1, 2) for name in (MARKER, PART)
    ]
    scores = read_scores(store)
    assert scores.schema.names == [*scores_schema().names, "version", "month"]
    assert scores["version"].value_counts().to_pylist() == [{"values": 1, "counts": 50}, {"values": 2, "counts": 50}]
    assert set(scores["month"].to_pylist()) == {"2021-03"}


def test_a_part_says_what_made_it(tmp_path, registry, store):
    month = ingested_table(tmp_path, many(50))
    scored = score_march(registry, month, store)

    part = pq.read_schema(Path(scored.location) / PART)

    assert part.remove_metadata() == scores_schema()
    assert json.loads(part.metadata[b"tripcast"]) == {
        "model": "tripcast-green",
        "version": 1,
        "digest": registry.version(1).tags[DIGEST],
        "records": Ingested.open(month).sha256,
    }


def test_the_marker_says_what_was_scored_and_names_every_part(tmp_path, registry, store, small_parts):
    scored = score_march(registry, ingested_table(tmp_path, many(250)), store)

    assert json.loads((Path(scored.location) / MARKER).read_text()) == scored.to_dict()
    assert list(scored.parts) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    for name, digest in scored.parts.items():
        assert sha256_of(Path(scored.location) / name) == digest


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Batches of 50 trips, two of which make a part."""
    monkeypatch.setattr(files, "BATCH_ROWS", 50)
    monkeypatch.setattr(scoring, "_PART_TRIPS", 100)


def test_parts_together_hold_every_trip_once_and_in_order(tmp_path, registry, store, small_parts):
    scored = score_march(registry, ingested_table(tmp_path, many(250)), store)

    parts = [pq.read_table(Path(scored.location) / name)["row"].to_pylist() for name in scored.parts]

    assert parts == [list(range(100)), list(range(100, 200)), list(range(200, 250))]


def test_the_same_again_gives_the_same_bytes(tmp_path, registry, store, small_parts):
    month = ingested_table(tmp_path, many(250))
    score_march(registry, month, store)
    first = content(store.uri)

    score(registry, BOOSTED, MARCH, month, tmp_path / "again", store)

    assert content(store.uri) == first


def test_a_month_published_anew_with_fewer_trips_leaves_no_part_behind(tmp_path, registry, store, small_parts):
    score_march(registry, ingested_table(tmp_path / "long", many(250)), store)

    scored = score_march(registry, ingested_table(tmp_path / "short", many(120, seed=2)), store)

    assert sorted(content(scored.location)) == [MARKER, "part-00000.parquet", "part-00001.parquet"]
    assert read_scores(store)["row"].to_pylist() == list(range(120))


def test_scores_half_replaced_have_no_marker_and_the_next_run_completes_them(tmp_path, registry, store, small_parts):
    class Failing(FolderStore):
        def put(self, file: Path, key: str, content_type: str | None = None) -> str:
            if file.name == "part-00001.parquet":
                raise StorageError("The disk is full.")
            return super().put(file, key, content_type)

    score_march(registry, ingested_table(tmp_path / "long", many(250)), store)
    short = ingested_table(tmp_path / "short", many(120, seed=2))

    with pytest.raises(StorageError, match="The disk is full"):
        score_march(registry, short, Failing(Path(store.uri)))
    assert MARKER not in {Path(key).name for key in store.list("scores/")}

    scored = score_march(registry, short, store)
    assert sorted(content(scored.location)) == [MARKER, "part-00000.parquet", "part-00001.parquet"]
    assert read_scores(store)["row"].to_pylist() == list(range(120))


# Months that are refused.


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], r"2021-03 from .*green_tripdata_2021-03.parquet is empty"),
        (
            [record()] * 7 + [record(end=0)] * 2 + [record(at=None)],
            r"cannot be predicted: 3 of 10 \(30.0%, at most 20.0% are allowed\), most often unknown_zone \(2: zone",
        ),
        (
            [record()] * 9 + [record(at=datetime(2021, 4, 1))],
            r"is not that month: 1 of 10 trips \(10.0%, at most 5.0% are allowed\) begin outside of it",
        ),
        ([record(start=None)] * 5, r"cannot be predicted: 5 of 5"),
    ],
)
def test_what_is_no_month_of_trips_is_refused_and_former_scores_stay(tmp_path, registry, store, rows, sentence):
    score_march(registry, ingested_table(tmp_path / "good", many(50)), store)
    before = content(store.uri)

    with pytest.raises(ContractError, match=sentence):
        score_march(registry, records(tmp_path / "bad", rows), store)

    assert content(store.uri) == before


def test_damaged_records_are_refused(tmp_path, registry, store):
    month = ingested_table(tmp_path, many(50))
    month.write_bytes(month.read_bytes()[:2_000])

    with pytest.raises(SourceError, match=r"records is not a month that was ingested: it is damaged"):
        score_march(registry, month, store)


# The version.


def test_a_version_is_found_by_its_number_or_an_alias(registry):
    assert find_version(registry, "champion").number == 1
    assert find_version(registry, "1").number == 1
    assert find_version(registry, "2").number == 2


@pytest.mark.parametrize("model", ["challenger", "3", "", "1.0", "-1"])
def test_a_version_that_is_not_there_is_named_with_those_that_are(registry, model):
    with pytest.raises(InvalidRequest, match=rf"tripcast-green has no version '{model}'.*aliases: 1 champion, 2. Name"):
        find_version(registry, model)


def test_where_nothing_is_registered_nothing_can_be_scored(settings):
    with pytest.raises(InvalidRequest, match=r"tripcast-green has no versions yet.*'champion'.*train one"):
        find_version(Registry("tripcast-green", settings), "champion")


# The plan.


@pytest.fixture
def planning(home: Settings, monkeypatch) -> None:
    """The environment of a process in the home with the two versions."""
    monkeypatch.setenv("TRIPCAST_HOME", str(home.home))
    for name in ("MLFLOW_TRACKING_URI", "TRIPCAST_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)


def test_the_plan_gives_every_month_its_edition_and_the_same_version(planning):
    planned = plan_scoring("simulated?trips=2000&seed=7", "green", "2021-03,2021-01", "champion")

    assert [(item["month"], item["version"]) for item in planned] == [("2021-01", 1), ("2021-03", 1)]
    assert all("trips=2000" in str(item["revision"]) for item in planned)


@pytest.mark.parametrize(
    ("request_", "error", "sentence"),
    [
        (("simulated", "blue", "2021-03", "champion"), InvalidRequest, "There is no taxi 'blue': choose one of green"),
        (("simulated", "green", "2021-13", "champion"), InvalidRequest, "'2021-13' is not a month"),
        (("simulated", "green", "2021-03", "best"), InvalidRequest, "no version 'best'"),
        (("simulated", "yellow", "2021-03", "champion"), InvalidRequest, "tripcast-yellow has no versions yet"),
        (("/nowhere", "green", "2021-03", "champion"), SourceError, "does not exist"),
    ],
)
def test_what_cannot_be_scored_is_named_before_any_work(planning, request_, error, sentence):
    with pytest.raises(error, match=sentence):
        plan_scoring(*request_)


def test_a_tracking_server_that_is_not_there_is_said_before_any_work(planning, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"No MLflow server answers at http://127\.0\.0\.1:9"):
        plan_scoring("simulated", "green", "2021-03", "champion")


def test_all_months_that_a_source_lacks_are_named(planning, tmp_path):
    ingested_table(tmp_path, many(50))

    with pytest.raises(SourceError) as caught:
        plan_scoring(str(tmp_path / "source"), "green", "2021-02..2021-04", "champion")

    assert [line[:20] for line in str(caught.value).splitlines()] == ["There is no 2021-02 ", "There is no 2021-04 "]


# S3.


@pytest.fixture
def s3_store(s3) -> Store:
    s3.create_bucket(Bucket="scores")
    return open_store("s3://scores/kept")


def test_in_s3_is_what_a_folder_would_hold_and_nothing_stale(tmp_path, registry, store, s3_store, small_parts):
    score_march(registry, ingested_table(tmp_path / "long", many(250)), s3_store)
    short = ingested_table(tmp_path / "short", many(120, seed=2))

    scored = score_march(registry, short, s3_store)

    in_folder = score_march(registry, short, store)
    assert scored.location == "s3://scores/kept/scores/green/version=1/month=2021-03"
    assert scored.parts == in_folder.parts
    assert s3_store.list("") == store.list("")
    for name, digest in scored.parts.items():
        s3_store.get(f"scores/green/version=1/month=2021-03/{name}", tmp_path / name)
        assert sha256_of(tmp_path / name) == digest
