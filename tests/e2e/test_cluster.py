"""The life of tripcast on a cluster, from the first upload on."""

import json
import os
import re
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import MINUTES, STEP_LABELS, Asker, Cluster, forwarded, kubectl, objects, run_id, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("signing")]

#: Asks the service for a time from its first answer on, each trip up to TRIES times: the network may learn late of a
#: new pod. Prints when it begins; then how many trips were answered, and how many never were.
LOAD = """
import json, time, requests
trip = {"pickup_zone": 74, "dropoff_zone": 236, "trip_distance_miles": 2.3, "pickup_datetime": "2021-02-10T08:15:00"}
def is_answered():
    try:
        return requests.post("http://serving.tripcast.svc/predict", json=trip, timeout=5).status_code == 200
    except requests.RequestException:
        return False
while not is_answered():
    time.sleep(0.2)
print("It answers.", flush=True)
answered = lost = again = 0
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    for attempt in range(TRIES):
        if is_answered():
            answered += 1
            break
        again += 1
        time.sleep(0.2)
    else:
        lost += 1
print(json.dumps({"answered": answered, "lost": lost, "again": again}))
"""

#: Approves the version that waits.
APPROVE = """
import subprocess
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
version = Registry("tripcast-green", Settings.load()).approval().waiting.version
answer = ["--by", "e2e", "--why", "It was looked at.", "--canary-minutes", "0"]
print(subprocess.check_output(["tripcast", "approve", str(version), *answer], text=True))
"""

#: Prints the names of what scoring has stored.
SCORES = """
from tripcast.storage.store import open_store
print("\\n".join(open_store("s3://tripcast").list("scores/green/")))
"""

#: Prints which addresses take a connection, each tried three times: the network may learn late of a new pod.
REACH = """
import json, socket
reached = set()
for name, port in 3 * ADDRESSES:
    try:
        socket.create_connection((f"{name}.tripcast.svc", port), timeout=4).close()
        reached.add(name)
    except OSError:
        pass
print(json.dumps(sorted(reached)))
"""
PORTS = [("mlflow", 5000), ("s3", 8333), ("postgres", 5432), ("serving", 80)]


def test_the_pipelines_are_uploaded_once_for_each_state_of_the_code(cluster: Cluster):
    first, second = cluster.tripcast("upload"), cluster.tripcast("upload")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert second.stdout.count("there already") == 3


def test_a_training_run_ends_in_a_version_that_waits_for_a_persons_yes(cluster: Cluster):
    before = cluster.champion()
    trained = cluster.train("e2e training", approval="true")

    assert trained.returncode == 0, trained.stderr
    assert cluster.champion() == before
    steps = [
        container
        for pod in cluster.step_pods(run_id(trained.stdout))
        for container in pod["spec"]["containers"]
        if container["name"] == "main"
    ]
    assert {step["securityContext"]["runAsUser"] for step in steps} == {10001}


def test_the_service_answers_by_the_approved_version_without_a_restart(cluster: Cluster):
    pods, before = cluster.serving_pods(), cluster.champion()
    approved = cluster.python(APPROVE, environment=cluster.steps_environment()).output()

    assert "answers every rider." in approved
    assert cluster.champion() > before
    assert cluster.serving_pods() == pods


def test_the_same_again_comes_from_the_cache_and_changes_nothing(cluster: Cluster):
    before = cluster.champion()
    again = cluster.train("e2e training again")
    steps = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in cluster.step_pods(run_id(again.stdout))}

    assert again.returncode == 0, again.stderr
    assert {"plan", "evaluate"} <= steps
    assert not steps & {"ingest", "validate", "train"}
    assert cluster.champion() == before


def test_a_first_month_that_is_new_goes_with_later_ones_from_the_cache(cluster: Cluster):
    first, second, *_ = cluster.months
    before = {"train_months": f"{cluster.before},{first}", "test_month": str(second), "candidates": "linear"}
    trained = cluster.train("e2e earlier month", **before)

    assert trained.returncode == 0, trained.stderr
    assert len(cluster.step_pods(run_id(trained.stdout), "ingest")) == 1


def test_wrong_input_fails_at_its_step_by_its_sentence_and_is_not_tried_again(cluster: Cluster):
    failed = cluster.train("e2e wrong input", candidates="crystal_ball")

    assert failed.returncode == 1
    assert "The step 'plan' failed:" in failed.stderr
    assert "crystal_ball" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len(cluster.step_pods(run_id(failed.stdout), "plan")) == 1


def test_a_step_whose_pod_is_lost_or_whose_process_is_killed_is_tried_again(cluster: Cluster):
    source = cluster.source.replace("trips=8000", "trips=60000")
    # A candidate that takes some seconds, and does not replace the champion.
    asked = {"source": source, "candidates": "lightgbm", "proven_gain": "0.9"}
    run = run_id(cluster.train("e2e lost and killed", "--no-wait", **asked).stdout)

    def training() -> dict[str, str]:
        """The pods that train, by their uid: Argo may make a lost one anew under its old name."""
        pods = cluster.step_pods(run, "train")
        return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"}

    def kill() -> str:
        for uid, name in training().items():
            if uid == lost:
                continue
            cluster.kill(name)
            return uid
        return ""

    [(lost, name)] = wait_until(training, 20 * MINUTES, "Training").items()
    kubectl("delete", "pod", name, "--namespace", "kubeflow", "--grace-period=0", "--force")
    killed = wait_until(kill, 5 * MINUTES, "Another try")
    ended = wait_until(lambda: cluster.ended(run), 20 * MINUTES, "The end of the run")
    tries = {pod["metadata"]["uid"]: pod["status"]["phase"] for pod in cluster.step_pods(run, "train")}

    assert ended == "SUCCEEDED", tries
    assert tries.pop(killed) == "Failed"
    assert lost not in tries
    assert list(tries.values()) == ["Succeeded"]


def test_a_schedule_fires(cluster: Cluster):
    month = str(cluster.months[2])
    recurring = ("schedule", "scoring", "--name", "e2e schedule", f"--param=source={cluster.source}")
    on = cluster.tripcast(*recurring, f"--param=months={month}", "--cron", "* * * * *")
    try:
        assert on.returncode == 0, on.stderr
        # Kubeflow names the runs of a schedule itself.
        schedules = cluster.client.list_recurring_runs(page_size=100).recurring_runs
        [recurring_id] = [each.recurring_run_id for each in schedules if each.display_name == "e2e schedule"]
        fired = wait_until(
            lambda: [run for run in cluster.runs("") if run.recurring_run_id == recurring_id], 240, "A firing"
        )
    finally:
        off = cluster.tripcast(*recurring, "--off")
    assert off.returncode == 0, off.stderr
    # max_concurrency is 1: one run at a time, whatever the clock says.
    assert wait_until(lambda: cluster.ended(fired[-1].run_id), 15 * MINUTES, "The end of the run") == "SUCCEEDED"


def test_months_are_scored_into_the_store(cluster: Cluster):
    month = str(cluster.months[3])
    scored = cluster.submit("scoring", "e2e scoring", months=month)
    stored = cluster.python(SCORES, environment=cluster.steps_environment()).output().split()

    assert scored.returncode == 0, scored.stderr
    assert [key for key in stored if f"version={cluster.champion()}/month={month}/" in key and key.endswith(".parquet")]


def test_slower_streets_are_noticed_and_a_better_version_ends_up_in_service(cluster: Cluster, webhook: Asker):
    champion, answered = cluster.champion(), set()
    for month in cluster.months[4:]:
        watched = cluster.submit("monitoring", f"e2e watched {month}", month=str(month))
        assert watched.returncode == 0, watched.stderr
        if not cluster.step_pods(run_id(watched.stdout), "retrain"):
            continue
        [retraining] = cluster.runs(f"retraining green {month}")  # started by a step, through Kubeflow's API

        def ended(retraining: str = retraining.run_id) -> str:
            model = cluster.serves()
            answered.update(model[role]["version"] for role in ("champion", "challenger") if model[role])
            return cluster.ended(retraining)

        assert wait_until(ended, 20 * MINUTES, "The end of a retraining run") == "SUCCEEDED"
        if cluster.champion() > champion:
            break

    better = cluster.champion()
    assert better > champion
    assert better in answered
    assert any("have become worse" in told for told in webhook.log())


def test_people_are_told_once_of_a_run_that_failed_with_its_step_and_its_sentence(cluster: Cluster, webhook: Asker):
    [failed, *_] = cluster.runs("e2e wrong input")
    [told] = [told for told in webhook.log() if failed.run_id in told]

    assert "The step 'plan' failed:" in told
    assert "crystal_ball" in told


def test_a_rolling_restart_under_load_loses_no_request(cluster: Cluster):
    load = cluster.python(LOAD.replace("SECONDS", "90").replace("TRIES", "1"))
    wait_until(load.log, 2 * MINUTES, "The first answer")
    before = cluster.serving_pods()
    kubectl("rollout", "restart", "deployment/serving", "--namespace", "tripcast")
    kubectl("rollout", "status", "deployment/serving", "--namespace", "tripcast", "--timeout", "5m")
    asked = json.loads(load.output().splitlines()[-1])

    assert not cluster.serving_pods().keys() & before.keys()
    assert asked["lost"] == 0
    assert asked["answered"] > 100


def test_a_killed_pod_under_load_costs_no_answer_that_is_asked_for_again(cluster: Cluster):
    kubectl("scale", "deployment/serving", "--replicas", "2", "--namespace", "tripcast")
    try:
        kubectl("rollout", "status", "deployment/serving", "--namespace", "tripcast", "--timeout", "5m")
        load = cluster.python(LOAD.replace("SECONDS", "60").replace("TRIES", "25"))
        wait_until(load.log, 2 * MINUTES, "The first answer")
        victim = objects("pods", "tripcast", "--selector", "app.kubernetes.io/name=serving")[0]["metadata"]["name"]
        kubectl("delete", "pod", victim, "--namespace", "tripcast", "--grace-period=0", "--force")
        asked = json.loads(load.output().splitlines()[-1])
    finally:
        kubectl("scale", "deployment/serving", "--replicas", "1", "--namespace", "tripcast")

    assert asked["lost"] == 0
    assert asked["answered"] > 100


def test_the_network_lets_through_what_is_needed_and_nothing_else(cluster: Cluster):
    code = REACH.replace("ADDRESSES", repr(PORTS))
    askers = {
        "step": cluster.python(code),
        "other pod of kubeflow": cluster.python(code, labels={"app": "e2e"}),
        "stranger with a step's labels": cluster.python(code, namespace="default", labels=STEP_LABELS),
        "stranger": cluster.python(code, namespace="default", labels={"app.kubernetes.io/name": "mlflow"}),
    }
    reached = {name: json.loads(asker.output()) for name, asker in askers.items()}
    inside = ("exec", "deployment/serving", "--namespace", "tripcast", "--", "python", "-c", code)
    reached["serving"] = json.loads(kubectl(*inside))

    assert reached == {
        "step": ["mlflow", "s3", "serving"],
        "other pod of kubeflow": [],
        "stranger with a step's labels": [],
        "stranger": [],
        "serving": ["mlflow", "s3"],
    }


def test_what_is_asked_is_compared_and_what_is_old_removed_once_a_day(cluster: Cluster, tmp_path: Path):
    components = [os.path.relpath(Path("deploy/components", name), tmp_path) for name in ("daily", "release")]
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"components": components}))
    kubectl("apply", "--kustomize", str(tmp_path))
    try:
        kubectl("create", "job", "e2e-log", "--from", "cronjob/tripcast-log", "--namespace", "kubeflow")
        kubectl("wait", "--for=condition=complete", "job/e2e-log", "--namespace", "kubeflow", "--timeout", "5m")
        said = kubectl("logs", "job/e2e-log", "--all-containers", "--namespace", "kubeflow")
    finally:
        kubectl("delete", "--kustomize", str(tmp_path))

    assert re.search(r"predicted_minutes +PSI \d", said)
    assert "Gone: nothing." in said
    with forwarded("tripcast", "serving", 80) as address:
        wait_until(lambda: 'source="live"' in requests.get(f"{address}/metrics", timeout=10).text, 120, "The figures")
