"""What carries out the steps of a run on this machine, and how kfp is brought to use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kfp.local import subprocess_task_handler
from kfp.local.status import Status

#: Takes a line of a step's output.
LineHandler = Callable[[str], None]


@dataclass(frozen=True)
class Command:
    """A step, ready to be started.

    Attributes:
        image: The container image that holds its program.
        arguments: The program and its arguments.
        environment: What it is to find in its environment beside what every step finds there.
        folder: Where it leaves its files.
    """

    image: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path


class Executor(Protocol):
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

    def run(self, command: Command, on_line: LineHandler) -> int:
        """Carry a step out, and return its exit code.

        Raises:
            TripcastError: If it cannot be started.
        """

    def stop(self) -> None:
        """End every step that runs."""

    def end(self, name: str) -> None:
        """End what is left of another run, which was killed."""


@contextlib.contextmanager
def patched_kfp(run_step: Callable[[str, list[str], dict[str, str]], int]) -> Iterator[None]:
    """Have a function carry out kfp's steps while the body runs, in the place of kfp's handler of subprocesses.

    Args:
        run_step: Takes a step's image, its command and its environment, and returns the exit code.
    """

    class Handler:
        def __init__(
            self,
            image: str,
            full_command: list[str],
            pipeline_root: str,
            runner: Any,
            env_vars: dict[str, str] | None = None,
        ) -> None:
            self._step = image, full_command, env_vars or {}

        def run(self) -> Status:
            return Status.FAILURE if run_step(*self._step) else Status.SUCCESS

    original = subprocess_task_handler.SubprocessTaskHandler
    subprocess_task_handler.SubprocessTaskHandler = Handler
    try:
        yield
    finally:
        subprocess_task_handler.SubprocessTaskHandler = original
