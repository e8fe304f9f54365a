"""The prediction log on real folders, in processes that are killed, on an S3 endpoint, and on a store that is down."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tripcast.errors import InvalidRequest, StorageError
from tripcast.models.model import Prediction
from tripcast.serving import prediction_log, prediction_rows, prediction_table
from tripcast.serving.prediction_log import Counts, PredictionLog
from tripcast.serving.prediction_rows import Answerer
from tripcast.serving.prediction_table import prediction_schema
from tripcast.serving.spool import Spool
from tripcast.serving.stored_log import read_log
from tripcast.storage.store import FolderStore, S3Store, Store, open_store
from tripcast.taxi.trips import Trip, Trips

#: Longer than any test: what is to be written is written because of something else.
NEVER = 1000.0

PICKUP = datetime(2021, 2, 10, 8, 15)
PICKUP_SECONDS = 1_612_944_900
TRIP = Trip(74, 236, 2.25, PICKUP_SECONDS)

CHAMPION = Answerer("tripcast-green", 3, "champion")
CHALLENGER = Answerer("tripcast-green", 4, "challenger")

ALL_TIME = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


class Outage(FolderStore):
    """A folder that can be out of reach."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.down = True
        self.accepted: list[str] = []

    def put(self, file: Path, key: str, content_type: str | None = None) -> str:
        if self.down:
            raise StorageError(f"{self.uri} does not answer. Start the store.")
        self.accepted.append(key)
        return super().put(file, key, content_type)


class Clock:
    """The time of day as the log sees it, settable; nanoseconds since 1970."""

    def __init__(self, now: datetime) -> None:
        self.set(now)

    def set(self, now: datetime) -> None:
        self.now = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """It is noon, until a test says otherwise."""
    clock = Clock(datetime(2026, 1, 10, 12, tzinfo=UTC))
    for module in (prediction_log, prediction_rows):
        monkeypatch.setattr(module, "time_ns", clock)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def outage(tmp_path: Path) -> Outage:
    return Outage(tmp_path / "store")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "home" / "spool"


def answer(log: PredictionLog, rider_id: str | None = None, minutes: float = 12.5) -> str:
    """Log one answer."""
    return log.append(CHAMPION, rider_id, TRIP, "planned", (minutes, minutes - 4, minutes + 6))


def batch(size: int) -> tuple[Trips, list[str], Prediction]:
    """Trips of 0, 1, 2, ... miles and as many minutes; no plan is behind the first."""
    zones = np.arange(1, size + 1, dtype=np.int16)
    count = np.arange(size, dtype=np.float64)
    trips = Trips(np.datetime64(PICKUP, "us") + count.astype("timedelta64[m]"), zones, zones[::-1], count)
    return trips, ["planned" if miles else "zones_only" for miles in count], Prediction(count, count - 0.5, count + 0.5)


def large_row(minutes: float) -> pa.Table:
    """A row whose file has more than 10,000 bytes, and less than 20,000."""
    rider = np.random.default_rng(int(minutes)).bytes(10_000).hex()
    return pa.Table.from_pylist([{"rider_id": rider, "duration_minutes": minutes}], prediction_schema())


def balanced(counts: Counts) -> bool:
    return counts.appended + counts.inherited == counts.written + counts.pending + counts.dropped


def until(happened: Callable[[], bool]) -> None:
    """Wait for something that a thread does."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def spool_answers(log: PredictionLog, *minutes: float) -> None:
    """Log answers, each of which is in the spool before the next."""
    for each in minutes:
        answer(log, minutes=each)
        until(lambda: log.counts().waiting == 0)


def minutes_of(store: Store) -> list[float]:
    return read_log(store, *ALL_TIME)["duration_minutes"].to_pylist()


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


# What is logged.


def test_an_answer_comes_back_as_it_was_given(store, spool, clock):
    log = PredictionLog(store, spool)
    first = log.append(CHAMPION, None, TRIP, "planned", (12.5, 8.5, 18.5))
    clock.now += 1_234_567_890
    second = log.append(CHALLENGER, "Zoë 🚕", Trip(1, 265, nan, PICKUP_SECONDS + 1), "zones_only", (0.1, 0.1, 1.0))
    third = log.append(CHAMPION, "", Trip(1, 1, 0.0, 0), "zones_only", (1.0, 1.0, 1.0))
    assert log.close(60) == Counts(appended=3, inherited=0, written=3, spooled=0, waiting=0, dropped=0)

    rows = read_log(store, *ALL_TIME)
    assert rows.schema == prediction_schema()
    noon = datetime(2026, 1, 10, 12, tzinfo=UTC)
    of_first = {
        "prediction_id": first,
        "predicted_at": noon,
        "model": "tripcast-green",
        "version": 3,
        "arm": "champion",
        "rider_id": None,
        "pickup_datetime": PICKUP,
        "pickup_zone": 74,
        "dropoff_zone": 236,
        "trip_distance_miles": 2.25,
        "way": "planned",
        "duration_minutes": 12.5,
        "lower_minutes": 8.5,
        "upper_minutes": 18.5,
    }
    later = {"predicted_at": noon + timedelta(microseconds=1_234_567), "pickup_zone": 1, "way": "zones_only"}
    of_second = {"prediction_id": second, "version": 4, "arm": "challenger", "rider_id": "Zoë 🚕", "dropoff_zone": 265}
    of_second |= {"pickup_datetime": PICKUP + timedelta(seconds=1), "trip_distance_miles": None}
    of_second |= {"duration_minutes": 0.1, "lower_minutes": 0.1, "upper_minutes": 1.0}
    of_third = {"prediction_id": third, "rider_id": "", "pickup_datetime": datetime(1970, 1, 1), "dropoff_zone": 1}
    of_third |= {"trip_distance_miles": 0.0, "duration_minutes": 1.0, "lower_minutes": 1.0, "upper_minutes": 1.0}
    assert rows.to_pylist() == [of_first, of_first | later | of_second, of_first | later | of_third]


def test_a_batch_comes_back_in_its_order_with_its_riders(store, spool):
    log = PredictionLog(store, spool)
    trips, ways, prediction = batch(5_000)  # more than are converted at a time
    riders = [None if place % 3 == 0 else f"rider-{place}" for place in range(5_000)]
    before = answer(log, "alone")
    ids = log.extend(Answerer("tripcast-yellow", 7, "challenger"), riders, trips, ways, prediction)
    assert log.close(60).written == 5_001

    rows = read_log(store, *ALL_TIME)
    assert rows["prediction_id"].to_pylist() == [before, *ids]
    assert rows["rider_id"].to_pylist() == ["alone", *riders]
    rows = rows.slice(1)
    assert rows["model"].unique().to_pylist() == ["tripcast-yellow"]
    assert rows["version"].unique().to_pylist() == [7]
    assert rows["arm"].unique().to_pylist() == ["challenger"]
    for column, expected in {
        "pickup_datetime": trips.pickup_datetime,
        "pickup_zone": trips.pickup_zone,
        "dropoff_zone": trips.dropoff_zone,
        "trip_distance_miles": trips.trip_distance_miles,
        "way": ways,
        "duration_minutes": prediction.minutes,
        "lower_minutes": prediction.lower,
        "upper_minutes": prediction.upper,
    }.items():
        np.testing.assert_array_equal(rows[column].to_numpy(), expected)


def test_files_of_before_there_were_ways_are_read(store, tmp_path):
    rows = pa.Table.from_pylist([{"prediction_id": "old", "predicted_at": ALL_TIME[0]}], prediction_schema())
    file = tmp_path / "old.parquet"
    pq.write_table(rows.drop_columns("way"), file)
    store.put(file, f"predictions/date={ALL_TIME[0]:%Y-%m-%d}/old.parquet")
    found = read_log(store, *ALL_TIME)
    assert found.schema == prediction_schema()
    assert found.select(["prediction_id", "way"]).to_pylist() == [{"prediction_id": "old", "way": None}]


def test_an_unknown_distance_in_a_batch_is_null(store, spool):
    log = PredictionLog(store, spool)
    trips, ways, prediction = batch(2)
    trips.trip_distance_miles[1] = nan
    log.extend(CHAMPION, [None, None], trips, ways, prediction)
    log.close(60)
    assert read_log(store, *ALL_TIME)["trip_distance_miles"].to_pylist() == [0.0, None]


def test_ids_are_unique_among_processes_and_sort_by_answer(store, spool, clock):
    logs = []
    for _ in range(3):
        logs.append(PredictionLog(store, spool, seconds=NEVER))
        clock.now += 1_000_000  # a millisecond
    trips, ways, prediction = batch(20)
    ids = []
    for log in logs:
        ids += [answer(log), *log.extend(CHAMPION, [None] * 20, trips, ways, prediction), answer(log)]
    for log in logs:
        log.close(60)
    assert len(set(ids)) == 66
    assert sorted(ids) == ids
    assert {len(prediction_id) for prediction_id in ids} == {35}
    assert read_log(store, *ALL_TIME).num_rows == 66


def test_processes_of_one_millisecond_have_other_ids(store, spool):
    logs = [PredictionLog(store, spool, seconds=NEVER) for _ in range(2)]
    first, second = (answer(log) for log in logs)
    for log in logs:
        log.close(60)
    assert first[:11] == second[:11]
    assert first != second


def test_the_days_of_midnight_are_two_partitions(store, spool, clock, tmp_path):
    log = PredictionLog(store, spool, seconds=NEVER)
    clock.set(datetime(2026, 1, 10, 23, 59, 59, 999_999, tzinfo=UTC))
    answer(log, minutes=10.0)
    answer(log, minutes=11.0)
    clock.set(datetime(2026, 1, 11, tzinfo=UTC))
    answer(log, minutes=20.0)
    log.close(60)

    folder = tmp_path / "store" / "predictions"
    partitions = {part.name: pq.read_table(part)["duration_minutes"].to_pylist() for part in folder.iterdir()}
    assert partitions == {"date=2026-01-10": [10.0, 11.0], "date=2026-01-11": [20.0]}


def test_a_file_is_named_by_host_process_and_number(store, spool, tmp_path):
    log = PredictionLog(store, spool, rows=1)
    first = answer(log)
    until(lambda: log.counts().written == 1)
    answer(log)
    log.close(60)
    names = [file.name for file in files_in(tmp_path / "store")]
    start = first.rsplit("-", 1)[0]
    assert names == [f"{os.uname().nodename}-{os.getpid()}-{start}-{number:06d}.parquet" for number in range(2)]


def test_the_log_can_be_read_in_part(store, spool, tmp_path):
    log = PredictionLog(store, spool)
    for model, minutes in (("tripcast-green", 1.0), ("tripcast-yellow", 2.0), ("tripcast-green", 3.0)):
        log.append(Answerer(model, 3, "champion"), None, TRIP, "planned", (minutes, minutes, minutes))
    log.close(60)

    green = read_log(store, *ALL_TIME, where=pc.field("model") == "tripcast-green")
    assert green.schema == prediction_schema()
    assert green["duration_minutes"].to_pylist() == [1.0, 3.0]
    later = (pc.field("model") == "tripcast-green") & (pc.field("duration_minutes") > 2)
    assert read_log(store, *ALL_TIME, where=later, columns=["duration_minutes"]).to_pylist() == [
        {"duration_minutes": 3.0}
    ]
    assert read_log(store, *ALL_TIME, where=pc.field("version") == 9).num_rows == 0


# When it is written.


def test_as_many_rows_as_a_file_holds_are_written_at_once(store, spool):
    log = PredictionLog(store, spool, seconds=NEVER, rows=3)
    answer(log)
    answer(log)
    assert log.counts() == Counts(appended=2, inherited=0, written=0, spooled=0, waiting=2, dropped=0)
    answer(log)
    until(lambda: log.counts().written == 3)
    log.extend(CHAMPION, [None] * 4, *batch(4))
    until(lambda: log.counts().written >= 6)
    assert log.close(60).written == 7


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_what_is_flushed_is_in_the_spool_at_once_and_the_rest_soon(outage, spool, rows):
    log = PredictionLog(outage, spool, seconds=NEVER, rows=rows)

    async def answer_and_flush() -> list[int]:
        waiting = []
        for _ in range(3):
            log.extend(CHAMPION, [None] * 7, *batch(7))
            await asyncio.gather(log.flush(), log.flush())
            waiting.append(log.counts().waiting)
        return waiting

    assert asyncio.run(answer_and_flush()) == [0, 0, 0]
    assert log.counts().spooled == 21
    log.close(0.5)


def test_a_flush_fails_while_the_disk_refuses_rows_and_when_the_log_is_closed(outage, spool):
    log = PredictionLog(outage, spool, seconds=NEVER)
    answer(log)
    shutil.rmtree(spool)
    spool.write_text("in the way")
    with pytest.raises(StorageError, match=r"Predictions wait in memory: .* cannot be written"):
        asyncio.run(log.flush())
    assert "Predictions wait in memory" in log.problems[0]

    spool.unlink()
    with suppress(StorageError):  # of a try that was under way
        asyncio.run(log.flush())
    asyncio.run(log.flush())
    assert log.counts().spooled == 1
    log.close(0.5)
    with pytest.raises(StorageError, match="takes no more answers"):
        asyncio.run(log.flush())


def test_a_flush_that_is_asked_for_while_another_one_fails_has_a_try_of_its_own(outage, spool):
    log = PredictionLog(outage, spool, seconds=NEVER)
    answer(log)
    shutil.rmtree(spool)
    spool.write_text("in the way")
    later: list[Future[None]] = []

    def clear_the_way_and_ask_again(failed: Future[None]) -> None:
        spool.unlink()
        later.append(log._writer.when_spooled(1))

    log._writer.when_spooled(1).add_done_callback(clear_the_way_and_ask_again)
    until(lambda: bool(later) and later[0].done())
    assert later[0].exception() is None
    log.close(0.5)


def test_a_few_rows_are_written_after_the_time(store, spool):
    log = PredictionLog(store, spool, seconds=0.05)
    answer(log)
    until(lambda: log.counts().written == 1)
    log.close(60)


def test_closing_writes_what_is_waiting(store, spool, tmp_path):
    log = PredictionLog(store, spool, seconds=NEVER, rows=4)
    for minutes in range(10):
        answer(log, minutes=float(minutes))
    assert log.close(60).written == 10
    assert minutes_of(store) == [float(minutes) for minutes in range(10)]
    assert all(pq.read_metadata(file).num_rows <= 4 for file in files_in(tmp_path / "store"))
    assert list(spool.iterdir()) == []


def test_an_answer_after_closing_is_dropped(store, spool):
    log = PredictionLog(store, spool)
    log.close(60)
    answer(log)
    log.extend(CHAMPION, [None] * 4, *batch(4))
    assert log.counts() == Counts(appended=5, inherited=0, written=0, spooled=0, waiting=0, dropped=5)


# Files grow.


@pytest.mark.slow
def test_an_hour_of_light_traffic_is_a_dozen_files_and_each_row_is_stored_at_once(outage, spool, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tripcast.serving.spool.monotonic", lambda: now[0])
    outage.down = False
    log = PredictionLog(outage, spool, seconds=0.001, file_seconds=300.0)
    ids = []
    for tick in range(720):
        now[0] = tick * 5.0
        ids.append(answer(log))
        until(lambda: log.counts().written == len(ids))
    log.close(60)
    assert len(outage.accepted) == 720
    assert [pq.read_metadata(outage.uri + "/" + key).num_rows for key in outage.list("predictions/")] == [60] * 12
    assert read_log(outage, *ALL_TIME)["prediction_id"].to_pylist() == ids


def test_a_file_grows_until_it_is_full(store, spool, tmp_path):
    log = PredictionLog(store, spool, seconds=NEVER, rows=5)
    for minutes in range(7):
        answer(log, minutes=float(minutes))
        asyncio.run(log.flush())
        until(lambda: log.counts().written == log.counts().appended)
    log.extend(CHAMPION, [None] * 4, *batch(4))
    log.close(60)
    files = [pq.read_table(file)["duration_minutes"].to_pylist() for file in files_in(tmp_path / "store")]
    assert files == [[0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [0.0, 1.0, 2.0, 3.0]]  # a few rows stay together


def test_a_file_ends_at_midnight(store, spool, clock, tmp_path):
    log = PredictionLog(store, spool, seconds=0.001)
    for hour in range(22, 26):
        clock.set(datetime(2026, 1, 10, tzinfo=UTC) + timedelta(hours=hour))
        answer(log, minutes=float(hour))
        until(lambda: log.counts().written == log.counts().appended)
    log.close(60)
    files = {file.parent.name: pq.read_table(file, partitioning=None) for file in files_in(tmp_path / "store")}
    assert {date: rows["duration_minutes"].to_pylist() for date, rows in files.items()} == {
        "date=2026-01-10": [22.0, 23.0],
        "date=2026-01-11": [24.0, 25.0],
    }


def test_a_file_grows_through_an_outage(outage, spool):
    log = PredictionLog(outage, spool, seconds=0.001)
    outage.down = False
    answer(log, minutes=0.0)
    until(lambda: log.counts().written == 1)
    outage.down = True
    spool_answers(log, 1.0, 2.0, 3.0)
    assert log.counts() == Counts(appended=4, inherited=0, written=1, spooled=3, waiting=0, dropped=0)
    assert minutes_of(outage) == [0.0]
    outage.down = False
    until(lambda: log.counts().written == 4)
    assert files_in(spool) == []
    answer(log, minutes=4.0)
    assert log.close(60).written == 5
    assert minutes_of(outage) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_file_that_is_being_sent_does_not_change(tmp_path, spool):
    class Slow(FolderStore):
        sending, goes_on = threading.Event(), threading.Event()

        def put(self, file: Path, key: str, content_type: str | None = None) -> str:
            before = file.read_bytes()
            self.sending.set()
            assert self.goes_on.wait(60)
            assert file.read_bytes() == before
            return super().put(file, key, content_type)

    store = Slow(tmp_path / "store")
    log = PredictionLog(store, spool, seconds=0.001)
    answer(log, minutes=0.0)
    assert store.sending.wait(60)
    spool_answers(log, 1.0, 2.0)
    assert [pq.read_metadata(file).num_rows for file in files_in(spool)] == [1, 2]
    store.goes_on.set()
    assert log.close(60).written == 3
    assert minutes_of(store) == [0.0, 1.0, 2.0]


def test_rows_wait_while_the_disk_refuses_the_file_that_they_join(store, spool, caplog):
    log = PredictionLog(store, spool, seconds=0.001)
    (folder,) = spool.iterdir()
    answer(log, minutes=0.0)
    until(lambda: log.counts().written == 1)
    (key,) = store.list("predictions/")
    part = folder / f".2026-01-10_{Path(key).name}.{os.getpid()}.part"
    part.mkdir()  # the file cannot be written anew now
    answer(log, minutes=1.0)
    until(lambda: sum("Predictions wait in memory" in record.getMessage() for record in caplog.records) > 1)
    assert log.counts() == Counts(appended=2, inherited=0, written=1, spooled=0, waiting=1, dropped=0)
    part.rmdir()
    assert log.close(60) == Counts(appended=2, inherited=0, written=2, spooled=0, waiting=0, dropped=0)
    assert minutes_of(store) == [0.0, 1.0]
    assert store.list("predictions/") == [key]


def test_a_file_that_cannot_be_written_anew_stays_as_it_was(spool):
    files = Spool(spool, "019c0000000-0000000000", max_rows=9, max_age=NEVER, max_bytes=1_000_000)
    files.add("2026-01-10", large_row(0.0))
    (path,) = files_in(spool)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        files.add("2026-01-10", large_row(1.0))
    assert (files.received, files.holds) == (1, 1)
    assert pq.read_table(path)["duration_minutes"].to_pylist() == [0.0]
    assert files.take().path == path
    part.rmdir()
    files.close()


# What does not fit.


def test_rows_beyond_the_bound_are_dropped_and_counted(store, spool):
    log = PredictionLog(store, spool, seconds=NEVER, max_waiting=3)
    ids = [answer(log, minutes=float(minutes)) for minutes in range(5)]
    assert log.counts() == Counts(appended=5, inherited=0, written=0, spooled=0, waiting=3, dropped=2)
    log.extend(CHAMPION, [None] * 4, *batch(4))
    assert log.close(60) == Counts(appended=9, inherited=0, written=3, spooled=0, waiting=0, dropped=6)
    assert minutes_of(store) == [0.0, 1.0, 2.0]
    assert len(set(ids)) == 5


@pytest.mark.parametrize(
    "wrong", [{"trip": TRIP._replace(pickup_zone=40_000)}, {"rider_id": 5}, {"prediction": (1.0, None, 2.0)}]
)
def test_a_row_of_the_wrong_type_is_dropped_and_hinders_no_other(store, spool, wrong):
    log = PredictionLog(store, spool)
    right = {"answerer": CHAMPION, "rider_id": None, "trip": TRIP, "way": "planned", "prediction": (1.0, 1.0, 2.0)}
    ids = [log.append(**right), log.append(**right | wrong), log.append(**right)]
    assert log.close(60) == Counts(appended=3, inherited=0, written=2, spooled=0, waiting=0, dropped=1)
    assert read_log(store, *ALL_TIME)["prediction_id"].to_pylist() == [ids[0], ids[2]]


def test_text_that_is_no_unicode_does_not_hinder_the_file(store, spool):
    log = PredictionLog(store, spool)
    answer(log, "half a \ud83d taxi")
    log.close(60)
    assert read_log(store, *ALL_TIME)["rider_id"].to_pylist() == ["half a ? taxi"]


def test_a_full_spool_drops_its_oldest_files_and_counts_their_rows(tmp_path, spool):
    class Hanging(FolderStore):
        sending, goes_on = threading.Event(), threading.Event()

        def put(self, file: Path, key: str, content_type: str | None = None) -> str:
            self.sending.set()
            assert self.goes_on.wait(60)
            return super().put(file, key, content_type)

    store = Hanging(tmp_path / "store")
    log = PredictionLog(store, spool, rows=1, max_spool_bytes=20_000)
    answer(log, minutes=0.0)
    assert store.sending.wait(60)
    for minutes in range(1, 12):
        answer(log, minutes=float(minutes))
        until(lambda: log.counts().waiting == 0)
        assert balanced(log.counts())
    until(
        lambda: (
            log.counts().spooled == len(files_in(spool))
            and sum(file.stat().st_size for file in files_in(spool)) <= 20_000
        )
    )
    counts = log.counts()
    assert 0 < counts.dropped == 12 - counts.spooled
    store.goes_on.set()
    assert log.close(60).written == counts.spooled
    # The one that was being sent, and the latest.
    assert minutes_of(store) == [0.0, *(float(minutes) for minutes in range(1 + counts.dropped, 12))]


def test_rows_of_a_dropped_file_that_the_store_has_are_not_counted_as_dropped(spool):
    files = Spool(spool, "019c0000000-0000000000", max_rows=2, max_age=NEVER, max_bytes=30_000)
    files.add("2026-01-10", large_row(0.0))
    files.remove(files.take())  # it is in the store
    files.add("2026-01-10", large_row(1.0))
    assert (files.holds, files.sent, files.evicted) == (1, 1, 0)
    files.add("2026-01-10", large_row(2.0))  # in the next file
    assert (files.holds, files.sent, files.evicted) == (1, 1, 1)
    assert pq.read_table(files.take().path)["duration_minutes"].to_pylist() == [2.0]
    files.close()


def test_rows_of_a_dropped_file_do_not_come_back_with_later_ones(spool):
    files = Spool(spool, "019c0000000-0000000000", max_rows=9, max_age=NEVER, max_bytes=20_000)
    files.add("2026-01-10", large_row(0.0))
    files.add("2026-01-10", large_row(1.0))  # too large for the spool, the two of them
    assert (files.holds, files.evicted, files.take()) == (0, 2, None)
    files.add("2026-01-10", large_row(2.0))
    assert pq.read_table(files.take().path)["duration_minutes"].to_pylist() == [2.0]
    files.close()


# Outages.


def test_a_store_that_is_out_of_reach_loses_nothing(outage, spool, caplog):
    log = PredictionLog(outage, spool, seconds=0.02, rows=1)
    (folder,) = spool.iterdir()
    spool_answers(log, 0.0, 1.0, 2.0)
    assert log.counts() == Counts(appended=3, inherited=0, written=0, spooled=3, waiting=0, dropped=0)
    outage.down = False
    until(lambda: log.counts().written == 3)
    log.close(60)
    assert minutes_of(outage) == [0.0, 1.0, 2.0]
    assert outage.accepted == sorted(outage.accepted)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"Predictions are kept in {folder}: {outage.uri} does not answer. Start the store.",
        "Predictions are sent again.",
    ]


def test_what_cannot_be_sent_before_the_end_is_sent_by_the_next_process(outage, spool):
    log = PredictionLog(outage, spool, seconds=NEVER)
    prediction_id = answer(log)
    assert log.close(60) == Counts(appended=1, inherited=0, written=0, spooled=1, waiting=0, dropped=0)

    outage.down = False
    successor = PredictionLog(outage, spool, seconds=NEVER)
    answer(successor)
    assert successor.close(60) == Counts(appended=1, inherited=1, written=2, spooled=0, waiting=0, dropped=0)
    assert prediction_id in read_log(outage, *ALL_TIME)["prediction_id"].to_pylist()
    assert list(spool.iterdir()) == []


def test_a_file_whose_sending_was_not_confirmed_is_not_there_twice(tmp_path, spool):
    class Silent(Outage):
        def put(self, file: Path, key: str, content_type: str | None = None) -> str:
            FolderStore.put(self, file, key, content_type)
            return super().put(file, key, content_type)

    store = Silent(tmp_path / "store")
    log = PredictionLog(store, spool, seconds=0.02)
    prediction_id = answer(log)
    until(lambda: len(files_in(tmp_path / "store")) == 1)
    assert log.counts().written == 0
    store.down = False
    assert log.close(60).written == 1
    assert read_log(store, *ALL_TIME)["prediction_id"].to_pylist() == [prediction_id]


def test_the_files_of_a_process_that_lives_are_left_to_it(tmp_path, outage, spool):
    living = PredictionLog(outage, spool, rows=1)
    answer(living)
    until(lambda: living.counts().spooled == 1)
    other = PredictionLog(FolderStore(tmp_path / "store"), spool, seconds=0.02)
    answer(other)
    until(lambda: other.counts().written == 1)
    assert other.counts().inherited == 0

    living.close(0.5)
    until(lambda: other.counts().inherited == 1)
    assert other.close(60).written == 2
    assert read_log(outage, *ALL_TIME).num_rows == 2


def test_rows_wait_while_the_disk_refuses_them(store, spool, caplog):
    log = PredictionLog(store, spool, seconds=0.02)
    shutil.rmtree(spool)
    spool.write_text("in the way")
    answer(log)
    until(lambda: any("Predictions wait in memory" in record.getMessage() for record in caplog.records))
    assert log.counts().waiting == 1
    spool.unlink()
    until(lambda: log.counts().written == 1)
    log.close(60)


@pytest.mark.parametrize("what", ["the spool", "the folder of the process"])
def test_a_spool_that_is_removed_is_made_again_and_listed(outage, spool, what):
    log = PredictionLog(outage, spool, seconds=0.02, rows=2)
    spool_answers(log, 0.0, 1.0, 2.0)
    assert not any("was removed while" in problem for problem in log.problems)

    shutil.rmtree(spool if what == "the spool" else next(spool.iterdir()))
    spool_answers(log, 3.0)
    assert "was removed while the service ran; it has been made again" in log.problems[0]

    outage.down = False
    counts = log.close(60)
    assert balanced(counts)
    assert counts.pending == 0
    assert minutes_of(outage)[-1] == 3.0


def test_rows_that_cannot_be_made_a_file_are_dropped_and_do_not_hold_up_the_others(store, spool, monkeypatch):
    convert, failed = prediction_table._convert, []

    def fail_once(rows, records, riders):
        if not failed:
            failed.append(len(records))
            raise MemoryError
        return convert(rows, records, riders)

    monkeypatch.setattr(prediction_table, "_convert", fail_once)
    log = PredictionLog(store, spool, seconds=0.02)
    answer(log)
    until(lambda: log.counts().dropped == 1)
    answer(log, minutes=7.0)
    until(lambda: log.counts().written == 1)

    assert balanced(log.close(60))
    assert minutes_of(store) == [7.0]


def test_a_file_that_somebody_removes_does_not_hold_up_the_others(outage, spool):
    log = PredictionLog(outage, spool, seconds=0.02, rows=1)
    spool_answers(log, 0.0, 1.0, 2.0)
    files_in(spool)[0].unlink()
    outage.down = False
    until(lambda: log.counts().written == 2)
    assert log.close(60).dropped == 1
    assert minutes_of(outage) == [1.0, 2.0]


def test_a_damaged_file_is_set_aside_and_an_unfinished_one_removed(store, spool):
    folder = spool / "019c0000000-0000000000"
    folder.mkdir(parents=True)
    (folder / "2026-01-09_host-1-019c0000000-0000000000-000001.parquet").write_bytes(b"PAR1 and then nothing")
    (folder / "2026-01-09_host-1-019c0000000-0000000000-000002.part").write_bytes(b"PAR1")
    log = PredictionLog(store, spool, seconds=0.02)
    answer(log)
    until(lambda: log.counts().written == 1)
    log.close(60)
    assert [file.name for file in folder.iterdir()] == ["2026-01-09_host-1-019c0000000-0000000000-000001.damaged"]


KILLED = """
import sys, time
from pathlib import Path
from tripcast.errors import StorageError
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prediction_rows import Answerer

class Down:
    def put(self, file, key, content_type=None):
        raise StorageError("The store does not answer. Start it.")

log = PredictionLog(Down(), Path(sys.argv[1]), seconds=1000, rows=100)
champion = Answerer("tripcast-green", 3, "champion")
for row in range(250):
    print(log.append(champion, None, (74, 236, 2.25, 0), "planned", (float(row), 1.0, 2.0)), flush=True)
    while row % 100 == 99 and log.counts().waiting:
        time.sleep(0.005)
print("killed now", flush=True)
time.sleep(1000)
"""


def killed(script: str, *arguments: str) -> list[str]:
    """Run a script until it says so, and kill it; the ids that it logged."""
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ids = []
        while (line := process.stdout.readline().strip()) != "killed now":
            assert line, "it ended by itself"
            ids.append(line)
        process.kill()
    return ids


@pytest.mark.slow
def test_what_a_killed_process_had_in_the_spool_is_sent_by_the_next(store, spool, clock):
    ids = killed(KILLED, str(spool))
    clock.set(datetime.now(UTC))
    log = PredictionLog(store, spool, seconds=0.02)
    until(lambda: log.counts().written == 200)
    assert log.close(60) == Counts(appended=0, inherited=200, written=200, spooled=0, waiting=0, dropped=0)
    now = datetime.now(UTC)
    rows = read_log(store, now - timedelta(hours=1), now)
    assert rows["prediction_id"].to_pylist() == ids[:200]
    assert rows["duration_minutes"].to_pylist() == [float(row) for row in range(200)]
    assert list(spool.iterdir()) == []


GROWING = """
import os, signal, sys, threading, time
from pathlib import Path
from tripcast.serving import spool
from tripcast.storage.store import FolderStore
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prediction_rows import Answerer

died_at = sys.argv[1]
home = Path(sys.argv[2])
hang = threading.Event().wait

def die():
    print("killed now", flush=True)
    hang()

class Dying(FolderStore):
    puts = 0
    def put(self, file, key, content_type=None):
        self.puts += 1
        if self.puts == 2 and died_at == "before it is sent":
            die()
        super().put(file, key, content_type)
        if self.puts == 2 and died_at == "before the store confirms it":
            die()

def flush(path, really=spool._flush):
    really(path)
    if log.counts().written and died_at == "before it is in the spool" and path.suffix == ".part":
        die()

log = PredictionLog(Dying(home / "store"), home / "spool", seconds=0.01)
champion = Answerer("tripcast-green", 3, "champion")
spool._flush = flush
for row in range(2):
    print(log.append(champion, None, (74, 236, 2.25, 0), "planned", (float(row), 1.0, 2.0)), flush=True)
    while not log.counts().written:
        time.sleep(0.005)
hang()
"""


@pytest.mark.parametrize(
    ("died_at", "left", "stored"),
    [
        ("before it is in the spool", 0, 1),  # the second row came in the last seconds
        ("before it is sent", 2, 2),
        ("before the store confirms it", 2, 2),
    ],
)
@pytest.mark.slow
def test_a_kill_while_a_file_grows_costs_no_row_that_was_in_the_spool(tmp_path, clock, died_at, left, stored):
    ids = killed(GROWING, died_at, str(tmp_path))
    clock.set(datetime.now(UTC))
    store = open_store(str(tmp_path / "store"))
    before = store.list("predictions/")
    log = PredictionLog(store, tmp_path / "spool", seconds=0.01)
    # A file counts whole, whatever the store has of it.
    assert log.close(60) == Counts(appended=0, inherited=left, written=left, spooled=0, waiting=0, dropped=0)
    now = datetime.now(UTC)
    assert read_log(store, now - timedelta(hours=1), now)["prediction_id"].to_pylist() == ids[:stored]
    assert store.list("predictions/") == before
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("rows", [50, 5_000])
def test_the_counts_add_up_at_any_time(outage, spool, rows):
    log = PredictionLog(outage, spool, seconds=0.01, rows=rows, max_waiting=400, max_spool_bytes=60_000)
    trips, ways, prediction = batch(30)
    for turn in range(300):
        outage.down = turn % 100 < 60
        for _ in range(10):
            answer(log)
        log.extend(CHAMPION, [None] * 30, trips, ways, prediction)
        assert balanced(log.counts())
    outage.down = False
    counts = log.close(60)
    assert balanced(counts)
    assert counts.appended == 300 * 40
    assert counts.pending == 0
    assert counts.written == read_log(outage, *ALL_TIME).num_rows
    assert len(set(read_log(outage, *ALL_TIME)["prediction_id"].to_pylist())) == counts.written


# S3.


def test_a_bucket_that_comes_late_gets_the_whole_log(spool, s3):
    store = open_store("s3://log/service")
    log = PredictionLog(store, spool, seconds=0.05, rows=1)
    first = answer(log)
    until(lambda: log.counts().spooled == 1)
    s3.create_bucket(Bucket="log")
    until(lambda: log.counts().written == 1)
    second = answer(log)
    assert log.close(60).written == 2
    assert read_log(store, *ALL_TIME)["prediction_id"].to_pylist() == [first, second]
    assert all(key.startswith("predictions/date=2026-01-10/") for key in store.list(""))


def test_a_file_that_grows_while_it_is_read_is_read_all_the_same(spool, s3):
    class Overtaken(S3Store):
        def _digest(self, key: str) -> str | None:
            digest = super()._digest(key)
            if reading.is_set():
                reading.clear()
                answer(log, minutes=1.0)
                until(lambda: log.counts().written == 2)
            return digest

    reading = threading.Event()
    s3.create_bucket(Bucket="log")
    log = PredictionLog(open_store("s3://log/read"), spool, seconds=0.01)
    answer(log, minutes=0.0)
    until(lambda: log.counts().written == 1)
    reading.set()
    assert minutes_of(Overtaken("s3://log/read")) == [0.0, 1.0]
    log.close(60)


# Reading.


def test_only_the_days_asked_for_are_fetched(spool, clock, tmp_path):
    class Watched(FolderStore):
        fetched: list[str] = []  # noqa: RUF012

        def get(self, key: str, file: Path) -> None:
            self.fetched.append(key.split("/")[1])
            super().get(key, file)

    store = Watched(tmp_path / "store")
    log = PredictionLog(store, spool, seconds=NEVER)
    for day in range(9, 14):
        for hour in (0, 12):
            clock.set(datetime(2026, 1, day, hour, tzinfo=UTC))
            answer(log, minutes=day + hour / 100)
    log.close(60)

    since, end = datetime(2026, 1, 10, 12, tzinfo=UTC), datetime(2026, 1, 12, 12, tzinfo=UTC)
    rows = read_log(store, since, end)
    assert rows["duration_minutes"].to_pylist() == [10.12, 11.0, 11.12, 12.0]  # the last moment is not asked for
    assert sorted(store.fetched) == ["date=2026-01-10", "date=2026-01-11", "date=2026-01-12"]


def test_a_time_without_answers_has_no_rows(store):
    rows = read_log(store, *ALL_TIME)
    assert rows.num_rows == 0
    assert rows.schema == prediction_schema()


def test_a_moment_without_a_time_zone_is_refused(store):
    with pytest.raises(InvalidRequest, match=r"2026-01-10T00:00:00 has no time zone: write 2026-01-10T00:00:00\+00:00"):
        read_log(store, datetime(2026, 1, 10), ALL_TIME[1])


# What it costs the service.

IMPORTS = """
import json, sys
from pathlib import Path
import tripcast.serving.prediction_log as module
from tripcast.serving.prediction_rows import Answerer
from tripcast.storage.store import open_store

at_import = [name for name in ("pyarrow", "pandas", "boto3") if name in sys.modules]
log = module.PredictionLog(open_store(sys.argv[1] + "/store"), Path(sys.argv[1]) / "spool")
log.append(Answerer("tripcast-green", 3, "champion"), "rider", (74, 236, 2.25, 0), "planned", (2.0, 1.0, 3.0))
assert log.close(60).written == 1
print(json.dumps([at_import, [name for name in ("pyarrow", "pandas", "boto3") if name in sys.modules]]))
"""


@pytest.mark.slow
def test_it_imports_pyarrow_only_when_it_runs_and_pandas_never(tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], ["pyarrow"]]


def test_the_records_in_memory_are_packed_as_they_are_read():
    packed = prediction_rows._pack(1, 2, 3, True, 4, 5, 6.5, 7, 8.5, 9.5, 10.5)
    assert np.frombuffer(packed, prediction_rows.RECORD).tolist() == [(1, 2, 3, True, 4, 5, 6.5, 7, 8.5, 9.5, 10.5)]
