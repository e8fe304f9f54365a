"""Running a pipeline on this machine: kfp's local runner, with what it lacks.

kfp prints every step's log to standard output, forgets the reason of a failure and leaves running steps behind when
it is interrupted. So tripcast puts functions of its own in the place of those that start a step's process or container
(``pipelines/processes.py``, ``pipelines/containers.py``). They are private to kfp, which is therefore pinned exactly;
tests/pipelines/test_local.py and tests/containers/test_containers.py fail if they change.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import errno
import json
import logging
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from kfp import local
from kfp.dsl.graph_component import GraphComponent

from pipelines.local.artifacts import RunArtifacts
from pipelines.local.backend import NotHandedOn, as_protojson_writes, check_metadata
from pipelines.local.leftovers import alive, clean_up
from pipelines.progress import StepEvent
from tripcast import errors
from tripcast.storage.files import storage_errors
from tripcast.storage.store import Store

#: The last line of a traceback that ends in one of tripcast's own errors.
_EXPECTED_ERROR = re.compile(r"^tripcast\.errors\.(\w+): ", re.MULTILINE)

#: A line of a progress bar: `ingest 2021-01:  45%|████▌     | ...`.
_PROGRESS = re.compile(r"\d+%\|")

#: Parameters that tell the tasks of a fan-out apart.
_LABELS = ("month", "candidate")


#: Takes a line of a step's output.
LineHandler = Callable[[str], None]

#: Carries out a step's command, given the step's folder; returns the exit code.
Execute = Callable[[Path, LineHandler], int]

#: Runs a step, given its command and what carries it out; returns the exit code.
RunStep = Callable[[list[str], Execute], int]


class Runner(Protocol):
    """What carries out the steps of a run.

    Attributes:
        name: The run's own, to know again what it leaves behind.
    """

    name: str

    def prepare(self, root: Path) -> None:
        """Make sure that steps can run, with their files below a folder.

        Raises:
            TripcastError: If they cannot.
        """

    def kfp_runner(self) -> Any:
        """What kfp is to be initialised with."""

    def patched_kfp(self, run_step: RunStep, scratch: Path) -> contextlib.AbstractContextManager[None]:
        """Have kfp's steps run by a function, and started by this, while the body runs.

        Args:
            run_step: The function.
            scratch: A folder for temporary files of the run.
        """

    def stop(self) -> None:
        """End every step that runs."""

    def end(self, name: str) -> None:
        """End what is left of another run, which was killed."""


class StepFailed(errors.TripcastError):
    """A step of a local run failed with something that is not one of tripcast's own errors: a defect.

    Args:
        label: Which task.
        log: Its log file.
        reason: The last line of its log.
    """

    def __init__(self, label: str, log: Path, reason: str) -> None:
        super().__init__(f"The step '{label}' failed: {reason} Its log: {log}")


@dataclass
class LocalRun:
    """A run of a pipeline on this machine.

    Attributes:
        root: The folder that the runs' own folders are made in.
    """

    root: Path
    _notify: Callable[[StepEvent], None]
    _folder: Path | None = None
    _published: RunArtifacts | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failure: Exception | None = None
    _stopped: bool = False

    @property
    def folder(self) -> Path:
        """Where this run's steps leave their files, each in a folder of its own.

        Raises:
            RuntimeError: Before the first step.
        """
        if self._folder is None:
            raise RuntimeError("No step of this run has started yet.")
        return self._folder

    def output(self, step: str) -> dict[str, Any]:
        """What a step that runs once left behind: parameters by name, and artifacts' paths by name.

        Raises:
            KeyError: If the step did not run.
        """
        for file in self.folder.glob(f"{step}/executor_output.json"):
            output = json.loads(file.read_text())
            artifacts = {name: entry["artifacts"][0]["uri"] for name, entry in output.get("artifacts", {}).items()}
            return {**artifacts, **output.get("parameterValues", {})}
        raise KeyError(f"The step '{step}' did not run.")

    def _run_step(self, command: list[str], execute: Execute) -> int:
        """Have a step's command carried out, watch it, and return its exit code."""
        told = command.index("--executor_input") + 1
        executor_input = as_protojson_writes(json.loads(command[told]))
        command[told] = json.dumps(executor_input)
        folder = Path(executor_input["outputs"]["outputFile"]).parent
        self._folder = self.root / folder.relative_to(self.root).parts[0]
        parameters = executor_input.get("inputs", {}).get("parameterValues", {})
        step = folder.name
        label = " ".join([step, *(parameters[name] for name in _LABELS if name in parameters)])
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"

        if self._stopped:
            return 1
        started = time.monotonic()
        self._notify(StepEvent(step, label, "started"))
        failure: Exception | None = None
        with log.open("wb", buffering=0) as file:  # so that closing it writes nothing: the disk may be full

            def say(line: str) -> None:
                if _PROGRESS.search(line):
                    self._notify(StepEvent(step, label, "progress", time.monotonic() - started, line.strip()))
                else:
                    with storage_errors(log):
                        file.write(line.encode())

            try:
                code = execute(folder, say)
                output = folder / "executor_output.json"  # not there after a step without outputs
                if code == 0 and output.is_file():
                    check_metadata(json.loads(output.read_text()))
                    if self._published:
                        self._published.publish(folder, executor_input)
            except NotHandedOn as refusal:
                code, failure = 1, StepFailed(label, log, str(refusal))
            except Exception as error:  # kfp would swallow it
                code, failure = 1, error
        with self._lock:
            if code != 0 and self._failure is None:
                self._failure = failure or _failure(label, log, code)
        self._notify(StepEvent(step, label, "failed" if code else "succeeded", time.monotonic() - started))
        return code


def run_locally(
    pipeline: GraphComponent,
    arguments: dict[str, Any],
    root: Path,
    notify: Callable[[StepEvent], None],
    runner: Runner,
    store: Store | None = None,
) -> LocalRun:
    """Run a pipeline on this machine and wait for its end.

    Args:
        pipeline: The pipeline.
        arguments: Its parameters, by name.
        root: Folder in which the run gets a folder of its own; made if it is not there.
        notify: Called with everything that happens, from several threads.
        runner: What carries the steps out.
        store: Where every step's artifacts go as well, when it has succeeded; None keeps them in the folder alone.

    Returns:
        The run, to read its outputs from.

    Raises:
        TripcastError: The error that a step ended with, if it was one of tripcast's own.
        StepFailed: If a step failed in any other way.
        KeyboardInterrupt: If interrupted; no step is left running.
    """
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    runner.prepare(root)
    with storage_errors(root):
        clean_up(root, runner.end)
    run = LocalRun(root, notify, _published=RunArtifacts(store, root) if store else None)
    with (
        TemporaryDirectory(prefix="tripcast-") as scratch,
        storage_errors(root),  # whatever writes there, kfp as well
        alive(root, runner.name, Path(scratch)),
        runner.patched_kfp(run._run_step, Path(scratch)),
        _quiet_kfp(scratch),
        _stopping(run, runner),
    ):
        local.init(runner=runner.kfp_runner(), pipeline_root=str(root), workspace_root=scratch + "/workspace")
        try:
            _for_this_machine(pipeline)(**arguments)
        except RuntimeError:
            # kfp says only that a task failed; the reason was read from the step's log.
            if run._failure is None:
                raise
            raise run._failure from None
    return run


def _for_this_machine(pipeline: GraphComponent) -> GraphComponent:
    """A pipeline without that part of its policy which kfp would follow here, too.

    A failure is to be reported at once, not tried again; and how many threads there are, and which image runs, is for
    this machine to say.
    """
    local_pipeline = copy.deepcopy(pipeline)
    specification = local_pipeline.pipeline_spec
    for component in (specification.root, *specification.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
    for executor in specification.deployment_spec["executors"].values():
        executor["container"].fields.pop("env", None)
    return local_pipeline


@contextlib.contextmanager
def _quiet_kfp(scratch: str) -> Iterator[None]:
    """Keep kfp's own talk off standard output: the steps' logs say more. And its temporary folders in one place."""
    temporary = os.environ.get("TMPDIR")
    plain_print = builtins.print  # kfp indents it a step, and steps beside each other leave each other's behind
    os.environ["TMPDIR"] = scratch  # each step leaves a folder behind there
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), warnings.catch_warnings():
            # That limits and images mean nothing to local processes is known.
            warnings.filterwarnings("ignore", module="kfp")
            yield
    finally:
        builtins.print = plain_print
        logging.disable(logging.NOTSET)
        if temporary is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = temporary


@contextlib.contextmanager
def _stopping(run: LocalRun, runner: Runner) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, end the steps that run before anything waits for them, and start no more."""

    def stop(signum: int, frame: object) -> None:
        run._stopped = True
        runner.stop()
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _failure(label: str, log: Path, code: int) -> Exception:
    """What a failed step's log says of the reason."""
    text = log.read_text().rstrip()
    expected = list(_EXPECTED_ERROR.finditer(text))
    if expected:
        kind: type[errors.TripcastError] = getattr(errors, expected[-1][1])
        return kind(text[expected[-1].end() :])
    if f"[Errno {errno.ENOSPC}]" in text:
        free = shutil.disk_usage(log.parent).free / 1e6
        return errors.StorageError(
            f"The step '{label}' found no space left on a disk ({free:,.0f} MB free at {log.parent}). Free some, "
            "or name another home with --home, then run again."
        )
    # A shell says of a child that a signal ended: 128 and the signal's number.
    if code > 128:
        return StepFailed(label, log, f"it was ended by signal {signal.Signals(code - 128).name}.")
    return StepFailed(label, log, f"{text.splitlines()[-1] if text else 'it said nothing'}.")
