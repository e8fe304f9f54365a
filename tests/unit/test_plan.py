"""What is wrong from the start is said at the start."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.errors import ContractError, InvalidRequest, SourceError, TrackingError
from tripcast.jobs.months import find_months
from tripcast.jobs.plan import plan
from tripcast.months import Month, parse_months
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.taxi.simulation import City
from tripcast.taxi.sources import open_source


@pytest.fixture(autouse=True)
def home(settings: Settings) -> Settings:
    """A home with an empty store."""
    return settings


def months(folder: Path, zone: str | None = None) -> Path:
    folder.mkdir()
    for number in (1, 2):
        table = pa.Table.from_batches(City.parse("simulated?trips=200").month("green", Month(2021, number)))
        for name in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
            times = table[name].cast(pa.timestamp("us", zone))
            table = table.set_column(table.schema.get_field_index(name), name, times)
        pq.write_table(table, folder / f"green_tripdata_2021-{number:02d}.parquet")
    return folder


def test_times_that_are_marked_with_a_zone_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = months(tmp_path / "trips", "UTC")
    assert [month["month"] for month in plan(str(source), "green", "2021-01", "2021-02", ["linear"])] == [
        "2021-01",
        "2021-02",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" are marked as UTC: they are taken as the wall clock")[0] for line in lines] == [
        f"The times of {source}/green_tripdata_2021-{number:02d}.parquet" for number in (1, 2)
    ]


def test_all_months_that_are_no_tables_are_named(tmp_path: Path) -> None:
    source = months(tmp_path / "trips")
    for number in (1, 2):
        (source / f"green_tripdata_2021-{number:02d}.parquet").write_bytes(
            b"version https://git-lfs.github.com/spec/v1"
        )
    with pytest.raises(SourceError, match=r"2021-01.parquet is a Git LFS pointer.*\n.*2021-02.parquet is a Git"):
        plan(str(source), "green", "2021-01", "2021-02", ["linear"])


def test_months_of_the_other_taxi_are_named(tmp_path: Path) -> None:
    source = months(tmp_path / "trips")
    for number in (1, 2):
        file = source / f"green_tripdata_2021-{number:02d}.parquet"
        file.rename(source / file.name.replace("green", "yellow"))
    with pytest.raises(ContractError, match=r"2021-01.parquet is not a month of the yellow taxi"):
        plan(str(source), "yellow", "2021-01", "2021-02", ["linear"])


def test_of_many_missing_months_one_sentence_names_all(tmp_path: Path) -> None:
    source = open_source(str(months(tmp_path / "trips")), tmp_path)
    with pytest.raises(SourceError) as error:
        find_months(source, "green", parse_months("2021-01..2021-06"))
    said = str(error.value)
    assert said.startswith("4 months are missing: 2021-03, 2021-04, 2021-05, 2021-06. Of the first: There is no ")
    assert "It has 2021-01, 2021-02: ask for one of these" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"taxi": "blue"}, "There is no taxi 'blue': choose one of green"),
        ({"candidates": []}, "No candidate was named: choose from linear, lightgbm"),
        ({"candidates": ["magic"]}, "There is no candidate 'magic': choose from linear, lightgbm"),
        ({"candidates": ["linear", "linear"]}, "'linear' is named twice"),
        ({"train": "2021-02"}, "2021-02 is not before the test month 2021-02"),
        ({"train": "2021-13"}, "'2021-13' is not a month"),
        ({"test": "2021-03..2021-04"}, "judged on one month, not on 2"),
        ({"source": "/nowhere"}, "does not exist"),
        ({"source": "ftp://nowhere"}, "ftp:// is not supported"),
        ({"source": "simulated?magic=1"}, "no option 'magic'"),
    ],
)
def test_what_cannot_be_trained_is_named(settings: Settings, asked: dict[str, Any], sentence: str) -> None:
    request = {"source": "simulated", "taxi": "green", "train": "2021-01", "test": "2021-02", "candidates": ["linear"]}
    with pytest.raises((InvalidRequest, SourceError), match=re.escape(sentence)):
        plan(**request | asked)


def test_an_experiment_that_was_deleted_is_said(settings: Settings) -> None:
    tracker = Tracker("tripcast-green", settings)
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match="Restore it: mlflow experiments restore"):
        plan("simulated?trips=200", "green", "2021-01", "2021-02", ["linear"])


@pytest.mark.parametrize("address", ["localhost:5000", "127.0.0.1:5000", "mlflow"])
def test_an_address_of_mlflow_without_scheme_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InvalidRequest, match=f"'{address}' in MLFLOW_TRACKING_URI is no address: write http://"):
        plan("simulated?trips=200", "green", "2021-01", "2021-02", ["linear"])


def test_a_server_that_refuses_its_host_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own health check answers under any name."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = self.path == "/health"
            self.send_response(200 if healthy else 403)
            self.end_headers()
            self.wfile.write(b"OK" if healthy else b"Invalid Host header - possible DNS rebinding attack detected")

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(TrackingError, match=r"start it with --allowed-hosts naming 127.0.0.1:\d+"):
            plan("simulated?trips=200", "green", "2021-01", "2021-02", ["linear"])
        server.shutdown()
