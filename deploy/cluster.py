"""A whole cluster on this machine: Kubernetes by kind or minikube, Kubeflow Pipelines, and tripcast in it.

    python3 deploy/cluster.py kind up        make it; run again, it goes on where it stopped
    python3 deploy/cluster.py kind train     upload the pipelines and start a training run; what follows is for the run
    python3 deploy/cluster.py kind open      user interfaces and predictions on this machine's ports, until Ctrl-C
    python3 deploy/cluster.py kind down      remove it, with all of its data

Needs Python and nothing installed; the same with minikube. `make kind-up` and the others call this.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

ROOT = Path(__file__).resolve().parents[1]

NAME = "tripcast"
KUBEFLOW_PIPELINES = "2.17.0"
#: The newest that minikube 1.38 knows. The one of kind is in kind/cluster.yaml.
MINIKUBE_KUBERNETES = "v1.35.1"

IMAGES = ("pipeline", "serving", "mlflow")

#: What Kubeflow Pipelines, tripcast and a step need together (docs/kubernetes.md), in bytes.
MEMORY = 8 * 10**9

_SECONDS_BETWEEN_LOOKS = 2


class Failure(Exception):
    """A step failed; the message says which and how to look."""


class Service(NamedTuple):
    """A service in the cluster.

    Attributes:
        namespace: Where it is.
        name: Its name there.
        port: The port that it has there.
    """

    namespace: str
    name: str
    port: int


PIPELINES = Service("kubeflow", "ml-pipeline-ui", 80)

#: What a person looks at, by title, and the port that it gets on this machine.
OPENED = {
    "Pipelines and runs": (PIPELINES, 8888),
    "MLflow": (Service("tripcast", "mlflow", 5000), 5000),
    "Predictions": (Service("tripcast", "serving", 80), 8080),
}


class Tool(NamedTuple):
    """A program that has to be there.

    Attributes:
        name: Of the program.
        oldest: The oldest version that will do, as (major, minor).
        version: Arguments with which it prints its version.
        source: Where to get it.
    """

    name: str
    oldest: tuple[int, int]
    version: Sequence[str]
    source: str


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("docker", (20, 10), ("--version",), "https://docs.docker.com/engine/install"),
        Tool("git", (2, 0), ("--version",), "https://git-scm.com/downloads, for kubectl, which fetches by it"),
        Tool("kubectl", (1, 30), ("version", "--client"), "https://kubernetes.io/docs/tasks/tools"),
        Tool("kind", (0, 32), ("version",), "https://kind.sigs.k8s.io/docs/user/quick-start/#installation"),
        Tool("minikube", (1, 38), ("version", "--short"), "https://minikube.sigs.k8s.io/docs/start"),
    )
}


class Cluster(Protocol):
    """What makes a cluster on this machine."""

    #: Of the program.
    name: str
    #: The cluster's name in kubectl's configuration.
    context: str

    def make(self) -> None:
        """Make the cluster, or leave one that is there as it is."""

    def load(self, images: Sequence[str]) -> None:
        """Bring images of this machine's Docker into the cluster's node."""

    def remove(self) -> None:
        """Remove the cluster, if it is there."""


class Kind:
    """https://kind.sigs.k8s.io, a cluster in a container."""

    name = "kind"
    context = f"kind-{NAME}"

    def make(self) -> None:
        """See ``Cluster``."""
        if NAME in output("kind", "get", "clusters").split():
            say(f"The cluster {NAME} is there.")
            return
        say("Making the cluster; the first time its image is downloaded.")
        run("kind", "create", "cluster", "--name", NAME, "--config", str(ROOT / "deploy/kind/cluster.yaml"),
            "--wait", "5m", look=f"kind export logs --name {NAME}; docker ps --all")  # fmt: skip

    def load(self, images: Sequence[str]) -> None:
        """See ``Cluster``."""
        run("kind", "load", "docker-image", "--name", NAME, *images, look="docker image ls 'tripcast/*'")

    def remove(self) -> None:
        """See ``Cluster``."""
        run("kind", "delete", "cluster", "--name", NAME, look="docker ps --all")


class Minikube:
    """https://minikube.sigs.k8s.io, a cluster in a container or a virtual machine."""

    name = "minikube"
    context = NAME

    def make(self) -> None:
        """See ``Cluster``."""
        say("Starting the cluster; the first time its image is downloaded.")
        # On a cluster that is there, this starts what has stopped. Its own network would ignore network policies.
        run("minikube", "start", "--profile", NAME, "--kubernetes-version", MINIKUBE_KUBERNETES, "--cpus", "4",
            "--memory", "8g", "--cni", "calico", "--addons", "metrics-server", "--wait", "all",
            look=f"minikube logs --profile {NAME}; minikube status --profile {NAME}")  # fmt: skip

    def load(self, images: Sequence[str]) -> None:
        """See ``Cluster``."""
        run("minikube", "image", "load", "--profile", NAME, *images, look="docker image ls 'tripcast/*'")

    def remove(self) -> None:
        """See ``Cluster``."""
        run("minikube", "delete", "--profile", NAME, look=f"minikube status --profile {NAME}")


CLUSTERS: dict[str, Cluster] = {cluster.name: cluster for cluster in (Kind(), Minikube())}


def up(cluster: Cluster, minutes: float) -> None:
    """Make all of it; whatever is there already stays."""
    check_tools("docker", "git", "kubectl", cluster.name)
    images = [f"tripcast/{image}:{version()}" for image in IMAGES]
    check_docker(images)
    cluster.make()
    say("Bringing tripcast's images into the node.")
    cluster.load(images)
    install_kubeflow_pipelines(cluster, minutes)
    install_tripcast(cluster, minutes)
    say(
        "Everything runs. The prediction service is ready once a model is trained.\n"
        f"Next: make {cluster.name}-train, and make {cluster.name}-open to look at it."
    )


def install_kubeflow_pipelines(cluster: Cluster, minutes: float) -> None:
    """Install Kubeflow Pipelines from its own manifests."""
    say(f"Installing Kubeflow Pipelines {KUBEFLOW_PIPELINES}.")
    source = "github.com/kubeflow/pipelines/manifests/kustomize"
    pinned = f"?ref={KUBEFLOW_PIPELINES}&timeout=300s"  # kustomize itself would give git 27 seconds
    look = "kubectl get events --all-namespaces --sort-by .lastTimestamp"
    kubectl(cluster, "apply", "--kustomize", f"{source}/cluster-scoped-resources{pinned}", look=look)
    kubectl(cluster, "wait", "--for", "condition=established", "--timeout", "60s",
            "crd/applications.app.k8s.io", "crd/workflows.argoproj.io", look="kubectl get crd")  # fmt: skip
    kubectl(cluster, "apply", "--kustomize", f"{source}/env/platform-agnostic{pinned}", look=look)
    wait(cluster, "kubeflow", minutes)


def install_tripcast(cluster: Cluster, minutes: float) -> None:
    """Install tripcast's parts, with passwords made for this clone."""
    secrets = ROOT / "deploy/secrets"
    if not (secrets / "s3.env").exists():
        run(sys.executable, str(secrets / "new.py"), look=f"ls {secrets}")
    say("Installing tripcast.")
    overlay = str(ROOT / "deploy/overlays" / cluster.name)
    kubectl(cluster, "apply", "--kustomize", overlay, look=f"kubectl kustomize {overlay}")
    wait(cluster, "tripcast", minutes, without={"serving"})  # which is ready when there is a model


def train(cluster: Cluster, arguments: Sequence[str]) -> int:
    """Upload the pipelines, start a training run and wait for its end.

    Returns:
        The exit code of `tripcast submit`.
    """
    check_tools("kubectl")
    tripcast = ROOT / ".venv/bin/tripcast"
    if not tripcast.exists():
        raise Failure(f"{tripcast} is missing: run `make setup`.")
    port = free_port()
    with forwarded(cluster, PIPELINES, port):
        host = f"http://localhost:{port}"
        run(str(tripcast), "upload", "--host", host, look="kubectl logs --namespace kubeflow deployment/ml-pipeline")
        return subprocess.run([tripcast, "submit", "training", "--host", host, *arguments]).returncode


def open_(cluster: Cluster) -> None:
    """Forward ports of this machine until somebody ends it."""
    check_tools("kubectl")
    with ExitStack() as stack:
        processes = []
        for title, (service, port) in OPENED.items():
            processes.append(stack.enter_context(forwarded(cluster, service, port)))
            print(f"{title + ':':<20}http://localhost:{port}", flush=True)
        say("Ctrl-C ends this.")
        while all(process.poll() is None for process in processes):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise Failure("A connection to the cluster ended, perhaps because its pod was replaced. Run the same again.")


def down(cluster: Cluster) -> None:
    """Remove the cluster."""
    check_tools(cluster.name)
    cluster.remove()


# What is needed beforehand


def check_tools(*names: str) -> None:
    """Name all programs that are missing or too old, at once, and where they are to be had."""
    trouble = []
    for tool in map(TOOLS.__getitem__, names):
        wanted = "{}.{}".format(*tool.oldest)
        if not shutil.which(tool.name):
            trouble.append(f"{tool.name} is missing: get {wanted} or later from {tool.source}")
        else:
            found = re.search(r"(\d+)\.(\d+)", output(tool.name, *tool.version))
            if found and (int(found[1]), int(found[2])) < tool.oldest:
                trouble.append(f"{tool.name} is {found[0]}: get {wanted} or later from {tool.source}")
    if trouble:
        raise Failure("\n".join(trouble))


def check_docker(images: Sequence[str]) -> None:
    """Is Docker running, large enough, and has it the images?"""
    try:
        memory = output("docker", "info", "--format", "{{.MemTotal}}").strip()
    except Failure as failure:
        raise Failure(f"Docker does not answer; start it. It says: {failure}") from failure
    if memory.isdecimal() and int(memory) < MEMORY:
        say(f"Docker has {int(memory) / 10**9:.1f} GB of memory; all of it needs {MEMORY / 10**9:.0f}. Give it more.")
    for image in images:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
            raise Failure(f"The image {image} is missing: run `make images`.")


def version() -> str:
    """The version of tripcast, which is the tag of its images."""
    found = re.search(r'^__version__ = "(.*)"', (ROOT / "tripcast/__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


# Programs


def run(*command: str, look: str) -> None:
    """Run a program, whose messages the caller sees.

    Args:
        command: The program and its arguments.
        look: A command, or several, by which a person sees more if it fails.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise Failure(
            f"This failed with exit code {code}, for the reason above:\n  {shlex.join(command)}\n"
            f"To see more:\n  {look}\nMend it and run the same again: it goes on where it stopped."
        )


def output(*command: str) -> str:
    """What a program prints."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip() or f"exit code {ended.returncode}"
        raise Failure(f"This failed:\n  {shlex.join(command)}\n{said}")
    return ended.stdout


def kubectl(cluster: Cluster, *arguments: str, look: str) -> None:
    """Run kubectl on the cluster, whatever else its configuration knows."""
    run("kubectl", "--context", cluster.context, *arguments, look=look)


# Waiting


def wait(cluster: Cluster, namespace: str, minutes: float, without: Set[str] = frozenset()) -> None:
    """Wait until all that is to run in a namespace does, and say what is still missing whenever that changes."""
    deadline, said = time.monotonic() + 60 * minutes, ""
    while missing := sorted(unready(cluster, namespace) - without):
        names = ", ".join(missing)
        if names != said:
            say(f"Waiting for {len(missing)} in {namespace}: {names}")
            said = names
        if time.monotonic() >= deadline:
            raise Failure(
                f"Not ready in {namespace} after {minutes:g} minutes: {names}.\nTo see more:\n"
                f"  kubectl --context {cluster.context} get pods --namespace {namespace}\n"
                f"  kubectl --context {cluster.context} describe pods --namespace {namespace}\n"
                "Images may still be on their way: run the same again, it goes on where it stopped."
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    say(f"All of {namespace} is ready.")


def unready(cluster: Cluster, namespace: str) -> set[str]:
    """The deployments, stateful sets and jobs of a namespace that are not as they are to be."""
    found: dict[str, Any] = json.loads(
        output("kubectl", "--context", cluster.context, "get", "deployments,statefulsets,jobs",
               "--namespace", namespace, "--output", "json")
    )  # fmt: skip
    return {item["metadata"]["name"] for item in found["items"] if not is_ready(item)}


def is_ready(item: dict[str, Any]) -> bool:
    """Whether an object is as its newest description wants it."""
    status = item.get("status", {})
    if item["kind"] == "Job":
        return bool(status.get("succeeded"))
    wanted = item["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    return bool(seen and min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0)) >= wanted)


# Ports


@contextmanager
def forwarded(cluster: Cluster, service: Service, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Have kubectl forward a port of this machine to a service, for a while."""
    command = ["kubectl", "--context", cluster.context, "port-forward", "--namespace", service.namespace]
    process = subprocess.Popen(
        [*command, f"service/{service.name}", f"{port}:{service.port}"], stdout=subprocess.DEVNULL
    )
    try:
        connect(process, port)
        yield process
    finally:
        process.terminate()
        process.wait()


def connect(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a forwarded port takes connections."""
    while process.poll() is None:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise Failure(
        f"Port {port} of this machine leads nowhere, for the reason above.\n"
        "Either another program has that port, or the cluster is not up."
    )


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port: int = one.getsockname()[1]
        return port


_STARTED = time.monotonic()


def say(sentence: str) -> None:
    """Print a sentence with the time that has passed."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes}:{seconds:02}] {sentence}", flush=True)


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cluster", choices=CLUSTERS)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("up", help="make it, or go on with making it")
    making.add_argument("--minutes", type=float, default=20.0, help="how long to wait for the parts, each time (20)")
    commands.add_parser(
        "train", help="upload the pipelines and run the training; what follows is for `tripcast submit`"
    )
    commands.add_parser("open", help="user interfaces and predictions on this machine's ports")
    commands.add_parser("down", help="remove it with all of its data")
    asked, further = parser.parse_known_args()
    if further and asked.command != "train":
        parser.error(f"unrecognized arguments: {shlex.join(further)}")
    cluster = CLUSTERS[asked.cluster]
    try:
        if asked.command == "up":
            up(cluster, asked.minutes)
        elif asked.command == "train":
            return train(cluster, further)
        elif asked.command == "open":
            open_(cluster)
        else:
            down(cluster)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
