"""What is wrong from the start is said at the start."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.errors import ContractError, SourceError
from tripcast.jobs.plan import plan
from tripcast.months import Month
from tripcast.taxi.simulation import City


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRIPCAST_ARTIFACTS", "MLFLOW_TRACKING_URI", "TRIPCAST_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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
