"""The local runner: what it shows, what it says of a failure, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from kfp import dsl
from kfp.local import subprocess_task_handler
from kfp.local.logging_utils import indented_print

from components.step import step
from pipelines.local.laptop import run_here
from pipelines.local.processes import Processes
from pipelines.local.runner import StepFailed, _quiet_kfp, run_locally
from pipelines.progress import StepEvent
from tests.parts import is_running, wait_for
from tripcast import __version__
from tripcast.errors import SourceError, StorageError
from tripcast.settings import Settings


@step
def shout(month: str, text: dsl.Output[dsl.Artifact]) -> int:
    with open(text.path, "w") as file:
        file.write(month.upper())
    print("not for standard output")
    return len(month)


@step
def miss_a_month() -> int:
    from tripcast.errors import SourceError

    try:
        raise SourceError("an earlier one")
    except SourceError as error:
        raise SourceError("There is no 2021-13.\nAsk for another.") from error


@step
def break_down() -> int:
    raise ZeroDivisionError("one by none")


@step
def fill_the_disk(made: dsl.Output[dsl.Artifact]):
    with open("/dev/full", "w") as file:
        file.write("more than there is room for")


@dsl.pipeline(name="filling")
def filling():
    fill_the_disk()


@step
def be_killed() -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@step
def describe(value: str, made: dsl.Output[dsl.Artifact]):
    import json

    made.metadata.update(json.loads(value))


@step
def look_at(made: dsl.Input[dsl.Artifact], share: float) -> str:
    import json

    return json.dumps({**made.metadata, "share": share}, sort_keys=True)


@dsl.pipeline(name="describing")
def describing(value: str, share: float = 1.0):
    described = describe(value=value)
    look_at(made=described.outputs["made"], share=share)


@dsl.pipeline(name="shouting")
def shouting(month: str = "may"):
    shout(month=month)


@dsl.pipeline(name="fanned-out")
def fanned_out():
    with dsl.ParallelFor(["may", "june", "july"]) as month:
        shout(month=month)


@step
def name_the_version() -> str:
    from tripcast import __version__

    return __version__


@dsl.pipeline(name="versioned")
def versioned():
    name_the_version()


@dsl.pipeline(name="missing")
def missing(taxi: str = "green"):
    miss_a_month()


@dsl.pipeline(name="breaking")
def breaking():
    break_down()


@dsl.pipeline(name="killed")
def killed():
    be_killed()


def test_a_folder_of_the_packages_name_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "tripcast").mkdir()  # as the clone is, seen from the folder above
    monkeypatch.chdir(tmp_path)

    run = run_locally(versioned, {}, tmp_path / "runs", lambda event: None, Processes())

    assert run.output("name-the-version")["Output"] == __version__


def test_a_steps_outputs_can_be_read(tmp_path):
    run = run_locally(shouting, {"month": "june"}, tmp_path, lambda event: None, Processes())

    output = run.output("shout")
    assert output["Output"] == 4
    with open(output["text"]) as file:
        assert file.read() == "JUNE"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"months": ["2021-01"]}, r"as 'months'. Metadata is strings and numbers: .* hands a list on as {\"list\": "),
        ({"tags": {"a": "b"}}, r"as 'tags'. .* hands a dictionary on as {\"struct\": {...}}"),
        ({"better": True}, "it put true into the metadata of its artifact 'made', as 'better'. .* as 1 or 0"),
        ({"champion": None}, "it put null .*, as 'champion'. .* refuses None"),
    ],
    ids=["a list", "a dictionary", "a boolean", "None"],
)
def test_metadata_that_kubeflow_would_change_is_refused(tmp_path, value, sentence):
    with pytest.raises(StepFailed, match=sentence):
        run_locally(describing, {"value": json.dumps(value)}, tmp_path, lambda event: None, Processes())


def test_numbers_arrive_as_kubeflow_writes_them(tmp_path):
    value = {"rows": 3, "seconds": 3.0, "rmse": 3.5, "name": "3.0"}

    run = run_locally(describing, {"value": json.dumps(value)}, tmp_path, lambda event: None, Processes())

    assert run.output("look-at")["Output"] == '{"name": "3.0", "rmse": 3.5, "rows": 3, "seconds": 3, "share": 1}'


def test_a_step_that_did_not_run_has_no_output(tmp_path):
    run = run_locally(shouting, {}, tmp_path, lambda event: None, Processes())

    with pytest.raises(KeyError, match="'register' did not run"):
        run.output("register")


def test_every_task_is_announced_by_its_month(tmp_path):
    events: list[StepEvent] = []

    run_locally(fanned_out, {}, tmp_path, events.append, Processes())

    for month in ("may", "june", "july"):
        assert [event.state for event in events if event.label == f"shout {month}"] == ["started", "succeeded"]
    assert {event.step for event in events} == {"shout"}


def test_standard_output_stays_empty_and_the_log_is_kept(tmp_path, capfd):
    run_locally(shouting, {}, tmp_path, lambda event: None, Processes())

    assert capfd.readouterr().out == ""
    (log,) = tmp_path.glob("shouting-*/shout/log.txt")
    assert "not for standard output" in log.read_text()


def test_no_folder_is_left_behind_for_temporary_files(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)

    run_locally(shouting, {}, tmp_path / "run", lambda event: None, Processes())

    assert list(scratch.iterdir()) == []


def test_an_error_of_tripcast_comes_back_as_itself(tmp_path):
    with pytest.raises(SourceError) as caught:
        run_locally(missing, {}, tmp_path, lambda event: None, Processes())

    assert str(caught.value) == "There is no 2021-13.\nAsk for another."


def test_people_are_told_of_a_run_that_fails_here(tmp_path, monkeypatch):
    told: list[dict] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Channel) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("TRIPCAST_ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(SourceError):
            run_here(missing, {"taxi": "green"}, Settings.load(), lambda event: None)
        server.shutdown()

    (alert,) = told
    assert alert["text"].startswith("Green taxis: the run of 'missing' on ")
    assert "failed at the step 'miss-a-month'." in alert["text"]
    assert "There is no 2021-13." in alert["text"]


def test_any_other_failure_names_the_step_the_reason_and_the_log(tmp_path):
    with pytest.raises(StepFailed, match=r"'break-down' failed: ZeroDivisionError: one by none.*log\.txt"):
        run_locally(breaking, {}, tmp_path, lambda event: None, Processes())


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"The step 'fill-the-disk' found no space left on a disk .* MB free"):
        run_locally(filling, {}, tmp_path, lambda event: None, Processes())


def test_a_log_that_finds_no_space_is_named(tmp_path, monkeypatch):
    opened = Path.open

    def open_full(path: Path, *how, **more):
        return opened(Path("/dev/full") if path.name == "log.txt" else path, *how, **more)

    monkeypatch.setattr(Path, "open", open_full)

    with pytest.raises(StorageError, match=r"log\.txt cannot be written: No space left on device .* MB free"):
        run_locally(shouting, {}, tmp_path, lambda event: None, Processes())


def test_a_killed_step_fails_the_run(tmp_path):
    with pytest.raises(StepFailed, match="ended by signal SIGKILL"):
        run_locally(killed, {}, tmp_path, lambda event: None, Processes())


def test_kfps_own_function_is_put_back(tmp_path):
    before = subprocess_task_handler.run_local_subprocess

    run_locally(shouting, {}, tmp_path, lambda event: None, Processes())

    assert subprocess_task_handler.run_local_subprocess is before
    assert before.__module__ == "kfp.local.subprocess_task_handler"


def test_print_is_put_back_after_steps_beside_each_other(tmp_path, capsys):
    with _quiet_kfp(str(tmp_path)):
        earlier, later = indented_print(), indented_print()  # as kfp enters it once for each step, in threads
        earlier.__enter__()
        later.__enter__()
        earlier.__exit__(None, None, None)
        later.__exit__(None, None, None)

    print("as it is")
    assert capsys.readouterr().out == "as it is\n"


SLEEPING = """
import sys
from pathlib import Path
from kfp import dsl
from components.step import step
from pipelines.local.runner import run_locally
from pipelines.local.processes import Processes

@step
def sleep(marker: str):
    import os, time
    with open(marker, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

@dsl.pipeline(name="sleeping")
def sleeping(marker: str):
    sleep(marker=marker)

run_locally(sleeping, {"marker": sys.argv[1]}, Path(sys.argv[2]), lambda event: None, Processes())
"""


def test_a_killed_runs_step_and_temporary_files_end_with_the_next_run(tmp_path):
    script, marker, scratch = tmp_path / "sleeping.py", tmp_path / "marker", tmp_path / "scratch"
    script.write_text(SLEEPING)
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(scratch)}
    run = subprocess.Popen([sys.executable, script, marker, tmp_path / "run"], env=environment)
    wait_for(lambda: marker.exists() and bool(marker.read_text()))
    run.kill()
    run.wait()
    assert is_running(int(marker.read_text()))

    run_locally(shouting, {}, tmp_path / "run", lambda event: None, Processes())

    assert not is_running(int(marker.read_text()))
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "run" / ".running").iterdir()) == []


def test_a_run_leaves_another_that_lives_alone(tmp_path):
    script, marker = tmp_path / "sleeping.py", tmp_path / "marker"
    script.write_text(SLEEPING)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.Popen([sys.executable, script, marker, tmp_path / "run"], env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: marker.exists() and bool(marker.read_text()))

    run_locally(shouting, {}, tmp_path / "run", lambda event: None, Processes())

    assert is_running(int(marker.read_text()))
    run.send_signal(signal.SIGTERM)
    run.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_step_running(tmp_path, how):
    script, marker = tmp_path / "sleeping.py", tmp_path / "marker"
    script.write_text(SLEEPING)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.Popen(
        [sys.executable, script, marker, tmp_path / "run"], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: marker.exists() and bool(marker.read_text()))
    step_id = int(marker.read_text())

    run.send_signal(how)
    _, errors = run.communicate(timeout=60)

    assert run.returncode != 0
    assert "KeyboardInterrupt" in errors
    wait_for(lambda: not is_running(step_id))  # it was killed, and may still be about to end
