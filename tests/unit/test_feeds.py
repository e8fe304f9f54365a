"""Each feed on simulated months: read, sorted, learned from, watched and scored; and files that are another's."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.unit.conftest import Loop
from tripcast.errors import ContractError, SourceError
from tripcast.jobs.months import load_valid_trips
from tripcast.jobs.score import score
from tripcast.jobs.train import train
from tripcast.months import Month
from tripcast.storage.store import FolderStore
from tripcast.taxi.contract import MonthCheck, MonthRules, validate
from tripcast.taxi.features import PLAUSIBLE_MILES, Geography
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.ingestion import Ingested, ingest
from tripcast.taxi.simulation import SCHEMAS, City
from tripcast.taxi.sources import open_source
from tripcast.taxi.trip_files import recorded_schema
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.ways import METERED, PLANNED, ZONES_ONLY, as_asked

JANUARY = Month(2021, 1)
PICKUP = datetime(2021, 1, 11, 8, 0)


def published(taxi: str, source: str = "simulated?trips=2000") -> pa.Table:
    return pa.Table.from_batches(City.parse(source).month(taxi, JANUARY))


def write(folder: Path, taxi: str, table: pa.Table) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{taxi}_tripdata_2021-01.parquet")
    return folder


def ingest_january(source: str | Path, taxi: str, to: Path) -> Ingested:
    return ingest(str(source), taxi, JANUARY, output=to / "month", downloads=to / "downloads", store=FolderStore(to))


def check(ingested: Ingested, folder: Path, **rules: Any) -> MonthCheck:
    (found,) = validate(
        [ingested], kept=folder / "kept", rejected=folder / "rejected", rules=MonthRules(**rules) if rules else None
    )
    return found


def records(folder: Path, taxi: str, rows: list[dict[str, Any]]) -> Ingested:
    """Rows as they are ingested: a good one, but for what is said of each; one a second."""
    good = {"dropoff_datetime": 12, "pickup_zone": 74, "dropoff_zone": 236, "trip_distance_miles": 2.5}
    good |= {"reported_seconds": 720}
    table = []
    for second, said in enumerate(rows):
        pickup = PICKUP + timedelta(seconds=second)
        table.append({**good, "dropoff_datetime": pickup + timedelta(minutes=12), "pickup_datetime": pickup, **said})
    folder.mkdir(exist_ok=True)
    file = folder / "records.parquet"
    pq.write_table(pa.Table.from_pylist(table, schema=recorded_schema(taxi)), file)
    return Ingested(file, taxi, JANUARY, f"folder/{taxi}_tripdata_2021-01.parquet", len(rows), "0" * 64)


@pytest.mark.parametrize("taxi", FEEDS)
def test_a_simulated_month_is_the_same_each_time(taxi: str) -> None:
    first = published(taxi)
    list(City().month("green", Month(2021, 2)))
    assert published(taxi).equals(first)
    assert not published(taxi, "simulated?trips=2000&seed=7").equals(first)


def test_a_month_has_as_many_rows_as_its_fleet_unless_others_are_asked_for() -> None:
    rows = {taxi: sum(map(len, City().month(taxi, JANUARY))) for taxi in FEEDS}
    assert rows == {"green": 60_000, "yellow": 60_000, "fhvhv": 200_000, "fhv": 200_000}


@pytest.mark.parametrize("taxi", FEEDS)
def test_a_simulated_month_has_the_columns_that_its_feed_is_described_by(taxi: str) -> None:
    feed = FEEDS[taxi]
    names = SCHEMAS[taxi].names
    assert set(feed.columns.values()) <= set(names)
    assert feed.mark is None or feed.mark in names
    assert [other for other in FEEDS if FEEDS[other].mark in names] == ([taxi] if feed.mark else [])


@pytest.mark.parametrize(("taxi", "columns"), [("green", 5), ("yellow", 5), ("fhvhv", 6), ("fhv", 4)])
def test_the_columns_of_a_feed_are_ingested_as_they_are(taxi: str, columns: int, tmp_path: Path) -> None:
    table = published(taxi)
    ingested = ingest_january(write(tmp_path / "raw", taxi, table), taxi, tmp_path)
    typed = pq.read_table(ingested.file)
    assert len(typed.schema) == columns
    for name, raw in FEEDS[taxi].columns.items():
        assert typed[name].to_pylist() == table[raw].to_pylist()
    assert Ingested.open(ingested.file) == ingested
    assert ingest_january("simulated?trips=2000", taxi, tmp_path).sha256 == ingested.sha256


@pytest.mark.parametrize("taxi", ["fhvhv", "fhv"])
def test_names_of_columns_in_other_cases_and_csv_are_the_same_month(taxi: str, tmp_path: Path) -> None:
    table = published(taxi)
    sha256 = ingest_january(write(tmp_path / "raw", taxi, table), taxi, tmp_path).sha256
    shouting = table.rename_columns([name.upper() for name in table.column_names])
    assert ingest_january(write(tmp_path / "upper", taxi, shouting), taxi, tmp_path).sha256 == sha256
    spaced = table.rename_columns([name.replace("_", " ").title() for name in table.column_names])
    (tmp_path / "csv").mkdir()
    pa.csv.write_csv(spaced, tmp_path / "csv" / f"{taxi}_tripdata_2021-01.csv")
    assert ingest_january(tmp_path / "csv", taxi, tmp_path).sha256 == sha256


@pytest.mark.parametrize(
    ("of", "named", "mark"),
    [
        ("yellow", "green", "tpep_pickup_datetime"),
        ("green", "yellow", "lpep_pickup_datetime"),
        ("fhvhv", "fhv", "hvfhs_license_num"),  # whose columns would all do
        ("fhvhv", "green", "hvfhs_license_num"),
        ("green", "fhv", "lpep_pickup_datetime"),
    ],
)
def test_a_file_of_another_feed_is_named(of: str, named: str, mark: str, tmp_path: Path) -> None:
    source = write(tmp_path / "raw", named, published(of))
    with pytest.raises(ContractError) as error:
        ingest_january(source, named, tmp_path)
    assert str(error.value) == (
        f"{source}/{named}_tripdata_2021-01.parquet is not a month of the {FEEDS[named].title}, but of the "
        f"{FEEDS[of].title}: it has the column {mark}. Name it as a month of {of}, and ask for that taxi; or put the "
        "right file there."
    )


def test_a_month_of_the_apps_as_it_was_published_before_it_had_distances_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", "fhvhv", published("fhvhv").drop_columns(["trip_miles", "trip_time"]))
    with pytest.raises(ContractError, match="of the high-volume for-hire vehicle: it has no single column trip_miles"):
        ingest_january(source, "fhvhv", tmp_path)


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", "fhv", published("fhv").drop_columns(["dropOff_datetime", "DOlocationID"]))
    with pytest.raises(ContractError, match="it has no single column dropOff_datetime and no DOlocationID"):
        ingest_january(source, "fhv", tmp_path)


@pytest.mark.parametrize(
    ("there", "asked", "sentence"),
    [
        (
            "fhvhv_tripdata_2021-01.parquet",
            "fhv",
            "It has no month of the for-hire vehicle at all, or put fhv_tripdata",
        ),
        ("fhv_tripdata_2021-01.parquet", "fhvhv", "It has no month of the high-volume for-hire vehicle at all"),
        ("fhvhv/2021-01.parquet", "fhvhv", "The folder fhvhv/2021-01.parquet looks like it|under another name"),
        ("fhv_tripdata_2021_01.csv", "fhv", "under another name, fhv_tripdata_2021_01.csv: rename it to fhv_tripdata_"),
    ],
)
def test_months_of_for_hire_vehicles_are_not_taken_for_each_other(
    there: str, asked: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(SourceError, match=sentence):
        open_source(str(tmp_path), tmp_path).month(asked, JANUARY)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"reported_seconds": 720}, None),
        ({"reported_seconds": 720 + 59}, None),  # times without seconds
        ({"reported_seconds": 720 - 59}, None),
        ({"reported_seconds": None}, None),  # one witness less
        ({"reported_seconds": 720 + 60}, "contradiction"),
        ({"reported_seconds": 12}, "contradiction"),  # minutes
        ({"reported_seconds": -720}, "contradiction"),
        ({"reported_seconds": -1, "dropoff_datetime": PICKUP}, "bad_duration"),
        ({"trip_distance_miles": None}, "missing_value"),
        ({"pickup_zone": None}, "missing_zone"),
    ],
)
def test_a_report_that_contradicts_the_two_times_sets_a_trip_aside(
    said: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    found = check(records(tmp_path, "fhvhv", [said]), tmp_path, max_rejected_share=1, min_kept=0)
    assert pq.read_table(found.rejected_file)["reason"].to_pylist() == ([reason] if reason else [])
    # What is kept lasted from pickup to drop-off, whatever is reported.
    assert pq.read_table(found.kept_file)["duration_minutes"].to_pylist() == ([] if reason else [12.0])


def test_a_month_whose_reports_are_negative_is_refused(tmp_path: Path) -> None:
    month = records(tmp_path, "fhvhv", [{}] * 700 + [{"reported_seconds": -720}] * 300)
    with pytest.raises(ContractError) as error:
        check(month, tmp_path)
    assert "has too many bad rows: 300 of 1,000 (30.0%, at most 20.0% are allowed), most often contradiction" in str(
        error.value
    )


def test_zones_that_bases_do_not_report_are_counted_and_nothing_against_their_month(tmp_path: Path) -> None:
    rows = [{"pickup_zone": None}] * 800 + [{}] * 190 + [{"dropoff_datetime": PICKUP}] * 10
    found = check(records(tmp_path / "fhv", "fhv", rows), tmp_path / "fhv")
    assert (found.rows, found.kept, found.rejected["missing_zone"], found.rejected["bad_duration"]) == (
        1000,
        190,
        800,
        10,
    )
    assert found.bad_share == pytest.approx(10 / 200)
    with pytest.raises(ContractError, match=r"too many bad rows: 810 of 1,000 .* most often missing_zone"):
        check(records(tmp_path / "green", "green", rows), tmp_path / "green")


def test_bad_rows_among_those_with_zones_still_refuse_a_month(tmp_path: Path) -> None:
    rows = [{"pickup_zone": None}] * 800 + [{}] * 150 + [{"dropoff_datetime": PICKUP}] * 50
    with pytest.raises(ContractError, match=r"too many bad rows: 50 of 200 \(25.0%.* most often bad_duration"):
        check(records(tmp_path, "fhv", rows), tmp_path)


def test_a_month_without_any_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as error:
        check(records(tmp_path, "fhv", [{"pickup_zone": None}] * 500), tmp_path)
    assert (
        "2021-01 from folder/fhv_tripdata_2021-01.parquet has too few trips: 0 are left of 500 rows (500 are set aside "
        "as missing_zone: a zone is missing" in str(error.value)
    )


@pytest.mark.parametrize("taxi", ["fhvhv", "fhv"])
def test_a_simulated_month_keeps_the_contract_and_a_spoiled_one_does_not(taxi: str, tmp_path: Path) -> None:
    found = check(ingest_january("simulated?trips=5000", taxi, tmp_path), tmp_path)
    assert found.bad_share < 0.1
    assert found.rejected["missing_zone"] / found.rows == pytest.approx(0.83 if taxi == "fhv" else 0, abs=0.02)
    assert (found.rejected["contradiction"] > 0) == (taxi == "fhvhv")
    with pytest.raises(ContractError, match="too many bad rows"):
        check(ingest_january("simulated?trips=5000&bad_rows=2021-01", taxi, tmp_path), tmp_path / "spoiled")


def test_feeds_have_zones_of_their_own() -> None:
    """Yellow taxis are Manhattan's; those of bases are the outer boroughs'."""
    from tripcast.taxi.zones import ZONES

    boroughs = {zone.number: zone.borough for zone in ZONES}
    shares = {}
    for taxi in FEEDS:
        zones = published(taxi)[FEEDS[taxi].columns["pickup_zone"]].drop_null().to_pylist()
        shares[taxi] = sum(boroughs[int(zone)] == "Manhattan" for zone in zones) / len(zones)
    assert shares["yellow"] > 0.85
    assert shares["fhv"] < 0.3 < shares["fhvhv"] < 0.5


@pytest.fixture(scope="module")
def without_distance() -> Trips:
    """Kept trips of a feed that says nothing of distances."""
    table = published("fhv", "simulated?trips=30000")
    start, end, pickup, dropoff = (table[name].to_numpy() for name in FEEDS["fhv"].columns.values())
    minutes = (end - start) / np.timedelta64(1, "m")
    good = ~np.isnan(pickup) & ~np.isnan(dropoff) & (minutes >= 1) & (minutes <= 60)
    zones = (pickup[good].astype(np.int16), dropoff[good].astype(np.int16))
    return Trips(start[good], *zones, np.full(good.sum(), np.nan), minutes[good])


def test_trips_without_distances_are_asked_for_in_one_way(without_distance: Trips) -> None:
    assert list(as_asked(without_distance)) == [ZONES_ONLY]


def test_usual_miles_come_from_the_map_where_no_trip_has_any(without_distance: Trips) -> None:
    usual = Geography.fit(without_distance).usual_miles.astype(float)
    assert usual[74, 74] == pytest.approx(0.3, abs=0.01)  # within East Harlem North
    assert usual[132, 230] == pytest.approx(usual[230, 132])
    assert 14 < usual[132, 230] < 20  # John F. Kennedy to Times Square: 15 miles as the crow flies
    assert np.isfinite(usual).all()
    assert (usual > 0).all()
    assert (usual[1:264, 1:264] < PLAUSIBLE_MILES).all()


@pytest.mark.parametrize("candidate", ["linear", "lightgbm"])
def test_a_model_of_trips_without_distances_answers_whoever_asks(candidate: str, without_distance: Trips) -> None:
    model = train(candidate, without_distance, taxi="fhv", data={"2021-01": "0" * 64})
    assert {group.partition("/")[0] for group in model.manifest.intervals} == {ZONES_ONLY}
    errors = model.predict(without_distance).minutes - without_distance.duration_minutes
    assert np.sqrt(np.mean(errors**2)) < 0.75 * np.std(without_distance.duration_minutes)
    for miles in (np.nan, 9.0):
        minutes, lower, upper = model.predict_one(Trip(74, 236, miles, 1_612_944_900))
        assert 1 <= lower < minutes < upper <= 60


@pytest.mark.slow
@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("taxi", FEEDS)
def test_a_feed_is_trained_on_watched_and_scored(taxi: str, settings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRIPCAST_COMMIT", "none")
    loop = Loop(settings, tmp_path, taxi, source=f"simulated?trips={30_000 if taxi == 'fhv' else 6_000}&seed=7")
    assert loop.train("2021-01", "2021-02", 1.0) == "promoted"
    version = loop.registry.version(1)
    assert ("tripcast.planned_rmse" in version.tags) == FEEDS[taxi].has_distance

    window = loop.turn("2021-03")
    assert window.result.data_problem is None
    (quality,) = window.figures["quality"]
    assert [way["way"] for way in quality["ways"]] == [METERED if FEEDS[taxi].has_distance else ZONES_ONLY]
    assert quality["rmse"]["value"] == pytest.approx(quality["expected_rmse"], rel=0.1)
    assert f"{FEEDS[taxi].title.capitalize()}" in (loop.pages / "report").read_text()

    ingested = ingest_january(loop.source, taxi, tmp_path)
    scored = score(loop.registry, 1, JANUARY, ingested.file, tmp_path / "scores", loop.store)
    assert scored.predicted + sum(scored.not_predicted.values()) == ingested.rows
    assert (scored.not_predicted["missing_zone"] > 0.7 * ingested.rows) == (taxi == "fhv")
    ways = set(pq.read_table(tmp_path / "scores" / "part-00000.parquet")["way"].to_pylist())
    assert ways == ({METERED, ZONES_ONLY} if FEEDS[taxi].has_distance else {ZONES_ONLY})

    raw = published(taxi).slice(0, 50).to_pandas()
    answers = mlflow.pyfunc.load_model(f"models:/tripcast-{taxi}@champion").predict(raw)
    assert (answers["lower_minutes"] <= answers["duration_minutes"]).all()
    assert answers["duration_minutes"].between(1, 60).all()


def test_a_month_of_which_no_record_has_zones_is_not_scored(versions, tmp_path: Path) -> None:
    table = published("fhv")
    for name in ("PUlocationID", "DOlocationID"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.nulls(len(table), pa.float64()))
    ingested = ingest_january(write(tmp_path / "raw", "fhv", table), "fhv", tmp_path)
    with pytest.raises(ContractError, match=r"cannot be predicted: 2,000 of 2,000 .* most often missing_zone"):
        score(versions, 1, JANUARY, ingested.file, tmp_path / "scores", FolderStore(tmp_path))


def test_valid_trips_of_a_feed_without_distances_have_none(settings) -> None:
    _, trips = load_valid_trips("simulated?trips=5000", "fhv", JANUARY, settings)
    assert np.isnan(trips.trip_distance_miles).all()
    assert PLANNED not in as_asked(trips)
