"""What goes wrong on a cluster: what serves then, and who is told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import requests

from tests.e2e.conftest import MINUTES, Asker, Cluster, forwarded, kubectl, objects, run_id, wait_until
from tripcast.kubeflow import Kubeflow

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("signing")]

#: Tells people of runs that failed, and starts a failed retraining anew.
FOLLOW_UP = """
from tripcast.jobs.follow_up import follow_up
print(follow_up("green"))
"""

#: Changes a byte of a version's files, or changes it back; for MLflow's pod.
CHANGE = """
import boto3
from mlflow import MlflowClient
client = MlflowClient("http://localhost:5000")
place = client.get_model_version_download_uri("tripcast-green", "VERSION").partition(":/")[2].strip("/")
s3 = boto3.client("s3")
found = s3.list_objects_v2(Bucket="mlflow", Prefix=f"{place}/data/model/")["Contents"]
largest = max(found, key=lambda entry: entry["Size"])["Key"]
body = s3.get_object(Bucket="mlflow", Key=largest)["Body"].read()
s3.put_object(Bucket="mlflow", Key=largest, Body=body[:-1] + bytes([body[-1] ^ 1]))
"""

#: Prints why a pod of the service is not ready.
READY = """
from http.client import HTTPConnection
connection = HTTPConnection("localhost", 8080)
connection.request("GET", "/readyz")
print(connection.getresponse().read().decode())
"""


@contextmanager
def away() -> Iterator[None]:
    """The prediction service has no pod for a while."""
    try:
        kubectl("scale", "deployment/serving", "--replicas", "0", "--namespace", "tripcast")
        yield
    finally:
        kubectl("scale", "deployment/serving", "--replicas", "1", "--namespace", "tripcast")
        kubectl("rollout", "status", "deployment/serving", "--namespace", "tripcast", "--timeout", "5m")


def registered_champion() -> int:
    with forwarded("tripcast", "mlflow", 5000) as address:
        alias = {"name": "tripcast-green", "alias": "champion"}
        answer = requests.get(f"{address}/api/2.0/mlflow/registered-models/alias", alias, timeout=30)
    answer.raise_for_status()
    return int(answer.json()["model_version"]["version"])


def test_a_deployment_that_was_killed_and_is_retried_lets_serve_what_served_before_both(cluster: Cluster):
    champion = cluster.champion()
    # Another city, whose own model is better there.
    city = {"source": cluster.source.replace("seed=", "seed=9"), "candidates": "lightgbm"}
    with away():
        run = run_id(cluster.train("e2e killed deployment", "--no-wait", **city).stdout)
        promoted = wait_until(
            lambda: (now := registered_champion()) != champion and now, 20 * MINUTES, "The promotion before the wait"
        )
        [deploying] = cluster.step_pods(run, "deploy")
        cluster.kill(deploying["metadata"]["name"])
        killed = wait_until(lambda: cluster.ended(run), 5 * MINUTES, "The end of the run")
        tries, left = cluster.step_pods(run, "deploy"), registered_champion()

        kubeflow = Kubeflow(cluster.endpoint)
        requests.post(f"{cluster.endpoint}/apis/v2beta1/runs/{run}:retry", timeout=60).raise_for_status()
        refused = wait_until(lambda: cluster.ended(run), 10 * MINUTES, "The end of the run's retry")
        failure = kubeflow.failure(kubeflow.run(run), {"deploy"})

    assert (killed, len(tries), left) == ("FAILED", 1, promoted)
    assert (refused, failure.step) == ("FAILED", "deploy")
    assert "What served before does so again." in str(failure)
    assert cluster.champion() == champion


def test_a_retraining_that_never_ends_well_is_given_up_and_people_are_told(cluster: Cluster, webhook: Asker):
    month = cluster.months[-1].next()
    while True:  # until one calls for a retraining
        watched = cluster.submit("monitoring", f"e2e watched {month}", month=str(month))
        assert watched.returncode == 0, watched.stderr
        if cluster.step_pods(run_id(watched.stdout), "retrain"):
            break
        month = month.next()
    name, secret = f"retraining green {month}", ("secret", "tripcast-alerts", "--namespace", "kubeflow")
    address = kubectl("get", *secret, "--output", "go-template={{.data.TRIPCAST_ALERT_WEBHOOK | base64decode}}")
    environment = {**cluster.steps_environment(), "TRIPCAST_ALERT_WEBHOOK": address}
    for start in range(3):
        runs = cluster.runs(name)
        assert len(runs) == start + 1
        cluster.client.terminate_run(runs[0].run_id)
        assert wait_until(lambda run=runs[0].run_id: cluster.ended(run), 5 * MINUTES, "The end of a run") == "FAILED"
        # Of two that start within a minute, one was stopped for the other's sake.
        time.sleep(max(0.0, 62 - (datetime.now(UTC) - runs[0].created_at).total_seconds()))
        cluster.python(FOLLOW_UP, environment=environment).output()

    told = webhook.log()
    assert sum(f"the run '{name}' was stopped." in alert for alert in told) == 3
    assert sum(f"the retraining that {month} calls for has failed 3 times" in alert for alert in told) == 1
    assert len(cluster.runs(name)) == 3


def test_a_version_of_which_a_byte_was_changed_is_refused_by_service_and_step(cluster: Cluster):
    def change() -> None:
        code = CHANGE.replace("VERSION", str(champion))
        kubectl("exec", "deployment/mlflow", "--namespace", "tripcast", "--", "python3", "-c", code)

    def refuses() -> bool:
        """Whether a new pod, which has no copy yet, says why it does not load the champion."""
        pods = objects("pods", "tripcast", "--selector", "app.kubernetes.io/name=serving")
        newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"]
        said = kubectl("exec", newest, "--namespace", "tripcast", "--", "python", "-c", READY)
        return "its files are not those that were signed" in said

    champion = cluster.champion()
    change()
    try:
        kubectl("rollout", "restart", "deployment/serving", "--namespace", "tripcast")
        wait_until(refuses, 3 * MINUTES, "The refusal")
        scored = cluster.submit("scoring", "e2e changed byte", months=str(cluster.months[0]))
        served = cluster.champion()
    finally:
        change()
    kubectl("rollout", "status", "deployment/serving", "--namespace", "tripcast", "--timeout", "5m")

    assert scored.returncode == 1
    assert "its files are not those that were signed" in scored.stderr
    assert served == champion  # by the pod that has a copy
    assert cluster.champion() == champion
