"""deploy/cluster.py, which makes a whole cluster on one machine.

No cluster can run in a test. kind, minikube, kubectl, docker, git and the command line are stand-ins here: they write
down how they were called and answer as they are told. That their real namesakes take these arguments is not tested.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import kfp
import pytest
import yaml

import tripcast

IMAGES = [f"tripcast/{name}:{tripcast.__version__}" for name in ("pipeline", "serving", "mlflow")]

STAND_IN = """#!{python}
import json, os, socket, sys
from pathlib import Path

state = Path({state!r})
called = [Path(sys.argv[0]).name, *sys.argv[1:]]
with open(state / "calls", "a") as calls:
    calls.write(json.dumps(called) + "\\n")
line = " ".join(called)
told = json.loads((state / "told").read_text())
for part, code in told["fail"].items():
    if part in line:
        print("the stand-in was told to fail", file=sys.stderr)
        sys.exit(code)
clusters = state / "clusters"
if line.startswith("kind create"):
    clusters.write_text("other\\ntripcast\\n")
elif line == "kind get clusters":
    print(clusters.read_text() if clusters.exists() else "other")
elif " get deployments,statefulsets,jobs " in line:
    answers = told["objects"][called[called.index("--namespace") + 1]]
    seen = state / f"seen-{{called[called.index('--namespace') + 1]}}"
    count = int(seen.read_text()) if seen.exists() else 0
    seen.write_text(str(count + 1))
    print(json.dumps({{"items": answers[min(count, len(answers) - 1)]}}))
elif "port-forward" in called:
    with socket.create_server(("localhost", int(called[-1].partition(":")[0]))) as server:
        server.accept()[0].close()
        while not any(part in line for part in told["short-lived"]):
            server.accept()[0].close()
elif called[0] == "tripcast":
    host, _, port = called[called.index("--host") + 1].removeprefix("http://").partition(":")
    socket.create_connection((host, int(port))).close()
for part, text in told["say"].items():
    if line.startswith(part):
        print(text)
"""

VERSIONS = {
    "docker --version": "Docker version 29.1.0, build 1234567",
    "docker info": "16000000000",
    "git --version": "git version 2.47.3",
    "kubectl version --client": "Client Version: v1.36.1\nKustomize Version: v5.7.1",
    "kind version": "kind v0.32.0 go1.26.1 linux/amd64",
    "minikube version": "v1.38.1",
}


def ready(kind: str, name: str) -> dict[str, Any]:
    status = {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1, "succeeded": 1}
    return {"kind": kind, "metadata": {"name": name, "generation": 1}, "spec": {"replicas": 1}, "status": status}


def starting(kind: str, name: str) -> dict[str, Any]:
    return {**ready(kind, name), "status": {"observedGeneration": 1, "updatedReplicas": 1}}


KUBEFLOW = [ready("Deployment", "ml-pipeline"), ready("Deployment", "mysql")]
TRIPCAST = [
    ready("Deployment", "mlflow"),
    starting("Deployment", "serving"),
    ready("StatefulSet", "s3"),
    ready("Job", "buckets"),
]


@dataclass
class Machine:
    """A copy of what the script reads, with stand-ins for all programs that it calls."""

    folder: Path
    told: dict[str, Any]

    @property
    def script(self) -> Path:
        return self.folder / "deploy/cluster.py"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "told").write_text(json.dumps(self.told))
        environment = {"PATH": str(self.folder / "bin")}
        return subprocess.run(
            [sys.executable, self.script, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )

    def calls(self) -> list[list[str]]:
        """All calls since this was last asked."""
        file = self.folder / "calls"
        calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        file.unlink(missing_ok=True)
        return calls

    def actions(self) -> list[str]:
        """All calls since this was last asked that change something, without the script's own folder."""
        looks = ("version", "--version", "info", "inspect", "get")
        return [
            shlex.join(call).replace(f"{self.folder}/", "")
            for call in self.calls()
            if not any(w in looks for w in call)
        ]

    def passwords(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.folder / "deploy/secrets").glob("*.env")}


@pytest.fixture
def machine(tmp_path) -> Machine:
    folder = tmp_path / "clone"
    shutil.copytree("deploy", folder / "deploy", ignore=shutil.ignore_patterns("*.env", "__pycache__"))
    (folder / "tripcast").mkdir()
    shutil.copy("tripcast/__init__.py", folder / "tripcast")
    for place in ("bin", ".venv/bin"):
        (folder / place).mkdir(parents=True)
    programs = [folder / "bin" / name for name in ("docker", "git", "kubectl", "kind", "minikube")]
    for program in (*programs, folder / ".venv/bin/tripcast"):
        program.write_text(STAND_IN.format(python=sys.executable, state=str(folder)))
        program.chmod(0o755)
    objects = {"kubeflow": [KUBEFLOW], "tripcast": [TRIPCAST]}
    return Machine(folder, {"fail": {}, "say": dict(VERSIONS), "objects": objects, "short-lived": []})


@pytest.fixture
def script(machine) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("local_cluster", machine.script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MANIFESTS = "github.com/kubeflow/pipelines/manifests/kustomize"
PINNED = f"?ref={kfp.__version__}&timeout=300s"

MAKING = {
    "kind": [
        "kind create cluster --name tripcast --config deploy/kind/cluster.yaml --wait 5m",
        f"kind load docker-image --name tripcast {' '.join(IMAGES)}",
    ],
    "minikube": [
        "minikube start --profile tripcast --kubernetes-version v1.35.1 --cpus 4 --memory 8g --cni calico "
        "--addons metrics-server --wait all",
        f"minikube image load --profile tripcast {' '.join(IMAGES)}",
    ],
}


def installing(context: str, overlay: str) -> list[str]:
    kubectl = f"kubectl --context {context}"
    return [
        f"{kubectl} apply --kustomize '{MANIFESTS}/cluster-scoped-resources{PINNED}'",
        f"{kubectl} wait --for condition=established --timeout 60s "
        "crd/applications.app.k8s.io crd/workflows.argoproj.io",
        f"{kubectl} apply --kustomize '{MANIFESTS}/env/platform-agnostic{PINNED}'",
        f"{kubectl} apply --kustomize deploy/overlays/{overlay}",
    ]


@pytest.mark.parametrize(("cluster", "context"), [("kind", "kind-tripcast"), ("minikube", "tripcast")])
def test_everything_is_made_in_order_on_no_other_cluster(machine, cluster, context):
    ended = machine.run(cluster, "up")

    assert ended.returncode == 0, ended.stderr
    assert machine.actions() == [*MAKING[cluster], *installing(context, cluster)]
    assert f"Next: make {cluster}-train" in ended.stdout
    assert set(machine.passwords()) == {"s3.env", "postgres.env", "mlflow.env", "serving.env"}


def test_a_second_run_makes_no_second_cluster_and_keeps_the_passwords(machine):
    machine.run("kind", "up")
    passwords = machine.passwords()
    machine.calls()
    again = machine.run("kind", "up")

    assert again.returncode == 0, again.stderr
    assert "The cluster tripcast is there." in again.stdout
    assert machine.actions() == [MAKING["kind"][1], *installing("kind-tripcast", "kind")]
    assert machine.passwords() == passwords


@pytest.mark.parametrize(
    ("part", "actions"),
    [
        ("kind create", 1),
        ("kind load", 2),
        ("cluster-scoped-resources", 3),
        ("condition=established", 4),
        ("platform-agnostic", 5),
        ("overlays/kind", 6),
    ],
)
def test_a_step_that_fails_ends_it_with_its_command_and_the_next_run_goes_on(machine, part, actions):
    machine.told["fail"] = {part: 3}
    ended = machine.run("kind", "up")
    done = machine.actions()

    assert ended.returncode == 1
    assert len(done) == actions
    assert "the stand-in was told to fail" in ended.stderr
    assert f"This failed with exit code 3, for the reason above:\n  {done[-1]}" in ended.stderr.replace(
        f"{machine.folder}/", ""
    )
    assert re.search(r"To see more:\n  (kind|docker|kubectl) \w+", ended.stderr)
    assert "Traceback" not in ended.stderr

    machine.told["fail"] = {}
    assert machine.run("kind", "up").returncode == 0
    assert ("kind create" in machine.actions()[0]) == (part == "kind create")


# What has to be there


def test_all_missing_programs_are_named_at_once_with_their_source(machine):
    for program in (machine.folder / "bin").iterdir():
        program.unlink()
    ended = machine.run("minikube", "up")

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.strip().splitlines() == [
        "docker is missing: get 20.10 or later from https://docs.docker.com/engine/install",
        "git is missing: get 2.0 or later from https://git-scm.com/downloads, for kubectl, which fetches by it",
        "kubectl is missing: get 1.30 or later from https://kubernetes.io/docs/tasks/tools",
        "minikube is missing: get 1.38 or later from https://minikube.sigs.k8s.io/docs/start",
    ]


def test_a_program_that_is_too_old_is_named_with_its_version(machine):
    machine.told["say"]["kind version"] = "kind v0.9.0 go1.15.2 linux/amd64"
    ended = machine.run("kind", "up")

    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "kind is 0.9: get 0.32 or later from https://kind.sigs.k8s.io/docs/user/quick-start/#installation"
    )
    assert machine.actions() == []


def test_a_docker_that_does_not_run_is_said_before_anything_is_made(machine):
    machine.told["fail"] = {"docker info": 1}
    ended = machine.run("kind", "up")

    assert ended.returncode == 1
    assert "Docker does not answer; start it." in ended.stderr
    assert machine.actions() == []


def test_a_docker_with_little_memory_is_said_and_left_to_the_person(machine):
    machine.told["say"]["docker info"] = "4100000000"
    ended = machine.run("kind", "up")

    assert ended.returncode == 0
    assert "Docker has 4.1 GB of memory; all of it needs 8." in ended.stdout


def test_an_image_that_was_not_built_is_named(machine):
    machine.told["fail"] = {f"inspect {IMAGES[1]}": 1}
    ended = machine.run("kind", "up")

    assert ended.returncode == 1
    assert ended.stderr.strip() == f"The image {IMAGES[1]} is missing: run `make images`."
    assert machine.actions() == []


# Waiting


def test_it_says_what_it_waits_for_whenever_that_changes(machine):
    waiting = [starting("Deployment", "ml-pipeline"), starting("Deployment", "mysql")]
    half = [starting("Deployment", "ml-pipeline"), ready("Deployment", "mysql")]
    machine.told["objects"]["kubeflow"] = [waiting, waiting, half, KUBEFLOW]
    ended = machine.run("kind", "up")
    said = [line.partition("] ")[2] for line in ended.stdout.splitlines() if "kubeflow" in line and "] " in line]

    assert ended.returncode == 0
    assert said == [
        "Waiting for 2 in kubeflow: ml-pipeline, mysql",
        "Waiting for 1 in kubeflow: ml-pipeline",
        "All of kubeflow is ready.",
    ]


def test_what_is_not_ready_in_time_is_named_with_how_to_look(machine):
    machine.told["objects"]["tripcast"] = [[starting("Deployment", "mlflow"), starting("Job", "buckets")]]
    ended = machine.run("kind", "up", "--minutes", "0")

    assert ended.returncode == 1
    assert "Not ready in tripcast after 0 minutes: buckets, mlflow." in ended.stderr
    assert "kubectl --context kind-tripcast describe pods --namespace tripcast" in ended.stderr


def test_an_object_is_ready_when_its_newest_description_runs(script):
    deployment = ready("Deployment", "mlflow")
    assert script.is_ready(deployment)
    assert not script.is_ready(starting("Deployment", "mlflow"))
    assert not script.is_ready({**deployment, "metadata": {"name": "mlflow", "generation": 2}})
    assert not script.is_ready({**deployment, "spec": {"replicas": 2}})
    assert not script.is_ready({**deployment, "status": {**deployment["status"], "updatedReplicas": 0}})
    assert not script.is_ready({"kind": "Job", "metadata": {"name": "buckets"}, "spec": {}, "status": {"active": 1}})
    assert script.is_ready({**deployment, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}})


# Using it


def ports(calls: Sequence[list[str]]) -> list[str]:
    return [re.sub(r"\b\d{4,5}:", "PORT:", shlex.join(call)) for call in calls if "port-forward" in call]


def test_training_uploads_the_pipelines_then_runs_one_by_a_forwarded_port(machine):
    ended = machine.run("kind", "train", "--param", "source=simulated", "--no-wait")
    calls = machine.calls()
    [forwarding], [upload, submit] = ports(calls), [call for call in calls if call[0] == "tripcast"]
    host = upload[-1]

    assert ended.returncode == 0, ended.stderr
    assert forwarding == (
        "kubectl --context kind-tripcast port-forward --namespace kubeflow service/ml-pipeline-ui PORT:80"
    )
    assert upload == ["tripcast", "upload", "--host", host]
    assert submit == [
        *("tripcast", "submit", "training", "--host", host, "--param", "source=simulated", "--no-wait"),
    ]
    assert re.fullmatch(r"http://localhost:\d+", host)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", int(host.rpartition(":")[2])))


def test_training_ends_as_the_run_ends(machine):
    machine.told["fail"] = {"tripcast submit": 2}
    assert machine.run("minikube", "train").returncode == 2


def test_training_without_pipelines_does_not_start(machine):
    machine.told["fail"] = {"tripcast upload": 1}
    ended = machine.run("kind", "train")

    assert ended.returncode == 1
    assert "kubectl logs --namespace kubeflow deployment/ml-pipeline" in ended.stderr
    assert not [call for call in machine.calls() if "submit" in call]


def test_training_without_a_cluster_says_so(machine):
    machine.told["fail"] = {"port-forward": 1}
    ended = machine.run("kind", "train")

    assert ended.returncode == 1
    assert "the cluster is not up" in ended.stderr
    assert not [call for call in machine.calls() if call[0] == "tripcast"]


def test_what_a_person_looks_at_is_forwarded_until_a_connection_ends(machine, script, monkeypatch, capsys):
    assert {title: port for title, (_, port) in script.OPENED.items()} == {
        "Pipelines and runs": 8888,
        "MLflow": 5000,
        "Predictions": 8080,
    }
    free = {title: (service, script.free_port()) for title, (service, _) in script.OPENED.items()}
    monkeypatch.setattr(script, "OPENED", free)
    monkeypatch.setenv("PATH", str(machine.folder / "bin"), prepend=os.pathsep)
    machine.told["short-lived"] = ["service/serving"]
    (machine.folder / "told").write_text(json.dumps(machine.told))

    with pytest.raises(script.Failure, match="A connection to the cluster ended"):
        script.open_(script.CLUSTERS["kind"])
    printed = capsys.readouterr().out

    assert all(f"http://localhost:{port}" in printed for _, port in free.values())
    assert ports(machine.calls()) == [
        "kubectl --context kind-tripcast port-forward --namespace kubeflow service/ml-pipeline-ui PORT:80",
        "kubectl --context kind-tripcast port-forward --namespace tripcast service/mlflow PORT:5000",
        "kubectl --context kind-tripcast port-forward --namespace tripcast service/serving PORT:80",
    ]
    for _, port in free.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("localhost", port))


@pytest.mark.parametrize(
    ("cluster", "command"),
    [("kind", "kind delete cluster --name tripcast"), ("minikube", "minikube delete --profile tripcast")],
)
def test_the_cluster_is_removed_and_nothing_else(machine, cluster, command):
    assert machine.run(cluster, "down").returncode == 0
    assert machine.actions() == [command]


# What it goes by


def test_the_versions_are_those_that_the_rest_goes_by(script):
    kind = yaml.safe_load(Path("deploy/kind/cluster.yaml").read_text())
    images = [re.fullmatch(r"kindest/node:v(1\.\d+)\.\d+@sha256:[0-9a-f]{64}", node["image"]) for node in kind["nodes"]]
    release = yaml.safe_load(Path("deploy/components/release/kustomization.yaml").read_text())

    assert kfp.__version__ == script.KUBEFLOW_PIPELINES
    assert script.version() == tripcast.__version__
    assert {image["newTag"] for image in release["images"]} == {tripcast.__version__}
    assert kind["name"] == script.NAME
    assert all(image and 30 <= int(image[1].partition(".")[2]) <= 37 for image in images)
    assert re.fullmatch(r"v1\.3[0-7]\.\d+", script.MINIKUBE_KUBERNETES)


@pytest.mark.parametrize("cluster", ["kind", "minikube"])
@pytest.mark.parametrize("command", ["up", "train", "open", "down"])
def test_make_has_a_target_for_each_command(cluster, command):
    # Below `make test`, make would say which directory it enters and leaves.
    dry = ["make", "--dry-run", "--no-print-directory", f"{cluster}-{command}"]
    made = subprocess.run(dry, capture_output=True, text=True)
    last = made.stdout.strip().splitlines()[-1]

    assert made.returncode == 0, made.stderr
    assert f"deploy/cluster.py {cluster} {command}" in last
    assert ("docker build" in made.stdout) == (command == "up")
    assert last.endswith("--param source=simulated") == (command == "train")
