"""The container runner: every failure is a failure, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kfp import dsl
from kfp.local import docker_task_handler

from components.step import IMAGE, step
from pipelines.local.containers import Containers
from pipelines.local.runner import StepFailed, run_locally
from tests.containers.conftest import own_containers
from tests.parts import wait_for
from tripcast.errors import InvalidRequest, SourceError
from tripcast.settings import Settings


@step
def tell() -> dict:
    import os
    from pathlib import Path

    def can_write(path: str) -> bool:
        try:
            Path(path, "tried").write_text("")
        except OSError:
            return False
        return True

    status = Path("/proc/self/status").read_text()
    return {
        "uid": os.getuid(),
        "environment": dict(os.environ),
        "capabilities": next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")),
        "writable": [path for path in ("/", "/opt/tripcast", "/etc", "/tmp") if can_write(path)],
    }


@step
def miss_a_month() -> None:
    from tripcast.errors import SourceError

    raise SourceError("There is no 2021-13.")


@step
def be_killed() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@step
def count_slowly(marker: str) -> None:
    import time
    from pathlib import Path

    print(" 50%|#####     | half", flush=True)
    while not Path(marker).exists():
        time.sleep(0.05)


@dsl.pipeline(name="telling")
def telling():
    tell()


@dsl.pipeline(name="missing")
def missing_a_month():
    miss_a_month()


@dsl.pipeline(name="killed")
def killed():
    be_killed()


@dsl.pipeline(name="counting")
def counting(marker: str):
    count_slowly(marker=marker)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(pipeline, arguments=None, notify=lambda event: None):
    settings = Settings.load()
    return run_locally(pipeline, arguments or {}, settings.runs, notify, Containers(settings))


def test_a_step_is_not_root_and_can_write_nothing_but_its_own_files(home, engine):
    told = run(telling).output("tell")["Output"]

    assert told["uid"] != 0
    assert told["capabilities"].strip("0") == ""
    assert told["writable"] == ["/tmp"]


def test_a_step_learns_of_endpoints_and_credentials_and_of_nothing_else(home, engine, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("AWS_PROFILE", "of the person")
    monkeypatch.setenv("SLACK_TOKEN", "none of its business")
    monkeypatch.setenv("TRIPCAST_ADMIN_TOKEN", "the service's")

    environment = run(telling).output("tell")["Output"]["environment"]

    assert environment["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:9000"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "a secret"
    assert environment["TRIPCAST_HOME"] == str(home)
    assert environment["TRIPCAST_IMAGE"].startswith(f"{IMAGE}@sha256:")
    assert not {"AWS_PROFILE", "SLACK_TOKEN", "TRIPCAST_ADMIN_TOKEN"} & environment.keys()


def test_an_error_of_tripcast_comes_back_as_itself(home, engine):
    with pytest.raises(SourceError, match=r"^There is no 2021-13\.$"):
        run(missing_a_month)


def test_a_killed_step_fails_the_run(home, engine):
    with pytest.raises(StepFailed, match="ended by signal SIGKILL"):
        run(killed)


def test_the_log_streams(home, engine):
    marker = home / "marker"
    seen = []

    def notify(event):
        seen.append(event.state)
        if event.state == "progress":
            marker.write_text("")  # the step goes on when its progress has been seen

    run(counting, {"marker": str(marker)}, notify)

    assert seen == ["started", "progress", "succeeded"]


def test_forty_failing_containers_are_forty_failures(home, engine):
    containers = Containers(Settings.load())
    folder = home / "runs" / "run" / "step"
    folder.mkdir(parents=True)
    containers.prepare(home / "runs")
    with (
        containers.patched_kfp(lambda command, execute: execute(folder, lambda line: None), home),
        ThreadPoolExecutor(4) as pool,
    ):

        def exit_with(code: int) -> int:
            return docker_task_handler.run_docker_container(engine, IMAGE, ["sh", "-c", f"exit {code}"], {})

        expected = [1 + 3 * number for number in range(40)]
        assert list(pool.map(exit_with, expected)) == expected


def test_kfps_own_function_is_put_back_and_takes_what_ours_takes(home, engine):
    before = docker_task_handler.run_docker_container

    run(telling)

    assert docker_task_handler.run_docker_container is before
    assert before.__code__.co_varnames[:4] == ("client", "image", "command", "volumes")


def test_an_image_that_is_not_there_is_named(home, engine):
    @dsl.component(base_image="tripcast/never-built:1", install_kfp_package=False)
    def nothing() -> None:
        pass

    @dsl.pipeline(name="imageless")
    def imageless():
        nothing()

    with pytest.raises(InvalidRequest, match=r"tripcast/never-built:1 is neither here nor to be pulled.*make images"):
        run(imageless)


def test_a_docker_that_does_not_answer_is_named(home, engine, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")

    with pytest.raises(InvalidRequest, match=r"Docker does not answer.*Start it"):
        run(telling)


SLEEPING = """
import sys
from kfp import dsl
from components.step import step
from pipelines.local.containers import Containers
from pipelines.local.runner import run_locally
from tripcast.settings import Settings

@step
def sleep(marker: str) -> None:
    import time
    open(marker, "w").close()
    time.sleep(600)

@dsl.pipeline(name="sleeping")
def sleeping(marker: str):
    sleep(marker=marker)

settings = Settings.load()
run_locally(sleeping, {"marker": sys.argv[1]}, settings.runs, lambda event: None, Containers(settings))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_container(home, engine, how, tmp_path):
    script, marker = tmp_path / "sleeping.py", home / "marker"
    script.write_text(SLEEPING)
    before = own_containers(engine)
    run = subprocess.Popen(
        [sys.executable, script, marker],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(marker.exists)
    assert len(own_containers(engine) - before) == 1

    run.send_signal(how)
    _, errors = run.communicate(timeout=60)

    assert run.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert own_containers(engine) == before


def test_a_run_that_is_stopped_starts_no_further_container(home, engine):
    containers = Containers(Settings.load())
    folder = home / "runs" / "run" / "step"
    folder.mkdir(parents=True)
    containers.prepare(home / "runs")
    with containers.patched_kfp(lambda command, execute: execute(folder, lambda line: None), home):
        stopping = threading.Thread(target=containers.stop)
        stopping.start()
        stopping.join()
        assert docker_task_handler.run_docker_container(engine, IMAGE, ["true"], {}) == 1
