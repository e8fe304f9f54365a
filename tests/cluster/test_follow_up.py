"""The next monitoring run looks back: each run that failed is told of once, a failed retraining is started anew."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cluster.kubeflow_api import Frame, pod_of
from tripcast.jobs.follow_up import MOST_STARTS, follow_up
from tripcast.kubeflow import Kubeflow, start_run
from tripcast.monitoring.history import History, Retraining, Window
from tripcast.monitoring.rule import WindowResult
from tripcast.storage.store import FolderStore

ARGUMENTS = {"source": "s3://trips", "taxi": "green", "trials": 5, "candidates": ["lightgbm"], "rollout": 0.1}
RETRAINING = "retraining green 2021-06"
FAILED = Frame("FAILED", (("plan", "SUCCEEDED"), ("train", "FAILED")))


@pytest.fixture
def store(tmp_path, monkeypatch) -> FolderStore:
    monkeypatch.setenv("TRIPCAST_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("TRIPCAST_KFP_UI", "https://kubeflow.example")
    monkeypatch.delenv("TRIPCAST_ALERT_WEBHOOK", raising=False)
    return FolderStore(tmp_path)


@pytest.fixture
def uploaded(cluster, tripcast, store):
    """The cluster, with the pipelines on it."""
    assert tripcast("upload").exit_code == 0
    return cluster


def start(cluster, name: str, *frames: Frame) -> dict[str, Any]:
    """A run that was started earlier, an hour before the run before it was looked at."""
    cluster.script = frames
    run_id = start_run("tripcast-training", name, "tripcast-green", ARGUMENTS, endpoint=cluster.url, namespace=None)
    (run,) = [run for run in cluster.runs if run["run_id"] == run_id]
    run["created_at"] = aged(hours=100 - len(cluster.runs))
    return run


def aged(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%SZ")


def alerts(store: FolderStore, tmp_path) -> list[dict[str, Any]]:
    return [json.loads((tmp_path / key).read_text()) for key in store.list("alerts/waiting/")]


def watched(store: FolderStore, tmp_path, month: str, retraining: Retraining | None) -> None:
    page = tmp_path / "page"
    page.write_text("A page.")
    window = Window(
        WindowResult(month, 1), "retrain" if retraining else "nothing", "It is too high.", retraining=retraining
    )
    History(store, "green").record(window, page, page)


def test_a_failed_run_is_told_of_once_with_its_step_its_sentence_and_the_link(uploaded, store, tmp_path):
    run = start(uploaded, "training green 2021-01 -> 2021-02", FAILED)
    uploaded.logs[pod_of(run["run_id"], "train")] = "tripcast.errors.InvalidRequest: Too few trips.\n"

    for _ in range(2):
        follow_up("green")

    (alert,) = alerts(store, tmp_path)
    assert alert["what"] == "Green taxis: the run 'training green 2021-01 -> 2021-02' failed."
    assert alert["how_bad"] == "The step 'train' failed: Too few trips."
    assert alert["link"] == f"https://kubeflow.example/#/runs/details/{run['run_id']}"


def test_of_a_run_that_somebody_stopped_people_are_told_that(uploaded, store, tmp_path):
    run = start(uploaded, "training green 2021-01 -> 2021-02", Frame("RUNNING"))
    Kubeflow(uploaded.url).stop_run(run["run_id"])
    for _ in range(2):  # until it is said to have failed
        Kubeflow(uploaded.url).run(run["run_id"])

    follow_up("green")

    (alert,) = alerts(store, tmp_path)
    assert alert["what"] == "Green taxis: the run 'training green 2021-01 -> 2021-02' was stopped."
    assert alert["how_bad"] == "Somebody stopped it."


def test_nothing_is_told_of_runs_that_went_well_or_go_on_or_are_long_past(uploaded, store, tmp_path):
    start(uploaded, "went well", Frame("SUCCEEDED"))
    start(uploaded, "goes on", Frame("RUNNING"))
    start(uploaded, "long past", FAILED)["created_at"] = aged(days=50)

    assert follow_up("green") == "No run has failed since."
    assert alerts(store, tmp_path) == []


def test_a_run_that_was_stopped_for_its_double_has_not_failed(uploaded, store, tmp_path):
    first = start(uploaded, RETRAINING, Frame("RUNNING"))
    double = {**first, "run_id": "double"}
    uploaded.runs.append(double)
    uploaded._frames["double"] = [Frame("FAILED")]

    assert follow_up("green") == "No run has failed since."


def test_a_failed_retraining_is_started_anew_with_its_own_parameters_until_it_has_ended_well(uploaded, store, tmp_path):
    watched(store, tmp_path, "2021-06", Retraining("2021-05", "2021-06"))
    first = start(uploaded, RETRAINING, FAILED)
    uploaded.script = (Frame("RUNNING"),)

    follow_up("green")
    follow_up("green")

    second = uploaded.runs[-1]
    assert [run["display_name"] for run in uploaded.runs] == [RETRAINING] * 2
    assert second["runtime_config"]["parameters"] == ARGUMENTS
    history = History(store, "green")
    window = history.window("2021-06")
    assert window is not None
    assert history.get_retraining(window) == {"run": second["run_id"], "failed": [first["run_id"]]}


def test_it_is_started_so_often_and_then_people_are_told(uploaded, store, tmp_path):
    watched(store, tmp_path, "2021-06", Retraining("2021-05", "2021-06"))
    for _ in range(MOST_STARTS):
        start(uploaded, RETRAINING, FAILED)

    follow_up("green")

    assert len(uploaded.runs) == MOST_STARTS
    assert "Green taxis: the retraining that 2021-06 calls for has failed 3 times." in [
        alert["what"] for alert in alerts(store, tmp_path)
    ]


def test_the_retraining_of_a_month_before_the_latest_is_not_started_anew(uploaded, store, tmp_path):
    watched(store, tmp_path, "2021-06", Retraining("2021-05", "2021-06"))
    watched(store, tmp_path, "2021-07", None)
    start(uploaded, RETRAINING, FAILED)

    follow_up("green")

    assert len(uploaded.runs) == 1
    assert len(alerts(store, tmp_path)) == 1


def test_without_kubeflow_there_is_nothing_to_look_back_at(store, monkeypatch):
    monkeypatch.delenv("TRIPCAST_KFP_ENDPOINT", raising=False)

    assert follow_up("green") == "Runs on this machine tell of their failures themselves."
