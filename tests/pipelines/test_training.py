"""The whole training pipeline, through the command that people type, on a tiny simulated city."""

import json
import signal
import subprocess
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from tests.parts import wait_for
from tests.pipelines.command_line import TRIPCAST, environment, tripcast
from tripcast.models import Model
from tripcast.months import Month
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
from tripcast.taxi.simulation import City

CITY = "simulated?trips=5000&seed=7"
MONTHS = ("--train", "2021-01..2021-02", "--test", "2021-03")
TWO_MONTHS = ("--train", "2021-01", "--test", "2021-02")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home) -> subprocess.CompletedProcess[str]:
    """The first run in an empty home, by the command itself."""
    command = [TRIPCAST, "train", "--source", CITY, *MONTHS, "--home", home, "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


@pytest.fixture(scope="module")
def summary(first) -> dict:
    assert first.returncode == 0, first.stderr
    return json.loads(first.stdout)


@pytest.fixture(scope="module")
def run(summary) -> Path:
    """The folder that holds the run's artifacts."""
    return Path(summary["report"]).parent


def registry(home: Path) -> Registry:
    return Registry(
        "tripcast-green",
        Settings(home, str(home), f"sqlite:///{home / 'mlflow.db'}", service_url=None, image=""),
    )


def test_the_better_candidate_is_promoted(summary):
    assert summary["decision"] == "promoted"
    assert summary["winner"] == "lightgbm"
    assert summary["version"] == 1
    assert summary["candidates"]["lightgbm"]["rmse"] < summary["candidates"]["linear"]["rmse"]
    for figures in summary["candidates"].values():
        ways = {"zones_only", "planned"}
        assert set(figures) == {"rmse", "mae", "r2", "p90_error", "interval_coverage", "seconds"} | ways
        for way in ways:
            assert set(figures[way]) == {"rmse", "mae", "interval_coverage"}
            assert figures[way]["rmse"] > 0.99 * figures["rmse"]  # who knows less predicts no better
        assert 0 < figures["mae"] < figures["rmse"]
        assert 0.7 < figures["interval_coverage"] < 0.9


def test_the_best_model_comes_close_to_the_best_there_can_be(summary):
    best = City.parse(CITY).irreducible_rmse("green", Month(2021, 3))

    assert 0.97 * best < summary["candidates"]["lightgbm"]["rmse"] < 1.25 * best
    assert summary["candidates"]["linear"]["rmse"] > 1.4 * best


def test_progress_goes_to_standard_error_and_names_every_task(first, summary):
    for task in ("plan", "ingest 2021-01", "ingest 2021-03", "validate", "train linear", "train lightgbm", "evaluate"):
        assert f"{task}: succeeded" in first.stderr
    assert set(summary["seconds"]) == {
        "specify",
        "plan",
        "ingest",
        "validate",
        "train",
        "evaluate",
        "register",
        "deploy",
        "total",
    }


def test_every_row_is_either_kept_or_set_aside_with_a_reason(run):
    for month in ("2021-01", "2021-02", "2021-03"):
        (records,) = (
            pq.read_table(file)
            for file in run.glob("*/ingest/records")
            if json.loads(pq.read_metadata(file).metadata[b"tripcast"])["month"] == month
        )
        kept = pq.read_table(next(run.glob(f"validate/*_trips/{month}.parquet")))
        aside = pq.read_table(run / "validate" / "rejected" / f"{month}.parquet")
        assert kept.num_rows + aside.num_rows == records.num_rows
        assert set(aside["reason"].to_pylist()) <= {"missing_zone", "unknown_zone", "bad_distance", "bad_duration"}


def test_the_training_steps_never_see_the_test_month(run):
    assert [file.name for file in (run / "validate" / "train_trips").iterdir() if "03" in file.stem[-2:]] == []
    assert [file.stem for file in (run / "validate" / "test_trips").glob("*.parquet")] == ["2021-03"]


def test_snapshots_are_kept_under_their_content_hash(home, run):
    names = {file.stem for file in (home / "snapshots").glob("*.parquet")}
    for file in run.glob("*/ingest/records"):
        assert json.loads(pq.read_metadata(file).metadata[b"tripcast"])["sha256"] in names


def test_the_report_shows_every_candidate_and_the_decision(summary):
    report = Path(summary["report"]).read_text()

    assert summary["reason"] in report
    for figures in summary["candidates"].values():
        assert f"{figures['rmse']:.3f}" in report
    assert report.count("<svg") >= 5


def test_the_registered_model_is_the_winner(home, run, summary):
    (version,) = registry(home).versions()

    assert version.aliases == ("champion",)
    assert version.tags["tripcast.candidate"] == "lightgbm"
    assert version.tags["tripcast.train_months"] == "2021-01, 2021-02"
    assert version.tags["tripcast.digest"] == Model.load(run / "evaluate" / "winner").digest
    (move,) = registry(home).moves()
    assert (move.action, move.version, move.reason) == ("promote", 1, summary["reason"])


def test_mlflow_holds_a_parent_run_with_a_run_for_each_candidate(home, summary):
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    parent = client.get_run(summary["run_id"])
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")

    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["rmse"] == summary["candidates"]["lightgbm"]["rmse"]
    assert parent.data.params["train_months"] == "2021-01, 2021-02"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"decision.json", "report.html"}
    inputs = {(i.dataset.name, i.tags[0].value) for i in parent.inputs.dataset_inputs}
    assert inputs == {("2021-01", "training"), ("2021-02", "training"), ("2021-03", "test")}
    assert {child.info.run_name for child in children} == {"linear", "lightgbm"}
    for child in children:
        assert child.data.metrics["rmse"] == summary["candidates"][child.info.run_name]["rmse"]
        assert child.data.tags["mlflow.source.git.commit"]


def test_the_champion_is_listed_with_its_promotion(home, summary):
    listing = tripcast("models", "--home", home, COLUMNS="200")

    assert listing.returncode == 0
    assert "champion" in listing.stdout
    assert "lightgbm" in listing.stdout
    assert summary["reason"] in listing.stdout


def test_the_same_inputs_again_change_nothing(home, summary):
    again = tripcast("train", "--source", CITY, *MONTHS, "--home", home, "--json")

    assert again.returncode == 0, again.stderr
    repeated = json.loads(again.stdout)
    assert repeated["decision"] == "unchanged"
    assert repeated["version"] == 1
    assert repeated["candidates"]["lightgbm"]["rmse"] == summary["candidates"]["lightgbm"]["rmse"]
    assert len(registry(home).versions()) == 1
    assert len(registry(home).moves()) == 1


def test_a_worse_candidate_is_refused_and_the_champion_stays(home, summary):
    refused = tripcast("train", "--source", CITY, *MONTHS, "--candidates", "linear", "--home", home)

    assert refused.returncode == 3, refused.stderr
    assert "Refused." in refused.stdout
    assert "The champion stays" in refused.stdout
    assert [version.aliases for version in registry(home).versions()] == [("champion",)]


def test_every_trial_of_a_search_is_a_nested_run(tmp_path):
    tuned = tripcast(
        "train", "--source", CITY, *TWO_MONTHS, "--candidates", "tuned", "--trials", "2", "--home", tmp_path, "--json"
    )

    assert tuned.returncode == 0, tuned.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.get_run(json.loads(tuned.stdout)["run_id"])
    (candidate,) = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    trials = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{candidate.info.run_id}'")
    assert {trial.info.run_name for trial in trials} == {"trial 0", "trial 1"}
    assert all(trial.data.metrics["rmse"] > 0 and trial.data.params for trial in trials)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        # What is asked for at all, the plan finds out (tests/unit/test_plan.py); what is in a month, a later step.
        (("--source", CITY, "--candidates", "magic"), "There is no candidate 'magic': choose from linear, lightgbm"),
        (("--source", "simulated?trips=5000&bad_rows=2021-02"), "2021-02 from simulated"),
    ],
)
def test_bad_input_is_named_and_ends_with_2(tmp_path, arguments, sentence):
    result = tripcast("train", *arguments, "--home", tmp_path)

    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_months_that_a_folder_lacks_are_all_named(tmp_path):
    result = tripcast("train", "--source", tmp_path, *MONTHS, "--home", tmp_path / "home")

    assert result.returncode == 2
    for month in ("2021-01", "2021-02", "2021-03"):
        assert f"There is no {month} of the green taxi" in result.stderr


def test_a_tracking_server_that_is_not_there_ends_with_1_before_any_work(tmp_path):
    result = tripcast("train", "--source", CITY, "--home", tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")

    assert result.returncode == 1
    assert "No MLflow server answers at http://127.0.0.1:9" in result.stderr
    assert "ingest" not in result.stderr


@pytest.mark.parametrize(
    ("source", "settings", "sentence"),
    [
        ("s3://trips", {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "s3://trips cannot be read"),
        ("s3://trips", {"AWS_ACCESS_KEY_ID": ""}, "s3://trips cannot be read: it needs credentials"),
    ],
)
def test_a_source_that_does_not_answer_ends_with_1(tmp_path, source, settings, sentence):
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}

    result = tripcast("train", "--source", source, "--home", tmp_path, **keys | settings)

    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_step_that_breaks_ends_with_1_and_names_its_log(tmp_path):
    # A home that is a file: nothing can be kept there.
    (tmp_path / "home").write_text("")

    result = tripcast("train", "--source", CITY, "--home", tmp_path / "home" / "inside")

    assert result.returncode == 1
    assert str(tmp_path / "home") in result.stderr


def test_an_interrupted_run_leaves_nothing_half_registered(tmp_path):
    arguments = ["train", "--source", CITY, *TWO_MONTHS, "--candidates", "linear", "--home", str(tmp_path), "--json"]
    interrupted = subprocess.Popen(
        [str(TRIPCAST), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert interrupted.stderr is not None
    for line in interrupted.stderr:
        if line.startswith("evaluate: started"):
            wait_for(lambda: any(lock.read_text() for lock in tmp_path.glob("runs/.running/*.step")))  # it is a process
            interrupted.send_signal(signal.SIGINT)
            break
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "Interrupted" in errors
    assert registry(tmp_path).versions() == []

    again = tripcast(*arguments)

    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["version"] == 1
    assert [version.aliases for version in registry(tmp_path).versions()] == [("champion",)]


def test_help_lists_the_commands_and_the_exit_codes():
    result = tripcast("--help")

    for command in ("train", "models", "promote", "rollback", "compile", "ui"):
        assert f"  {command}" in result.stdout
    assert "done, and refused" in result.stdout
