"""A cluster with Kubeflow Pipelines and one of tripcast's overlays in it, as a person meets it.

kubectl's own settings say which cluster (KUBECONFIG, its current context), TRIPCAST_KFP_ENDPOINT where Kubeflow
Pipelines answers; without it, a port is forwarded. The tests are one story and run in order.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kfp
import pytest
import requests
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from kfp_server_api import ApiException

import tripcast
from tripcast.months import Month

MINUTES = 60.0
IMAGE = f"tripcast/pipeline:{tripcast.__version__}"
STEP_LABELS = {"app.kubernetes.io/part-of": "tripcast", "app.kubernetes.io/component": "pipeline-step"}


def wait_until(done: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value that ``done`` returns; what fails to answer is asked again."""
    deadline, trouble = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if value := done():
                return value
        except (
            OSError,
            subprocess.CalledProcessError,
            urllib3.exceptions.HTTPError,
            ApiException,
        ) as error:  # requests' are OSErrors
            trouble = error
        time.sleep(2)
    pytest.fail(f"{what} did not happen within {seconds:.0f} s ({trouble}).")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=True).stdout


def run_id(said: str) -> str:
    """The run that a link in what was said leads to."""
    found = re.search(r"runs/details/([0-9a-f-]{36})", said)
    assert found, said
    return found[1]


def objects(kind: str, namespace: str, *arguments: str) -> list[dict[str, Any]]:
    return json.loads(kubectl("get", kind, "--namespace", namespace, "--output", "json", *arguments))["items"]


@contextmanager
def forwarded(namespace: str, service: str, port: int) -> Iterator[str]:
    """The address on this machine that leads to a service for a while."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = free.getsockname()[1]
    # One that ends, since the pod behind it was replaced, is started again.
    again = 'while :; do kubectl port-forward --namespace "$1" "service/$2" "$3"; sleep 1; done'
    command = ["sh", "-c", again, "sh", namespace, service, f"{here}:{port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_until(
                lambda: socket.create_connection(("127.0.0.1", here), 1).close() is None,
                2 * MINUTES,
                f"{service}'s port",
            )
            yield f"http://127.0.0.1:{here}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@dataclass
class Asker:
    """A pod that runs a few lines of Python with the image of the steps."""

    name: str
    namespace: str

    def output(self, seconds: float = 5 * MINUTES) -> str:
        """What it printed, once it has ended well."""

        def phase() -> str:
            phase = kubectl(
                "get", "pod", self.name, "--namespace", self.namespace, "--output", "jsonpath={.status.phase}"
            )
            return phase if phase in ("Succeeded", "Failed") else ""

        ended = wait_until(phase, seconds, f"The end of the pod {self.name}")
        log = "\n".join(self.log())
        assert ended == "Succeeded", log
        return log

    def log(self) -> list[str]:
        """The lines that it has printed so far."""
        return kubectl("logs", self.name, "--namespace", self.namespace).splitlines()


@dataclass
class Cluster:
    """The cluster.

    Attributes:
        endpoint: Where Kubeflow Pipelines answers.
        before: The month before the story, which comes after all that the cluster has seen.
        source: A simulated city of this story's own, whose streets become slower from its fifth month on.
    """

    endpoint: str
    before: Month
    askers: list[Asker] = field(default_factory=list)

    @property
    def months(self) -> list[Month]:
        months = [self.before.next()]
        while len(months) < 7:
            months.append(months[-1].next())
        return months

    @property
    def source(self) -> str:
        seed = 12 * self.before.year + self.before.month
        return f"simulated?trips=8000&seed={seed}&slower_streets={self.months[4]}:0.7"

    @property
    def client(self) -> kfp.Client:
        return kfp.Client(host=self.endpoint)

    def tripcast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line."""
        command = [Path(sys.executable).with_name("tripcast"), *arguments]
        environment = {**os.environ, "TRIPCAST_KFP_ENDPOINT": self.endpoint}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def submit(self, pipeline: str, name: str, *options: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        given = [f"--param={key}={value}" for key, value in {"source": self.source, **parameters}.items()]
        return self.tripcast("submit", pipeline, "--name", name, *given, *options)

    def train(self, name: str, *options: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        first, second, third, *_ = self.months
        months = {"train_months": f"{first},{second}", "test_month": str(third)}
        return self.submit("training", name, *options, **{**months, **parameters})

    def runs(self, name: str) -> list[Any]:
        """All runs whose name begins like this, the latest first."""
        found = self.client.list_runs(page_size=100, sort_by="created_at desc").runs or []
        return [run for run in found if run.display_name.startswith(name)]

    def ended(self, run_id: str) -> str:
        run = self.client.get_run(run_id)
        return run.state if run.state in ("SUCCEEDED", "FAILED", "CANCELED") else ""

    def step_pods(self, run_id: str, step: str | None = None) -> list[dict[str, Any]]:
        """The pods that did a run's steps; a step that came from the cache has none."""
        labels = {**STEP_LABELS, "pipeline/runid": run_id} | ({"app.kubernetes.io/name": step} if step else {})
        return objects("pods", "kubeflow", "--selector", ",".join(f"{key}={value}" for key, value in labels.items()))

    def kill(self, pod: str) -> None:
        """Kill the process of a step, and what it started."""
        code = "import os, signal; os.kill(-1, signal.SIGKILL)"  # all but the first process and this one
        kubectl("exec", pod, "--namespace", "kubeflow", "--container", "main", "--", "python", "-c", code)

    def steps_environment(self) -> dict[str, str]:
        """What the steps are given: addresses, and the keys of their own user of S3."""
        [addresses] = objects("configmaps", "kubeflow", "--field-selector", "metadata.name=tripcast")
        [keys] = objects("secrets", "kubeflow", "--field-selector", "metadata.name=tripcast-s3")
        return {**addresses["data"], **{name: b64decode(key).decode() for name, key in keys["data"].items()}}

    def trust(self, keys: str | None) -> None:
        """Let steps and service verify by these keys; None: by none."""
        patch = json.dumps({"data": {"TRIPCAST_VERIFY_KEYS": keys}})
        for namespace in ("kubeflow", "tripcast"):
            kubectl("patch", "configmap", "tripcast", "--namespace", namespace, "--type", "merge", "--patch", patch)
        if self.serves():
            kubectl("rollout", "restart", "deployment/serving", "--namespace", "tripcast")
            kubectl("rollout", "status", "deployment/serving", "--namespace", "tripcast", "--timeout", "5m")
        else:  # no pod gets ready, and a restart keeps the old one until one is
            kubectl("delete", "pods", "--selector", "app.kubernetes.io/name=serving", "--namespace", "tripcast")

    def serving_pods(self) -> dict[str, int]:
        """The prediction service's pods by their uid, and how often each was started anew."""
        pods = objects("pods", "tripcast", "--selector", "app.kubernetes.io/name=serving")
        return {
            pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"]
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        }

    def serves(self, taxi: str = "green") -> dict[str, Any] | None:
        """What ``GET /model`` says; None while there is no model."""
        with forwarded("tripcast", "serving", 80) as address:
            answer = requests.get(f"{address}/model", {"taxi": taxi}, timeout=10)
        return answer.json() if answer.status_code == 200 else None

    def champion(self) -> int:
        model = self.serves()
        return model["champion"]["version"] if model else 0

    def python(
        self,
        code: str,
        *,
        namespace: str = "kubeflow",
        labels: Mapping[str, str] = STEP_LABELS,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Asker:
        """Start a pod, a step's by its labels unless told otherwise."""
        asker = Asker(f"e2e-{time.time_ns() // 1000}", namespace)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": asker.name, "namespace": namespace, "labels": dict(labels)},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "asker",
                        "image": IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "-c", code],
                        "env": [{"name": name, "value": value} for name, value in environment.items()],
                    }
                ],
            },
        }
        kubectl("apply", "--filename", "-", stdin=json.dumps(pod))
        self.askers.append(asker)
        return asker


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not shutil.which("kubectl"):
        pytest.fail("kubectl is missing: get 1.30 or later from https://kubernetes.io/docs/tasks/tools.")
    endpoint = os.environ.get("TRIPCAST_KFP_ENDPOINT")
    with forwarded("kubeflow", "ml-pipeline-ui", 80) if not endpoint else _given(endpoint) as address:
        cluster = Cluster(address, Month(2020, 12))
        if model := cluster.serves():
            cluster.before = Month.parse(model["champion"]["test_month"]).next()
        yield cluster
        for asker in cluster.askers:
            kubectl("delete", "pod", asker.name, "--namespace", asker.namespace, "--ignore-not-found", "--wait=false")


#: Signs all that is registered: what serves, and what a run of an earlier story would register again.
SIGN = """
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
registry = Registry("tripcast-green", Settings.load())
for version in registry.versions():
    registry.sign(version.number)
"""

#: Takes alerts as a chat would, and prints them.
WEBHOOK = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Webhook(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
HTTPServer(("", 8000), Webhook).serve_forever()
"""


@contextmanager
def secret(name: str, data: Mapping[str, str]) -> Iterator[None]:
    """A Secret of the steps for this story, in place of the cluster's own."""
    theirs = objects("secrets", "kubeflow", "--field-selector", f"metadata.name={name}")
    ours = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "kubeflow"}}
    kubectl("delete", "secret", name, "--namespace", "kubeflow", "--ignore-not-found")
    kubectl("create", "--filename", "-", stdin=json.dumps(ours | {"stringData": dict(data)}))
    yield
    kubectl("delete", "secret", name, "--namespace", "kubeflow")
    for their in theirs:
        kubectl("create", "--filename", "-", stdin=json.dumps(ours | {"data": their["data"]}))


@pytest.fixture(scope="session")
def webhook(cluster: Cluster) -> Iterator[Asker]:
    """A webhook of this story's own."""
    asker = cluster.python(WEBHOOK, namespace="default", labels={"app": "e2e"})
    where = ("get", "pod", asker.name, "--namespace", asker.namespace, "--output", "jsonpath={.status.podIP}")
    address = f"http://{wait_until(lambda: kubectl(*where), MINUTES, 'The start of the webhook')}:8000/"
    with secret("tripcast-alerts", {"TRIPCAST_ALERT_WEBHOOK": address}):
        yield asker


@pytest.fixture(scope="session")
def signing(cluster: Cluster) -> Iterator[None]:
    """A key pair of this story's own: nothing is loaded that it has not signed."""
    private = Ed25519PrivateKey.generate()
    signs = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    verifies = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    theirs = cluster.steps_environment().get("TRIPCAST_VERIFY_KEYS")
    key = {"TRIPCAST_SIGNING_KEY": signs}
    cluster.python(SIGN, environment=cluster.steps_environment() | key).output()
    with secret("tripcast-signing", key):
        cluster.trust(verifies)
        yield
    cluster.trust(theirs)


@contextmanager
def _given(address: str) -> Iterator[str]:
    yield address
