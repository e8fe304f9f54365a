import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import docker
import pytest

from components.step import IMAGE
from tests.containers.servers import MLflow, ObjectStore, Postgres
from tests.parts import missing, program

BUCKETS = ("tripcast", "mlflow")


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """Docker's engine, with the image of the steps."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        missing("A Docker engine", "Start one.")
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        missing(f"The image {IMAGE}", "Build it with 'make images'.")
    yield client
    client.close()


def own_containers(engine: docker.DockerClient) -> set[str]:
    """Of tripcast's images, and of the stack's services; others may come and go on this machine meanwhile."""
    images = {image.id for image in engine.images.list() if any(tag.startswith("tripcast/") for tag in image.tags)}
    return {
        container.id
        for container in engine.containers.list(all=True, ignore_removed=True)
        if container.attrs["Image"] in images or container.labels.get("com.docker.compose.project") == "tripcast"
    }


@pytest.fixture(autouse=True)
def no_container_is_left_behind(engine) -> Iterator[None]:
    before = own_containers(engine)
    yield
    assert own_containers(engine) <= before


def object_store(kind: str, folder: Path) -> ObjectStore:
    if kind == "minio":
        found = program("minio", "go install github.com/minio/minio@latest")
    else:
        found = program("weed", "It comes with the development requirements, on Linux.", Path(sys.executable).parent)
    return ObjectStore(kind, found, folder)


@pytest.fixture(scope="session", params=["minio", "seaweedfs"])
def any_store(request, tmp_path_factory) -> Iterator[ObjectStore]:
    """Each kind of object store in turn, with an empty bucket named tripcast."""
    store = object_store(request.param, tmp_path_factory.mktemp("stores") / request.param)
    store.start()
    store.client().create_bucket(Bucket="tripcast")
    yield store
    store.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        missing("PostgreSQL", "apt-get install postgresql")
    # Not in pytest's own folder, which the next session that starts locks up, and PostgreSQL is another user.
    with TemporaryDirectory(prefix="postgres-") as folder:
        Path(folder).chmod(0o711)
        server = Postgres(programs, Path(folder) / "server")
        server.start()
        yield server
        server.stop()


@dataclass
class Stack:
    """What the second rung runs on."""

    store: ObjectStore
    postgres: Postgres
    mlflow: MLflow

    def environment(self, host: str = "127.0.0.1") -> dict[str, str]:
        return {
            **self.store.environment(host),
            "MLFLOW_TRACKING_URI": self.mlflow.url(host),
            "TRIPCAST_ARTIFACTS": "s3://tripcast/stack",
        }


@pytest.fixture(scope="session")
def running_stack(engine, postgres, tmp_path_factory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    store = object_store("minio", folder / "store")
    store.start()
    for bucket in BUCKETS:
        store.client().create_bucket(Bucket=bucket)
    mlflow = MLflow(postgres, store, "mlflow", folder / "mlflow")
    mlflow.start()
    yield Stack(store, postgres, mlflow)
    mlflow.stop()
    store.stop()


@pytest.fixture
def stack(running_stack, tmp_path, monkeypatch) -> Stack:
    """MinIO, PostgreSQL and MLflow's server, empty, and an environment that names them."""
    for bucket in BUCKETS:
        for key in running_stack.store.objects(bucket):
            running_stack.store.client().delete_object(Bucket=bucket, Key=key)
    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path / "home"))
    for name, value in running_stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return running_stack


@pytest.fixture
def isolated_network(engine) -> Iterator[tuple[str, str]]:
    """A network without a way out, as its name and the address that this machine has in it."""
    name = f"tripcast-isolated-{os.getpid()}"
    network = engine.networks.create(name, internal=True)
    network.reload()
    yield name, network.attrs["IPAM"]["Config"][0]["Gateway"]
    network.remove()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
