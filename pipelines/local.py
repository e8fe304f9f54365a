"""Running a pipeline on this machine, each step a process: kfp's local runner, with what it lacks.

kfp prints every step's log to standard output, forgets the reason of a failure and leaves running steps behind when
it is interrupted. So this module puts its own function in the place of the one that starts a step's process. That
function is private to kfp, which is therefore pinned exactly; tests/pipelines/test_local.py fails if it changes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import local
from kfp.dsl.graph_component import GraphComponent
from kfp.local import subprocess_task_handler

from tripcast import errors
from tripcast.progress import StepEvent
from tripcast.storage import writing

#: The last line of a traceback that ends in one of tripcast's own errors.
_EXPECTED_ERROR = re.compile(r"^tripcast\.errors\.(\w+): ", re.MULTILINE)

#: A line of a progress bar: `ingest 2021-01:  45%|████▌     | ...`.
_PROGRESS = re.compile(r"\d+%\|")

#: kfp runs two tasks of a fan-out at a time: each computes on half of the cores.
_THREADS = str(max(1, (os.cpu_count() or 1) // 2))

#: Parameters that tell the tasks of a fan-out apart.
_LABELS = ("month", "candidate")


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
    _processes: set[subprocess.Popen[str]] = field(default_factory=set)
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

    def _run_step(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Stands in for kfp's function of the same signature: run a step's command, give its exit code."""
        executor_input = json.loads(full_command[full_command.index("--executor_input") + 1])
        folder = Path(executor_input["outputs"]["outputFile"]).parent
        self._folder = self.root / folder.relative_to(self.root).parts[0]
        parameters = executor_input.get("inputs", {}).get("parameterValues", {})
        step = folder.name
        label = " ".join([step, *(parameters[name] for name in _LABELS if name in parameters)])
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"

        if self._stopped:
            return 1
        started = time.monotonic()
        self._notify(StepEvent(step, label, "started"))
        with subprocess.Popen(
            full_command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,  # with universal newlines, so that each refresh of a progress bar is a line
            errors="replace",
            env={"OMP_NUM_THREADS": _THREADS, **os.environ, **(env_vars or {})},
            start_new_session=True,  # the command is a shell with the step below it: they are ended together
        ) as process:
            with self._lock:
                self._processes.add(process)
            assert process.stdout is not None
            with log.open("w") as file:
                for line in process.stdout:
                    if _PROGRESS.search(line):
                        seconds = time.monotonic() - started
                        self._notify(StepEvent(step, label, "progress", seconds, line.strip()))
                    else:
                        file.write(line)
                        file.flush()
            code = process.wait()
        with self._lock:
            self._processes.discard(process)
            if code != 0 and self._failure is None:
                self._failure = _failure(label, log, code)
        self._notify(StepEvent(step, label, "failed" if code else "succeeded", time.monotonic() - started))
        return code

    def _stop(self) -> None:
        """End the steps that run, and start no more."""
        self._stopped = True
        for process in list(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run_locally(
    pipeline: GraphComponent, arguments: dict[str, Any], root: Path, notify: Callable[[StepEvent], None]
) -> LocalRun:
    """Run a pipeline on this machine and wait for its end.

    Args:
        pipeline: The pipeline.
        arguments: Its parameters, by name.
        root: Folder in which the run gets a folder of its own; made if it is not there.
        notify: Called with everything that happens, from several threads.

    Returns:
        The run, to read its outputs from.

    Raises:
        TripcastError: The error that a step ended with, if it was one of tripcast's own.
        StepFailed: If a step failed in any other way.
        KeyboardInterrupt: If interrupted; no step is left running.
    """
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    run = LocalRun(root, notify)
    with TemporaryDirectory(prefix="tripcast-") as scratch, _in_place_of_kfp(run, scratch), _stopping(run):
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            workspace_root=scratch + "/workspace",
        )
        try:
            pipeline(**arguments)
        except RuntimeError:
            # kfp says only that a task failed; the reason was read from the step's log.
            if run._failure is None:
                raise
            raise run._failure from None
    return run


@contextlib.contextmanager
def _in_place_of_kfp(run: LocalRun, scratch: str) -> Iterator[None]:
    """Run steps with `LocalRun._run_step`, and keep kfp's own talk off standard output: the steps' logs say more."""
    original = subprocess_task_handler.run_local_subprocess
    temporary = os.environ.get("TMPDIR")
    subprocess_task_handler.run_local_subprocess = run._run_step
    os.environ["TMPDIR"] = scratch  # each step leaves a folder behind there
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), warnings.catch_warnings():
            # That limits and images mean nothing to local processes is known.
            warnings.filterwarnings("ignore", module="kfp")
            yield
    finally:
        logging.disable(logging.NOTSET)
        subprocess_task_handler.run_local_subprocess = original
        if temporary is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = temporary


@contextlib.contextmanager
def _stopping(run: LocalRun) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, end the steps that run before anything waits for them."""

    def stop(signum: int, frame: object) -> None:
        run._stop()
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
    # A shell says of a child that a signal ended: 128 and the signal's number.
    if code > 128:
        return StepFailed(label, log, f"it was ended by signal {signal.Signals(code - 128).name}.")
    return StepFailed(label, log, f"{text.splitlines()[-1] if text else 'it said nothing'}.")
