"""Tracking on a real MLflow store: runs found again by their key, nesting, datasets, and a server that is not there."""

from datetime import UTC, datetime

import pytest

from tripcast.errors import TrackingError
from tripcast.registry.connection import check_reachable
from tripcast.registry.tracking import Tracker


@pytest.fixture
def tracker(settings):
    return Tracker("tripcast-green", settings)


def test_the_same_key_continues_the_same_run(tracker):
    with tracker.pipeline_run("job 1", "green 2021-01") as first:
        tracker.log(first, metrics={"rmse": 5.0})
    with tracker.pipeline_run("job 1", "green 2021-01") as second:
        tracker.log(second, metrics={"rmse": 4.0})
    with tracker.pipeline_run("job 2", "green 2021-02") as third:
        pass

    assert second == first
    assert third != first
    assert tracker.client.get_run(first).data.metrics["rmse"] == 4.0


def test_nested_runs_stand_below_their_parent(tracker):
    with tracker.pipeline_run("job", "parent") as parent, tracker.nested_run(parent, "linear") as child:
        tracker.log(child, params={"alpha": 1}, tags={"kind": "candidate"})

    run = tracker.client.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params == {"alpha": "1"}
    assert run.info.status == "FINISHED"


def test_a_time_series_is_one_run_of_which_each_point_has_its_moment(tracker):
    for month in (3, 4):
        with tracker.series("monitoring green") as run_id:
            at = datetime(2021, month + 1, 1, tzinfo=UTC)
            tracker.log_point(run_id, {"champion.rmse": 5.0 + month, "retrain": 0.0}, step=12 * 2021 + month, at=at)

    (run,) = tracker.client.search_runs([tracker.experiment_id])
    points = tracker.client.get_metric_history(run.info.run_id, "champion.rmse")
    assert (run.info.run_name, run.info.status) == ("monitoring green", "FINISHED")
    assert [(point.step, point.value) for point in points] == [(24_255, 8.0), (24_256, 9.0)]
    assert [point.timestamp for point in points] == [
        datetime(2021, month, 1, tzinfo=UTC).timestamp() * 1000 for month in (4, 5)
    ]


def test_the_same_point_again_changes_nothing(tracker):
    for _ in range(2):
        with tracker.series("monitoring green") as run_id:
            tracker.log_point(run_id, {"champion.rmse": 5.0}, step=24_255, at=datetime(2021, 4, 1, tzinfo=UTC))

    (point,) = tracker.client.get_metric_history(run_id, "champion.rmse")
    assert (point.step, point.value) == (24_255, 5.0)


def test_a_run_whose_work_fails_is_marked_failed(tracker):
    with pytest.raises(ZeroDivisionError), tracker.pipeline_run("job", "parent") as run_id:
        _ = 1 / 0

    assert tracker.client.get_run(run_id).info.status == "FAILED"


def test_a_run_named_by_the_environment_is_used(tracker, monkeypatch):
    given = tracker.client.create_run(tracker.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)

    with tracker.pipeline_run("job", "parent") as run_id:
        tracker.log(run_id, metrics={"rmse": 5.0})

    assert run_id == given
    assert tracker.client.get_run(given).data.metrics["rmse"] == 5.0


def test_the_commit_is_on_every_run(tracker, monkeypatch, settings):
    monkeypatch.setenv("TRIPCAST_COMMIT", "c0ffee")
    from tripcast.settings import Settings

    with Tracker("tripcast-green", Settings.load()).pipeline_run("job", "parent") as run_id:
        pass

    assert tracker.client.get_run(run_id).data.tags["mlflow.source.git.commit"] == "c0ffee"


def test_a_month_is_logged_as_an_input_with_its_hash(tracker):
    with tracker.pipeline_run("job", "parent") as run_id:
        tracker.log_dataset(run_id, name="2021-01", sha256="ab" * 32, location="s3://bucket/trips", context="training")

    (logged,) = tracker.client.get_run(run_id).inputs.dataset_inputs
    assert logged.dataset.name == "2021-01"
    assert logged.dataset.digest == "ab" * 18
    assert "ab" * 32 in logged.dataset.profile
    assert "s3://bucket/trips" in logged.dataset.source
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_without_a_server_artifacts_are_in_the_home(tracker, settings, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>well</p>")

    with tracker.pipeline_run("job", "parent") as run_id:
        tracker.log_file(run_id, report)

    (stored,) = (settings.home / "artifacts").rglob("report.html")
    assert stored.read_text() == "<p>well</p>"
    assert tracker.url(run_id) is None


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(TrackingError, match=r"No MLflow server answers at http://127\.0\.0\.1:9"):
        check_reachable("http://127.0.0.1:9")


def test_a_file_store_needs_no_answer():
    check_reachable("sqlite:////nowhere/mlflow.db")
