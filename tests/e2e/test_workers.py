"""A training on several workers: they are pods, and go when one of them does."""

import json

import pytest

from tests.e2e.conftest import MINUTES, Cluster, kubectl, objects, run_id, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("signing")]

#: Prints the errors of the candidate of a run, in minutes.
ERRORS = """
import json
from tripcast.registry.tracking import KEY, Tracker
from tripcast.settings import Settings
tracker = Tracker("tripcast-green", Settings.load())
[run] = tracker.client.search_runs([tracker.experiment_id], f"tags.`{KEY}` = 'RUN'")
[nested] = tracker.client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
print(json.dumps({name: value for name, value in nested.data.metrics.items() if name.endswith("rmse")}))
"""


def workers() -> dict[str, str]:
    """The pods of workers that run, by their number."""
    label = "batch.kubernetes.io/job-completion-index"
    pods = objects("pods", "kubeflow", "--selector", f"{label},app.kubernetes.io/name=train")
    return {
        pod["metadata"]["labels"][label]: pod["metadata"]["name"]
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


def test_a_worker_that_is_lost_ends_the_try_and_two_train_a_model_as_good_as_one(cluster: Cluster):
    city = {"source": cluster.source.replace("trips=8000", "trips=30000"), "candidates": "lightgbm"}
    run = run_id(cluster.train("e2e two workers", "--no-wait", **city, workers="2").stdout)

    [_, second] = sorted(wait_until(lambda: len(found := workers()) == 2 and found, 20 * MINUTES, "Workers").items())
    kubectl("delete", "pod", second[1], "--namespace", "kubeflow", "--grace-period=0", "--force")
    ended = wait_until(lambda: cluster.ended(run), 30 * MINUTES, "The end of the run")
    tries = cluster.step_pods(run, "train")
    alone = cluster.train("e2e one worker", **city)

    assert ended == "SUCCEEDED"
    assert sorted(pod["status"]["phase"] for pod in tries) == ["Failed", "Succeeded"]
    [said] = [
        container["state"]["terminated"]["message"]
        for pod in tries
        for container in pod["status"]["containerStatuses"]
        if container["name"] == "main" and pod["status"]["phase"] == "Failed"
    ]
    assert said.startswith("Worker 2 of 2 is gone, and the training with it")
    assert workers() == {}
    assert alone.returncode == 0, alone.stderr
    errors = [
        json.loads(cluster.python(ERRORS.replace("RUN", each), environment=cluster.steps_environment()).output())
        for each in (run, run_id(alone.stdout))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.005)
