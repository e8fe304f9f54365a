"""Workers as pods beside the step that trains: an Indexed Job, whose pods know their numbers and each other's names.

The step's own pod says what a worker's pod is: image, environment, limits, user, account. The artifact store takes the
task to the pods (``tripcast.models.pod_worker``), and what they write back. They end with the step, whatever ends it:
each holds a connection to it, which the kernel closes with the step's process; and the Job is removed with the step's
pod.

Source:
    https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL, valid_signals
from typing import Any
from uuid import uuid4

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3 import Retry

from tripcast.errors import StorageError, WorkerError
from tripcast.models import pod_worker
from tripcast.models.pod_worker import PORT, fetch, place_of
from tripcast.models.processes import ENVIRONMENT, ended_by_signal, failed
from tripcast.settings import Settings
from tripcast.storage.store import open_store

#: The container of a step's pod that does its work; Argo Workflows names it so.
_MAIN = "main"

#: What the pod of a worker has in common with the step's: where it may run, and as whom.
_AS_THE_STEP = (
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)

#: Where the pod has what Kubernetes knows it by.
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: The annotation with a pod's number.
_NUMBER = "batch.kubernetes.io/job-completion-index"

#: Seconds in which every worker has to have started: a node may have to be made for it, and an image to be pulled.
_START = 600

#: Seconds between two looks at the workers; and, once one has died, to the look that tells which one was the first:
#: each node reports its own.
_PAUSE = 1
_REPORTS = 4

#: Seconds that a deleted worker is left. It has nothing to save, but the step is to see which one it was.
_GRACE = 5

#: Seconds after which a Job goes whose step is gone.
_KEPT = 3600

#: How Kubernetes is asked: seconds to connect and to wait for an answer, which is JSON for us to read.
_ASKED: Mapping[str, Any] = {"_request_timeout": (5, 30), "_preload_content": False}


def run_pods(number: int, module: str, task: Path) -> None:
    """Let pods of the namespace in which this step's pod runs be workers; arguments and errors as ``Workers.run``."""
    store = open_store(Settings.load().artifacts)
    namespace = _Namespace((_ACCOUNT / "namespace").read_text())
    step = namespace.pod(os.environ["KFP_POD_NAME"])
    job = worker_job(step, number, module, address=socket.gethostbyname(socket.gethostname()))
    name = job["metadata"]["name"]
    try:
        for file in task.rglob("*"):
            if file.is_file():
                store.put(file, f"{place_of(name)}{file.relative_to(task)}")
        with socket.create_server(("", PORT)), namespace.running(job):
            _wait(namespace, name, number)
        fetch(store, name, task, lambda key: not (task / key).exists())
    finally:
        with suppress(StorageError):  # `tripcast prune` removes it, too
            for key in store.list(place_of(name)):
                store.delete(key)


def _wait(namespace: _Namespace, job: str, number: int) -> None:
    begun = time.monotonic()
    pods: dict[int, dict[str, Any]] = {}
    while not all(_phase(pods.get(rank)) == "Succeeded" for rank in range(number)):
        time.sleep(_PAUSE)
        namespace.look(job, pods)
        if what_happened(pods, number):
            time.sleep(_REPORTS)
            namespace.look(job, pods)
            raise WorkerError(what_happened(pods, number))
        if time.monotonic() - begun > _START and (late := not_started(pods, number)):
            raise WorkerError(late)


def worker_job(step: Mapping[str, Any], number: int, module: str, address: str) -> dict[str, Any]:
    """The Job whose pods are workers.

    Args:
        step: The pod of the step, as Kubernetes has it.
        number: How many workers.
        module: What they are to run.
        address: The step's, by IP: Kubernetes may not know it yet.
    """
    meta, spec = step["metadata"], step["spec"]
    [main] = [container for container in spec["containers"] if container["name"] == _MAIN]
    labels = {key: value for key, value in meta["labels"].items() if key.startswith("app.kubernetes.io/")}
    name = f"workers-{uuid4().hex[:12]}"
    # Such as certificates or an identity; not what Argo puts there, nor the token for Kubernetes.
    volumes = [volume for volume in spec.get("volumes", []) if not _is_the_steps_alone(volume)]
    mounted = {volume["name"] for volume in volumes}
    worker = {
        "name": "worker",
        "image": main["image"],
        "imagePullPolicy": main["imagePullPolicy"],
        "command": ["python", "-m", pod_worker.__name__, module, name, str(number), address],
        "env": [
            *(variable for variable in main["env"] if not variable["name"].startswith(("ARGO_", "KFP_"))),
            *({"name": name, "value": value} for name, value in ENVIRONMENT.items()),
        ],
        "resources": main["resources"],
        "securityContext": {**main["securityContext"], "readOnlyRootFilesystem": True},
        # The end of what a worker says is the message of one that failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            *(mount for mount in main.get("volumeMounts", []) if mount["name"] in mounted),
        ],
    }
    pod = {
        **{key: spec[key] for key in _AS_THE_STEP if key in spec},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "subdomain": name,
        "terminationGracePeriodSeconds": _GRACE,
        "containers": [worker],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
    }
    owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "completionMode": "Indexed",
            "completions": number,
            "parallelism": number,
            "backoffLimit": 0,
            # Else the others of a deleted worker are deleted before anybody sees which one it was.
            "podReplacementPolicy": "Failed",
            **{key: spec[key] for key in ("activeDeadlineSeconds",) if key in spec},
            "ttlSecondsAfterFinished": _KEPT,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _is_the_steps_alone(volume: Mapping[str, Any]) -> bool:
    return "emptyDir" in volume or volume["name"].startswith("kube-api-access-")


def worker_service(job: Mapping[str, Any]) -> dict[str, Any]:
    """The headless Service that gives the pods of a Job, as Kubernetes has it, their names; it goes with the Job."""
    name = job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    labels = job["metadata"]["labels"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {"clusterIP": "None", "selector": {"batch.kubernetes.io/job-name": name}},
    }


def what_happened(pods: Mapping[int, Mapping[str, Any]], number: int) -> str:
    """The sentence about the worker that died first; empty if none has.

    Args:
        pods: The workers' pods by number, as Kubernetes has them; of one that is gone, how it was, with the time of its
            deletion.
        number: How many workers there are.
    """
    died = []
    for rank, pod in pods.items():
        worker, status = f"Worker {rank + 1} of {number}", pod["status"]
        deleted = pod["metadata"].get("deletionTimestamp")
        ended = _state(pod, "terminated")
        killed = ended and ended["exitCode"] - 128 in valid_signals() and not deleted
        if killed and ended["reason"] == "OOMKilled":
            said = (
                f"{worker} needed more memory than its limit and was ended, and the training with it. Train again with "
                "more workers or a higher limit (pipelines/policy.py)."
            )
        elif killed:
            said = ended_by_signal(worker, ended["exitCode"] - 128)
        elif status["phase"] == "Succeeded":
            continue
        elif deleted:
            causes = [c for c in status.get("conditions", ()) if c["type"] == "DisruptionTarget"]
            cause = f" ({causes[0]['message'].rstrip('.')})" if causes else ""
            said = (
                f"{worker} is gone, and the training with it: its pod was deleted, or its node lost{cause}. "
                "Train again."
            )
        elif status["phase"] == "Failed":
            # Without the end of a container, Kubernetes says what it did: Evicted, ...
            said = failed(worker, (ended or status).get("message", ""))
        else:
            continue
        # Those that ended because it was gone ended after it, and were not killed.
        when = deleted or (ended and ended["finishedAt"]) or ""
        died.append((not (killed and ended["exitCode"] == 128 + SIGKILL), when, not deleted, said))
    return min(died)[-1] if died else ""


def not_started(pods: Mapping[int, Mapping[str, Any]], number: int) -> str:
    """The sentence about a worker that has not started; empty if all have. Arguments as ``what_happened``."""
    for rank in range(number):
        pod = pods.get(rank)
        if _phase(pod) not in (None, "Pending"):
            continue
        why = "Kubernetes has made no pod for it; a quota may be used up"
        if pod:
            waiting = _state(pod, "waiting") or {}
            unscheduled = [c.get("message") for c in pod["status"].get("conditions", ()) if c["status"] == "False"]
            said = [waiting.get("message"), waiting.get("reason"), *unscheduled, "Kubernetes does not say why"]
            why = next(filter(None, said)).partition(". ")[0]
        return (
            f"Worker {rank + 1} of {number} did not start within {_START // 60} minutes, and the training was ended: "
            f"{why.rstrip('.')}. Make room for it, or train with fewer workers."
        )
    return ""


def _phase(pod: Mapping[str, Any] | None) -> str | None:
    return pod["status"]["phase"] if pod else None


def _state(pod: Mapping[str, Any], state: str) -> Any:
    """What Kubernetes says of the container of a worker in a state; None if it is not in that one."""
    [container] = pod["status"].get("containerStatuses") or [{}]
    return container.get("state", {}).get(state)


class _Namespace:
    """The namespace of the step, by Kubernetes' API.

    Args:
        name: Its name.

    Raises:
        WorkerError: By every method, if Kubernetes refuses or does not answer.
    """

    def __init__(self, name: str) -> None:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)
        # A minute, in which an API server can be restarted. Nothing is made twice: what is made has a name.
        not_now = (429, 502, 503, 504)
        configuration.retries = Retry(7, backoff_factor=0.5, status_forcelist=not_now, allowed_methods=None)
        api = client.ApiClient(configuration)
        self._name, self._core, self._batch = name, client.CoreV1Api(api), client.BatchV1Api(api)

    def pod(self, name: str) -> dict[str, Any]:
        """A pod as Kubernetes has it."""
        with _errors():
            return _json(self._core.read_namespaced_pod(name, self._name, **_ASKED))

    def look(self, job: str, pods: dict[int, dict[str, Any]]) -> None:
        """Bring the pods of a Job, by number, up to date; those that are gone are taken for deleted now."""
        with _errors():
            selector = f"batch.kubernetes.io/job-name={job}"
            found = _json(self._core.list_namespaced_pod(self._name, label_selector=selector, **_ASKED))["items"]
        there = {int(pod["metadata"]["annotations"][_NUMBER]): pod for pod in found}
        for rank in pods.keys() - there.keys():
            pods[rank]["metadata"].setdefault("deletionTimestamp", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        pods.update(there)

    @contextmanager
    def running(self, job: dict[str, Any]) -> Iterator[None]:
        """Have a Job, and the Service that names its pods, during the body."""
        with _errors():
            made = _json(self._batch.create_namespaced_job(self._name, job, **_ASKED))
        try:
            with _errors():
                self._core.create_namespaced_service(self._name, worker_service(made), **_ASKED)
            yield
        finally:
            with suppress(WorkerError), _errors():  # without it, its pods end with the step
                self._batch.delete_namespaced_job(
                    job["metadata"]["name"], self._name, propagation_policy="Background", **_ASKED
                )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the exceptions of Kubernetes' client into one sentence.

    Raises:
        WorkerError: If Kubernetes refuses, or does not answer.
    """
    try:
        yield
    except ApiException as refusal:
        try:
            said = str(json.loads(refusal.body)["message"])
        except (TypeError, ValueError, KeyError):
            said = refusal.reason
        raise WorkerError(
            f"Kubernetes does not let this step have workers (HTTP {refusal.status}): {said.rstrip('.')}. What its "
            "service account has to be permitted is in deploy/base/steps/workers.yaml."
        ) from refusal
    except urllib3.exceptions.HTTPError as trouble:
        raise WorkerError(
            f"Kubernetes does not answer, and the training by its workers was ended ({trouble}). Train again."
        ) from trouble


def _json(response: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(response.data)
    return answer
