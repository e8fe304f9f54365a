"""The whole scoring pipeline, through the command that people type, on a tiny simulated city."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_trips
from tests.pipelines.command_line import tripcast
from tripcast.jobs.train import train
from tripcast.months import Month
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import DIGEST
from tripcast.settings import Settings
from tripcast.taxi.pyfunc import flavour
from tripcast.taxi.simulation import City
from tripcast.taxi.trips import PICKUP_COLUMNS, Trips

CITY = "simulated?trips=2000&seed=7"


def registry(home: Path) -> Registry:
    settings = Settings(home, str(home), f"sqlite:///{home / 'mlflow.db'}", service_url=None, image="")
    return Registry("tripcast-green", settings)


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store) -> Path:
    """A home with two registered versions: version 1, boosted trees, is the champion; version 2 is linear."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, home / "mlflow.db")
    settings = Settings(home, str(home), f"sqlite:///{home / 'mlflow.db'}", service_url=None, image="")
    for candidate in ("lightgbm", "linear"):
        train(candidate, make_trips(), taxi="green", data={"2021-01": "0" * 64}).save(home / "models" / candidate)
        with Tracker("tripcast-green", settings).pipeline_run(candidate, candidate) as run_id:
            registry(home).register(home / "models" / candidate, flavour=flavour("green"), run_id=run_id, tags={})
    registry(home).promote(1, "The first.")
    registry(home).challenger(2, 0.1, "To be tried.")
    return home


@pytest.fixture(scope="module")
def first(home) -> subprocess.CompletedProcess[str]:
    """Two months, scored by the champion."""
    return tripcast("score", "--source", CITY, "--months", "2021-02..2021-03", "--home", home, "--json")


@pytest.fixture(scope="module")
def summary(first) -> dict:
    assert first.returncode == 0, first.stderr
    return json.loads(first.stdout)


def read_scores(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder, partitioning="hive").to_table()


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_summary_says_for_each_month_what_was_scored_and_where_it_is(home, summary):
    assert summary["model"] == "tripcast-green"
    assert summary["version"] == 1
    assert summary["scores"] == f"{home}/scores/green/version=1"
    assert [month["month"] for month in summary["months"]] == ["2021-02", "2021-03"]
    for month in summary["months"]:
        assert month["location"] == f"{home}/scores/green/version=1/month={month['month']}"
        assert month["digest"] == registry(home).version(1).tags[DIGEST]
        assert month["trips"] == 2000
        assert month["predicted"] + sum(month["not_predicted"].values()) == 2000
        assert month["predicted"] > month["judged"] > 1800
    assert set(summary["seconds"]) == {"specify", "plan-scoring", "ingest", "score", "total"}


def test_every_month_is_a_task_of_its_own(first):
    for task in ("plan-scoring", "ingest 2021-02", "ingest 2021-03", "score 2021-02", "score 2021-03"):
        assert f"{task}: succeeded" in first.stderr


def test_the_scores_are_what_the_champion_predicts_for_these_trips(home, summary):
    scores = read_scores(Path(summary["scores"]).parent)
    model = registry(home).load(registry(home).version(1))

    prediction = model.predict(Trips(*(scores[name].to_numpy() for name in PICKUP_COLUMNS)), metered=True)

    assert np.array_equal(scores["duration_minutes"].to_numpy(), prediction.minutes)
    assert np.array_equal(scores["lower_minutes"].to_numpy(), prediction.lower)
    assert np.array_equal(scores["upper_minutes"].to_numpy(), prediction.upper)
    assert set(scores["version"].to_pylist()) == {1}


def test_scores_can_be_joined_back_to_the_records_by_month_and_row(summary):
    scores = read_scores(Path(summary["scores"]))
    for month in summary["months"]:
        published = pa.Table.from_batches(list(City.parse(CITY).month("green", Month.parse(month["month"]))))
        of_month = scores.filter(pa.compute.field("month") == month["month"])
        assert len(of_month) == month["predicted"]
        recorded = published.take(of_month["row"])
        assert of_month["pickup_datetime"].to_pylist() == recorded["lpep_pickup_datetime"].to_pylist()
        assert of_month["pickup_zone"].to_pylist() == recorded["PULocationID"].to_pylist()
        assert of_month["dropoff_zone"].to_pylist() == recorded["DOLocationID"].to_pylist()


def test_the_error_is_measured_where_the_truth_is_known(summary):
    scores = read_scores(Path(summary["scores"]))
    for month in summary["months"]:
        rows = scores.filter(
            (pa.compute.field("month") == month["month"]) & ~pa.compute.field("true_minutes").is_null()
        )
        error = rows["duration_minutes"].to_numpy() - rows["true_minutes"].to_numpy()
        assert len(rows) == month["judged"]
        assert month["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-12)


def test_the_same_again_changes_no_byte(home, summary):
    before = content(home / "scores")

    again = tripcast("score", "--source", CITY, "--months", "2021-02", "--home", home)

    assert again.returncode == 0, again.stderr
    assert content(home / "scores") == before
    assert "tripcast-green version 1" in again.stdout
    assert "2021-02" in again.stdout
    assert f"{summary['months'][0]['rmse']:.3f}" in again.stdout
    assert f"Scores   {home}/scores/green/version=1\n" in again.stdout


def test_an_alias_scores_into_its_versions_partition(home):
    result = tripcast("score", "--source", CITY, "--months", "2021-01", "--model", "challenger", "--home", home)

    assert result.returncode == 0, result.stderr
    assert sorted(content(home / "scores" / "green" / "version=2")) == [
        "month=2021-01/_SUCCESS",
        "month=2021-01/part-00000.parquet",
    ]


def test_scores_go_to_s3_as_they_would_to_a_folder(home, summary, s3, tmp_path):
    s3.create_bucket(Bucket="trips")
    result = tripcast(
        *("score", "--source", CITY, "--months", "2021-03", "--model", "1", "--home", home),
        *("--artifacts", "s3://trips/kept", "--json"),
    )

    assert result.returncode == 0, result.stderr
    (month,) = json.loads(result.stdout)["months"]
    assert month["location"] == "s3://trips/kept/scores/green/version=1/month=2021-03"
    assert {**month, "location": ""} == {**summary["months"][1], "location": ""}
    listed = s3.list_objects_v2(Bucket="trips", Prefix="kept/scores/")["Contents"]
    assert [item["Key"].removeprefix("kept/scores/green/") for item in listed] == [
        "version=1/month=2021-03/_SUCCESS",
        "version=1/month=2021-03/part-00000.parquet",
    ]
    s3.download_file("trips", listed[1]["Key"], str(tmp_path / "part"))
    assert (tmp_path / "part").read_bytes() == (
        Path(summary["months"][1]["location"]) / "part-00000.parquet"
    ).read_bytes()


def test_bad_input_is_named_before_any_work_and_ends_with_2(home):
    result = tripcast("score", "--source", CITY, "--home", home, "--model", "best")

    assert result.returncode == 2, result.stderr
    assert "tripcast-green has no version 'best'. Its versions and their aliases: 1 champion, 2" in result.stderr
    assert "Traceback" not in result.stderr
    assert "ingest" not in result.stderr
    assert result.stdout == ""


@pytest.fixture
def folder_of_months(tmp_path) -> Path:
    """A month as published, one that is cut off, and one that is empty."""
    folder = tmp_path / "months"
    folder.mkdir()
    table = pa.Table.from_batches(list(City.parse(CITY).month("green", Month(2021, 1))))
    pq.write_table(table, folder / "green_tripdata_2021-01.parquet")
    whole = (folder / "green_tripdata_2021-01.parquet").read_bytes()
    (folder / "green_tripdata_2021-02.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(table.slice(0, 0), folder / "green_tripdata_2021-03.parquet")
    return folder


@pytest.mark.parametrize(
    ("months", "sentence"),
    [
        ("2021-01..2021-02", "green_tripdata_2021-02.parquet is a truncated parquet file"),
        ("2021-03", "green_tripdata_2021-03.parquet is empty: it has the right columns but no rows"),
        ("2021-01,2021-05", "There is no 2021-05 of the green taxi"),
    ],
)
def test_a_month_that_cannot_be_scored_is_named_and_ends_with_2(home, folder_of_months, months, sentence):
    result = tripcast("score", "--source", folder_of_months, "--months", months, "--home", home)

    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_store_that_is_not_there_ends_with_1_before_any_work(home):
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}

    result = tripcast(
        *("score", "--source", CITY, "--home", home, "--artifacts", "s3://trips"),
        **keys,
        AWS_ENDPOINT_URL_S3="http://127.0.0.1:9",
    )

    assert result.returncode == 1
    assert "s3://trips cannot be used" in result.stderr
    assert "ingest" not in result.stderr
