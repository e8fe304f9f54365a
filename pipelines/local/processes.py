"""Steps as processes of this machine: the laptop's runner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from kfp import local
from kfp.local import subprocess_task_handler

from pipelines.local.leftovers import end_processes, step_lock
from pipelines.local.runner import LineHandler, RunStep

#: kfp runs two tasks of a fan-out at a time: each computes on half of the cores.
THREADS = str(max(1, (os.cpu_count() or 1) // 2))


class Processes:
    """Runs each step as a process, in this very environment."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._root = Path()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def prepare(self, root: Path) -> None:
        """Nothing has to be there beforehand."""
        self._root = root

    def end(self, name: str) -> None:
        """End the steps of another run, which was killed."""
        end_processes(self._root, name)

    def kfp_runner(self) -> local.SubprocessRunner:
        """What kfp is to be initialised with."""
        return local.SubprocessRunner(use_venv=False)

    @contextlib.contextmanager
    def patched_kfp(self, run_step: RunStep, scratch: Path) -> Iterator[None]:
        """Start steps here while the body runs, not in kfp's private function of the same signature."""

        def replacement(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
            return run_step(full_command, lambda folder, say: self._execute(full_command, env_vars or {}, say))

        original = subprocess_task_handler.run_local_subprocess
        subprocess_task_handler.run_local_subprocess = replacement
        try:
            yield
        finally:
            subprocess_task_handler.run_local_subprocess = original

    def _execute(self, command: list[str], environment: dict[str, str], say: LineHandler) -> int:
        with (
            step_lock(self._root, self.name) as lock,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,  # with universal newlines, so that each refresh of a progress bar is a line
                errors="replace",
                # A folder `tripcast` in the current one, the clone itself seen from above, is not the package.
                env={"OMP_NUM_THREADS": THREADS, "PYTHONSAFEPATH": "1", **os.environ, **environment},
                start_new_session=True,  # the command is a shell with the step below it: they are ended together
                pass_fds=(lock.fileno(),),
            ) as process,
        ):
            with self._lock:
                self._running.add(process)
            lock.write(str(process.pid))
            lock.flush()
            assert process.stdout is not None
            for line in process.stdout:
                say(line)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def stop(self) -> None:
        """End every step that runs."""
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
