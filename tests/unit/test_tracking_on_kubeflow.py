"""Tracking in a pod of Kubeflow Pipelines: links both ways, and runs that its MLflow plugin has made."""

from dataclasses import replace

import pytest

from tripcast.errors import TrackingError
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.taxi.pyfunc import flavour

RUN = "0c9e4e0d-6c1b-4b1c-9d51-0a4be1b7a5d2"


@pytest.fixture
def tracker(settings):
    """Of a step that knows where people see Kubeflow's pages."""
    return Tracker("tripcast-green", replace(settings, kfp_ui="http://localhost:8888/"))


@pytest.fixture
def pod(monkeypatch):
    """What Kubeflow Pipelines 2.17 tells every step."""
    monkeypatch.setenv("KFP_POD_NAME", "training-abcde-system-container-impl-1234")


@pytest.fixture
def given(tracker, tmp_path, monkeypatch) -> str:
    """A step's own run, as the plugin makes it: below the pipeline run's, in an experiment of the plugin's choice."""
    experiment = tracker.client.create_experiment("KFP-Default", artifact_location=(tmp_path / "files").as_uri())
    parent = tracker.client.create_run(experiment, run_name="training green").info.run_id
    run = tracker.client.create_run(experiment, run_name="evaluate", tags={"mlflow.parentRunId": parent}).info
    monkeypatch.setenv("MLFLOW_RUN_ID", run.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    return run.run_id


def test_a_run_leads_to_the_pipeline_run_that_it_is_of(tracker, pod):
    with tracker.pipeline_run(RUN, "green 2021-01") as run_id:
        pass

    tags = tracker.client.get_run(run_id).data.tags
    assert tags["kfp.pipeline_run_id"] == RUN
    assert tags["kfp.pipeline_run_url"] == f"http://localhost:8888/#/runs/details/{RUN}"


def test_without_an_address_of_its_user_interface_a_run_names_the_pipeline_run(settings, pod):
    tracker = Tracker("tripcast-green", settings)

    with tracker.pipeline_run(RUN, "green 2021-01") as run_id:
        pass

    tags = tracker.client.get_run(run_id).data.tags
    assert tags["kfp.pipeline_run_id"] == RUN
    assert "kfp.pipeline_run_url" not in tags


def test_on_a_laptop_there_is_no_pipeline_run_to_lead_to(tracker):
    with tracker.pipeline_run("job", "green 2021-01") as run_id:
        pass

    assert not [tag for tag in tracker.client.get_run(run_id).data.tags if tag.startswith("kfp.")]


def test_the_address_for_people_may_be_another_than_that_for_steps(settings):
    tracker = Tracker("tripcast-green", replace(settings, mlflow_ui="https://mlflow.example.com/"))

    assert tracker.url("ab") == f"https://mlflow.example.com/#/experiments/{tracker.experiment_id}/runs/ab"


def test_what_is_below_a_given_run_is_in_its_experiment(tracker, given):
    with tracker.pipeline_run(RUN, "green 2021-01") as run_id, tracker.nested_run(run_id, "linear") as candidate:
        with tracker.nested_run(candidate, "trial 1") as trial:
            tracker.log(trial, metrics={"rmse": 5.0})
        tracker.log(run_id, params={"train_months": "2021-01"})

    runs = {name: tracker.client.get_run(name) for name in (run_id, candidate, trial)}
    assert run_id == given
    assert len({run.info.experiment_id for run in runs.values()}) == 1
    assert runs[run_id].info.experiment_id != tracker.experiment_id
    assert runs[candidate].data.tags["mlflow.parentRunId"] == run_id
    assert runs[trial].data.tags["mlflow.parentRunId"] == candidate


def test_a_given_run_keeps_its_name_its_parent_and_its_end(tracker, given):
    before = tracker.client.get_run(given)

    with pytest.raises(ZeroDivisionError), tracker.pipeline_run(RUN, "green 2021-01"):
        _ = 1 / 0

    after = tracker.client.get_run(given)
    assert after.info.status == "RUNNING"  # Kubeflow's launcher knows how the step ended, and says so itself
    assert after.info.run_name == "evaluate"
    assert after.data.tags["mlflow.parentRunId"] == before.data.tags["mlflow.parentRunId"]


def test_a_step_that_is_tried_again_continues_its_given_run(tracker, given, settings):
    for rmse in (5.0, 4.0):
        again = Tracker("tripcast-green", settings)
        with again.pipeline_run(RUN, "green 2021-01") as run_id, again.nested_run(run_id, "linear") as candidate:
            again.log(candidate, params={"alpha": 1}, metrics={"rmse": rmse})

    below = tracker.client.search_runs(
        [tracker.client.get_run(given).info.experiment_id], f"tags.`mlflow.parentRunId` = '{given}'"
    )
    assert [run.data.metrics for run in below] == [{"rmse": 4.0}]


def test_registering_a_model_leaves_the_given_run_alone(tracker, given, make_model):
    with tracker.pipeline_run(RUN, "green 2021-01") as run_id, tracker.nested_run(run_id, "linear") as candidate:
        pass
    own = tracker.client.create_run(tracker.client.get_run(given).info.experiment_id, run_name="register").info.run_id

    with pytest.MonkeyPatch.context() as step:
        step.setenv("MLFLOW_RUN_ID", own)
        version = Registry("tripcast-green", Settings.load()).register(
            make_model(1), flavour=flavour("green"), run_id=candidate, tags={}
        )

    assert tracker.client.get_run(own).info.status == "RUNNING"
    assert tracker.client.get_run(given).info.status == "RUNNING"
    assert tracker.client.get_model_version("tripcast-green", str(version.number)).run_id == candidate


def test_a_given_run_that_is_not_there_is_named(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)

    with (
        pytest.raises(TrackingError, match=r"looking for the run f{32}, which MLFLOW_RUN_ID names"),
        tracker.pipeline_run(RUN, "green 2021-01"),
    ):
        pass
