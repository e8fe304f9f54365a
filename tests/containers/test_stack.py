"""The stack as people start it: make stack-up, make stack-train, make stack-down."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import docker
import pytest

from tests.parts import GO_PROGRAMS, program
from tripcast import __version__
from tripcast.serving.stored_log import read_log
from tripcast.storage.store import Store, open_store

STANDINS = Path(__file__).parent / "standins"


def compose() -> str:
    """`docker compose`, or its predecessor of the same language."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return "docker compose"
    return program("docker-compose", "Install Docker's compose plugin, or docker-compose.")


def make(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", target, f"COMPOSE={compose()}", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def images(engine, tmp_path_factory) -> None:
    """The published images that the stack names, or stand-ins where they cannot be pulled."""
    published = {
        "seaweedfs": "chrislusf/seaweedfs:4.44",
        "minio": "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z",
        "postgres": "postgres:17.6",
    }
    context = tmp_path_factory.mktemp("standins") / "context"
    for name, tag in published.items():
        try:
            engine.images.get(tag)
            continue
        except docker.errors.ImageNotFound:
            pass
        try:
            engine.images.pull(tag)
        except docker.errors.APIError:
            if not context.exists():
                shutil.copytree(STANDINS, context)
                for found, place in (("weed", Path(sys.executable).parent), ("minio", GO_PROGRAMS)):
                    shutil.copy(program(found, "It is needed for a stand-in of an image.", place), context / found)
            engine.images.build(path=str(context), target=name, tag=tag, rm=True, forcerm=True)


def ask(url: str, body: dict | None = None) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_the_stack_starts_trains_serves_and_stops(images, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path / "home"))

    def store() -> Store:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, setting(name))
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        return open_store(setting("TRIPCAST_ARTIFACTS"))

    try:
        up = make("stack-up")
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
        trained = make(
            "stack-train",
            "TRAIN=--source simulated?trips=12000 --train 2021-01 --test 2021-02 --candidates lightgbm --json",
        )
        assert trained.returncode == 0, trained.stderr[-3000:]
        # make says things before and after.
        summary, _ = json.JSONDecoder().raw_decode(trained.stdout, trained.stdout.index("{\n"))
        assert summary["decision"] == "promoted"
        assert summary["artifacts"].startswith("s3://tripcast/runs/training-")

        ready = urllib.request.Request(
            "http://127.0.0.1:8080/reload", b"", {"Authorization": f"Bearer {setting('TRIPCAST_ADMIN_TOKEN')}"}
        )
        with urllib.request.urlopen(ready, timeout=60) as answer:
            assert answer.status == 200
        trip = {"pickup_zone": 74, "dropoff_zone": 236, "pickup_datetime": "2021-03-10T08:15:00"}
        predicted = ask("http://127.0.0.1:8080/predict", trip)
        assert predicted["version"] == summary["version"]
        assert 1 <= predicted["lower_minutes"] <= predicted["duration_minutes"] <= predicted["upper_minutes"] <= 60

        # The answer is in the log, in the bucket, within seconds.
        deadline = time.monotonic() + 60
        while not (logged := read_log(store(), datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC))).num_rows:
            assert time.monotonic() < deadline
            time.sleep(1)
        assert logged["prediction_id"].to_pylist() == [predicted["prediction_id"]]
        assert logged["version"].to_pylist() == [summary["version"]]
    finally:
        logs = {c.name: c.logs(tail=20).decode() for c in engine.containers.list(all=True)}
        down = make("stack-down")
        remove_volumes(engine)
    assert down.returncode == 0, down.stderr + str(logs)


def test_minio_takes_the_place_of_the_object_store(images, engine):
    subprocess.run(["make", "docker/.env"], check=True, capture_output=True)
    files = ["docker/compose.yaml", "docker/compose.minio.yaml"]
    command = [*compose().split(), "--project-name", "tripcast", "--env-file", "docker/.env"]
    command += [part for file in files for part in ("--file", file)]
    environment = {**os.environ, "TRIPCAST_VERSION": __version__}
    try:
        subprocess.run([*command, "up", "--detach", "buckets"], env=environment, check=True, capture_output=True)
        (made,) = (c for c in engine.containers.list(all=True) if "buckets" in c.name)
        assert made.wait()["StatusCode"] == 0
        assert made.logs().decode().splitlines() == ["The bucket tripcast is there.", "The bucket mlflow is there."]
    finally:
        subprocess.run([*command, "down", "--volumes"], env=environment, check=True, capture_output=True)


def remove_volumes(engine) -> None:
    for volume in engine.volumes.list():
        if volume.name.startswith("tripcast_"):
            volume.remove()


def setting(name: str) -> str:
    lines = Path("docker/.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{name}="))


def test_the_passwords_are_for_their_owner_alone_and_never_committed():
    subprocess.run(["make", "docker/.env"], check=True, capture_output=True)

    assert Path("docker/.env").stat().st_mode & 0o077 == 0
    assert subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"]).returncode == 0
