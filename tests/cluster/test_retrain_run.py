"""A step starts a run of an uploaded pipeline: exactly once, whatever happens on the way."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.kubeflow_api import Frame
from tripcast.errors import ClusterError, ClusterUnreachable
from tripcast.kubeflow import Kubeflow, start_run

NAME = "retrain green after 2021-06: +12 % (v3)"
ARGUMENTS = {"source": "s3://trips", "taxi": "green", "trials": 5, "candidates": ["lightgbm"], "rollout": 0.1}


@pytest.fixture
def uploaded(cluster, tripcast):
    """The cluster, with the pipelines on it."""
    assert tripcast("upload").exit_code == 0
    return cluster


def start(cluster, name=NAME) -> str:
    return start_run("tripcast-training", name, "tripcast-green", ARGUMENTS, endpoint=cluster.url, namespace=None)


def versions_of_training(cluster) -> list[dict]:
    (pipeline,) = [p["pipeline_id"] for p in cluster.pipelines if p["name"] == "tripcast-training"]
    return [version for version in cluster.versions if version["pipeline_id"] == pipeline]


def test_a_run_of_the_uploaded_pipeline_is_started(uploaded):
    run_id = start(uploaded)

    (run,) = uploaded.runs
    assert run["run_id"] == run_id
    assert run["display_name"] == NAME
    assert run["runtime_config"]["parameters"] == ARGUMENTS
    assert uploaded.experiments[0]["display_name"] == "tripcast-green"
    (version,) = versions_of_training(uploaded)
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]


def test_it_is_started_once(uploaded):
    assert start(uploaded) == start(uploaded)
    assert len(uploaded.runs) == 1


def test_a_run_that_has_succeeded_is_not_started_again(uploaded):
    uploaded.script = (Frame("SUCCEEDED"),)
    assert start(uploaded) == start(uploaded)
    assert len(uploaded.runs) == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_did_not_end_well_is_started_again(uploaded, state):
    uploaded.script = (Frame(state),)
    first = start(uploaded)
    uploaded.script = (Frame("RUNNING"),)
    second = start(uploaded)

    assert second != first
    assert start(uploaded) == second
    assert len(uploaded.runs) == 2


def test_runs_of_other_names_are_other_runs(uploaded):
    # Also where the names differ in nothing but what a database overlooks or a URL mangles.
    names = [NAME, NAME.upper(), NAME.replace("+", " ")]

    assert len({start(uploaded, name) for name in names}) == 3


def test_an_answer_that_got_lost_starts_no_second_run(uploaded):
    uploaded.fail("POST /apis/v2beta1/runs", after=True)

    run_id = start(uploaded)

    assert [run["run_id"] for run in uploaded.runs] == [run_id]


def test_it_is_found_among_many(uploaded):
    first = start(uploaded, "the first")
    (run,) = uploaded.runs
    for number in range(250):
        copy = {**run, "run_id": str(number)}
        uploaded.runs.insert(0, copy)
        uploaded._frames[str(number)] = [Frame("FAILED")]

    assert start(uploaded, "the first") == first


def test_of_two_that_start_it_at_once_one_is_stopped(uploaded):
    with ThreadPoolExecutor(4) as callers:
        ids = set(callers.map(lambda _: start(uploaded), range(4)))

    assert len(ids) == 1
    live = [run["run_id"] for run in uploaded.runs if uploaded._shown(run)["state"] not in ("CANCELING", "CANCELED")]
    assert live == list(ids)


def test_a_short_outage_is_waited_for(uploaded):
    uploaded.fail(".", times=2, answer=(503, "text/plain", "no healthy upstream"))

    assert start(uploaded) == uploaded.runs[0]["run_id"]


def test_a_long_outage_is_an_error_with_the_next_step(uploaded):
    with pytest.raises(ClusterUnreachable, match=r"http://127\.0\.0\.1:9 does not answer .* Check the address"):
        start_run("tripcast-training", NAME, "e", {}, endpoint="http://127.0.0.1:9", namespace=None)


def test_a_pipeline_that_is_not_uploaded_says_how_to_upload_it(cluster):
    with pytest.raises(ClusterError, match=r"has no pipeline 'tripcast-training'\. Upload it: tripcast upload\."):
        start(cluster)


def test_an_argument_that_the_version_does_not_have_is_refused_by_the_server(uploaded):
    with pytest.raises(ClusterError, match="parameter novel is not an input of the pipeline"):
        start_run("tripcast-training", NAME, "e", {"novel": 1}, endpoint=uploaded.url, namespace=None)


def test_the_version_is_that_of_this_commit(uploaded, tripcast, monkeypatch):
    monkeypatch.setenv("TRIPCAST_COMMIT", "beef" * 10)
    tripcast("upload")
    first, second = versions_of_training(uploaded)
    first["created_at"], second["created_at"] = "2021-01-01T00:00:00Z", "2021-01-02T00:00:00Z"

    for commit, version in (("c0ffee" * 7, first), ("beef" * 10, second), ("unknown", second)):
        monkeypatch.setenv("TRIPCAST_COMMIT", commit)
        start(uploaded, f"by {commit}")
        reference = uploaded.runs[-1]["pipeline_version_reference"]
        assert reference["pipeline_version_id"] == version["pipeline_version_id"], commit


def test_a_version_of_a_work_tree_is_not_taken_for_that_of_its_commit(uploaded, tripcast, monkeypatch):
    monkeypatch.setenv("TRIPCAST_COMMIT", "c0ffee" * 6 + "c0ff+dirty")
    tripcast("upload")
    clean, dirty = versions_of_training(uploaded)
    clean["created_at"], dirty["created_at"] = "2021-01-01T00:00:00Z", "2021-01-02T00:00:00Z"
    pipeline = Kubeflow(uploaded.url).pipeline("tripcast-training")

    assert Kubeflow(uploaded.url).version(pipeline, "c0ffee" * 7) == clean["pipeline_version_id"]
    assert Kubeflow(uploaded.url).version(pipeline, "c0ffee" * 7 + "+dirty") == dirty["pipeline_version_id"]
    assert Kubeflow(uploaded.url).version(pipeline, "beef" * 10) == clean["pipeline_version_id"]


def test_an_experiment_that_somebody_else_just_made_is_used(uploaded, monkeypatch):
    create = uploaded._create_experiment

    def make_it_first(**request):
        create(**request)
        return create(**request)

    monkeypatch.setattr(uploaded, "_create_experiment", make_it_first)

    start(uploaded)

    assert len(uploaded.experiments) == 1
    assert uploaded.runs[0]["experiment_id"] == uploaded.experiments[0]["experiment_id"]


def test_the_namespace_and_the_steps_token_are_used(cluster, tripcast, monkeypatch, tmp_path):
    cluster.token, cluster.multi_user = "of-the-pod", True
    (tmp_path / "token").write_text("of-the-pod\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert tripcast("upload", "--namespace", "taxis").exit_code == 0

    start_run("tripcast-training", NAME, "e", ARGUMENTS, endpoint=cluster.url, namespace="taxis")

    assert len(cluster.runs) == 1


def test_a_token_file_that_is_not_there_is_named(cluster, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere/token")

    with pytest.raises(ClusterError, match=r"cannot be read from /nowhere/token \(No such file or directory\)"):
        start(cluster)


def test_it_works_within_a_step_where_kfp_hides_its_client(uploaded):
    code = (
        "from tripcast.kubeflow import start_run; import sys\n"
        f"arguments, endpoint = {ARGUMENTS!r}, {uploaded.url!r}\n"
        "print(start_run('tripcast-training', 'from a step', 'e', arguments, endpoint=endpoint, namespace=None))\n"
        "assert not [name for name in sys.modules if name == 'kfp' or name.startswith('kfp.')]"
    )
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == uploaded.runs[0]["run_id"]
