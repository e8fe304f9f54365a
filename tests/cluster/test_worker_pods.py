"""Workers of a training as pods: what is made for them, what they are given, and what is said when one dies.

That Kubernetes does with it what is meant, a cluster has to show: tests/e2e.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes.client import ApiException
from urllib3.exceptions import MaxRetryError, NewConnectionError

from tests.cluster.test_manifests import KUBERNETES, Document
from tripcast.errors import WorkerError
from tripcast.models import pods
from tripcast.models.pod_worker import work
from tripcast.models.pods import not_started, what_happened, worker_job, worker_service
from tripcast.models.workers import Workers
from tripcast.storage.store import open_store

#: A step's pod as Argo Workflows makes it, cut short.
STEP: Document = {
    "metadata": {
        "name": "tripcast-training-x7k2p-metadata-0-3-retry-system-container-impl-3131924301",
        "uid": "0e8c0a4a-5f0e-4a39-8a4b-0d2f8f5b8f11",
        "labels": {
            "app.kubernetes.io/component": "pipeline-step",
            "app.kubernetes.io/name": "train",
            "app.kubernetes.io/part-of": "tripcast",
            "workflows.argoproj.io/completed": "false",
            "workflows.argoproj.io/workflow": "tripcast-training-x7k2p",
        },
    },
    "spec": {
        "activeDeadlineSeconds": 10800,
        "serviceAccountName": "pipeline-runner",
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "registry.example.com/tripcast/pipeline:0.1.0",
                "imagePullPolicy": "IfNotPresent",
                "command": ["/var/run/argo/argoexec", "emissary", "--"],
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "ARGO_TEMPLATE", "value": "{}"},
                    {"name": "OMP_NUM_THREADS", "value": "2"},
                    {
                        "name": "AWS_ACCESS_KEY_ID",
                        "valueFrom": {"secretKeyRef": {"name": "tripcast-s3", "key": "AWS_ACCESS_KEY_ID"}},
                    },
                ],
                "resources": {
                    "requests": {"cpu": "500m", "memory": "1Gi"},
                    "limits": {"cpu": "2", "memory": "4Gi"},
                },
                "securityContext": {"runAsUser": 10001, "runAsNonRoot": True, "allowPrivilegeEscalation": False},
                "volumeMounts": [
                    {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                    {"name": "ca-bundle", "mountPath": "/kfp/certs"},
                    {"name": "kube-api-access-x2v9k", "mountPath": str(pods._ACCOUNT), "readOnly": True},
                ],
            },
        ],
        "volumes": [
            {"name": "var-run-argo", "emptyDir": {}},
            {"name": "ca-bundle", "configMap": {"name": "ca"}},
            {"name": "kube-api-access-x2v9k", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ],
    },
}


@pytest.fixture
def job() -> Document:
    made = worker_job(STEP, 3, "some.module", "10.0.0.7")
    made["metadata"]["uid"] = "1d5a"  # Kubernetes gives it
    return made


@pytest.mark.parametrize("version", KUBERNETES)
def test_what_is_made_follows_the_schemas_of_kubernetes(job, version):
    for document in (job, worker_service(job)):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_worker_runs_as_its_step_does_and_cannot_ask_kubernetes_for_anything(job):
    pod = job["spec"]["template"]["spec"]
    [worker], main = pod["containers"], STEP["spec"]["containers"][1]
    for key in ("image", "imagePullPolicy", "resources"):
        assert worker[key] == main[key]
    assert [variable["name"] for variable in worker["env"]] == [
        "OMP_NUM_THREADS",
        "AWS_ACCESS_KEY_ID",
        "OMP_WAIT_POLICY",
    ]
    assert worker["securityContext"] == {**main["securityContext"], "readOnlyRootFilesystem": True}
    assert {mount["mountPath"] for mount in worker["volumeMounts"]} == {"/tmp", "/kfp/certs"}
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "ca-bundle"}
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("pipeline-runner", False)
    assert pod["tolerations"] == STEP["spec"]["tolerations"]


def test_a_worker_that_dies_is_not_started_again_and_all_of_it_goes_with_the_step(job):
    assert {key: job["spec"][key] for key in ("completionMode", "completions", "parallelism", "backoffLimit")} == {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimit": 0,
    }
    assert job["spec"]["activeDeadlineSeconds"] == 10800
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", STEP["metadata"]["uid"])
    [owner] = worker_service(job)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Job", "1d5a")


def test_workers_have_names_and_argo_does_not_take_them_for_its_own(job):
    service, template = worker_service(job), job["spec"]["template"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    assert service["spec"] == {
        "clusterIP": "None",
        "selector": {"batch.kubernetes.io/job-name": job["metadata"]["name"]},
    }
    assert all(label.startswith("app.kubernetes.io/") for label in template["metadata"]["labels"])


def test_the_network_lets_workers_and_their_step_talk_on_their_port(job):
    *_, policy = yaml.safe_load_all(Path("deploy/base/steps/workers.yaml").read_text())
    selector = policy["spec"]["podSelector"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": selector}], "ports": [{"port": pods.PORT}]}]
    for labels in (job["spec"]["template"]["metadata"]["labels"], STEP["metadata"]["labels"]):
        assert selector["matchLabels"].items() <= labels.items()


# What is said


def pod(phase: str, *, deleted: str | None = None, conditions=(), message: str | None = None, **state) -> Document:
    """A worker's pod, cut short; ``state`` is that of its container."""
    metadata = {"deletionTimestamp": deleted} if deleted else {}
    status = {"phase": phase, "conditions": list(conditions)} | ({"message": message} if message else {})
    return {"metadata": metadata, "status": status | ({"containerStatuses": [{"state": state}]} if state else {})}


def ended(code: int, second: int, message: str = "", reason: str = "Error") -> Document:
    return {"exitCode": code, "reason": reason, "message": message, "finishedAt": f"2026-01-01T00:00:{second:02d}Z"}


RUNS = pod("Running", running={})
DONE = pod("Succeeded", terminated=ended(0, 9, reason="Completed"))
CUT_OFF = pod("Failed", terminated=ended(1, 5, "Traceback\nlightgbm.basic.LightGBMError: Socket recv error\n"))
KILLED = pod("Failed", terminated=ended(137, 6))
BY_KUBELET = {"type": "DisruptionTarget", "status": "True", "message": "Pod was evicted."}


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([RUNS, DONE], ""),
        # Whose node reports it later is named all the same.
        (
            [CUT_OFF, KILLED],
            "Worker 2 of 2 was ended by SIGKILL, which the kernel does where memory is short, and the ",
        ),
        (
            [RUNS, pod("Running", terminated=ended(137, 5, reason="OOMKilled"))],
            "Worker 2 of 2 needed more memory than its limit and was ended, and the training with it. Train again",
        ),
        (
            [CUT_OFF, pod("Running", deleted="2026-01-01T00:00:05Z", running={})],
            "Worker 2 of 2 is gone, and the training with it: its pod was deleted, or its node lost. Train again.",
        ),
        (
            [RUNS, pod("Running", deleted="2026-01-01T00:00:05Z", conditions=[BY_KUBELET], running={})],
            "Worker 2 of 2 is gone, and the training with it: its pod was deleted, or its node lost (Pod was evicted).",
        ),
        # The others of one that failed are deleted, with some grace.
        (
            [
                pod("Running", deleted="2026-01-01T00:00:09Z", terminated=ended(137, 9)),
                pod("Failed", terminated=ended(1, 4, "ValueError: no such file\n\n")),
            ],
            "Worker 2 of 2 failed, and the training with it: ValueError: no such file",
        ),
        (
            [pod("Failed", message="The node was low on resource: memory."), RUNS],
            "Worker 1 of 2 failed, and the training with it: The node was low on resource: memory.",
        ),
        (
            [pod("Failed", terminated={**ended(255, 5), "message": ""})],
            "Worker 1 of 2 failed, and the training with it: it said nothing",
        ),
    ],
)
def test_the_worker_that_died_first_is_named_with_what_ended_it(workers, said):
    assert what_happened(dict(enumerate(workers)), 2).startswith(said)
    assert bool(what_happened(dict(enumerate(workers)), 2)) == bool(said)


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient memory. No victims."}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (RUNS, ""),
        (pod("Pending", conditions=[UNSCHEDULABLE]), "0/3 nodes: 3 Insufficient memory. Make room"),
        (pod("Pending", waiting={"reason": "ErrImagePull", "message": "no such image"}), "no such image. Make room"),
        (None, "Kubernetes has made no pod for it; a quota may be used up. Make room"),
    ],
)
def test_a_worker_that_never_starts_is_named_with_what_kubernetes_says(second, said):
    found = not_started({0: RUNS} | ({1: second} if second else {}), 2)
    prefix = "Worker 2 of 2 did not start within 10 minutes, and the training was ended: "
    assert found.startswith(prefix + said) if said else found == ""


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            ApiException(403, "Forbidden"),
            r"Kubernetes does not let this step have workers \(HTTP 403\): jobs.batch is forbidden\. .*workers\.yaml",
        ),
        (
            MaxRetryError(None, "/", NewConnectionError(None, "Connection refused")),
            r"Kubernetes does not answer, and the training by its workers was ended .*Connection refused",
        ),
    ],
)
def test_what_kubernetes_refuses_is_a_sentence(trouble, said):
    trouble.body = json.dumps({"kind": "Status", "message": "jobs.batch is forbidden"})
    with pytest.raises(WorkerError, match=said), pods._errors():
        raise trouble


# What a worker does


def test_a_step_of_a_cluster_has_pods_for_workers(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("KFP_POD_NAME", "step")
    monkeypatch.setattr(pods, "run_pods", lambda *given: asked.append(given))
    Workers(2).run("module", tmp_path)
    assert asked == [(2, "module", tmp_path)]


def test_a_worker_is_given_its_own_part_of_the_task_alone_and_what_it_writes_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPCAST_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "lists.py").write_text(
        "import sys, pathlib\n"
        "task, rank, addresses = sys.argv[1:]\n"
        "seen = sorted(str(p.relative_to(task)) for p in pathlib.Path(task).rglob('*') if p.is_file())\n"
        "pathlib.Path(task, rank, 'seen').write_text(' '.join([*seen, addresses]))\n"
    )
    store = open_store(str(tmp_path / "store"))
    for key in ("parameters.json", "features/zones.npy", "0/trips.parquet", "1/trips.parquet"):
        store.write(f"workers/a-job/{key}", b"x")

    work("lists", "a-job", tmp_path / "task", "1", "10.0.0.8:12400,10.0.0.9:12400")

    seen = store.read("workers/a-job/1/seen").decode().split()
    assert seen == ["1/trips.parquet", "features/zones.npy", "parameters.json", "10.0.0.8:12400,10.0.0.9:12400"]
    assert len(store.list("workers/a-job/")) == 5


def test_a_worker_ends_with_its_step_whatever_ends_that():
    with socket.create_server(("127.0.0.1", 0)) as step:
        port = step.getsockname()[1]
        code = f"""
import time
from tripcast.models import pod_worker
pod_worker.PORT = {port}
pod_worker.end_with("127.0.0.1")
print("works", flush=True)
time.sleep(60)
"""
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert worker.stdout
        assert worker.stdout.readline() == "works\n"
        assert worker.poll() is None
    _, said = worker.communicate(timeout=30)
    assert (worker.returncode, said) == (1, "The step has ended.\n")
