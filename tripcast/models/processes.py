"""Workers as processes of this machine, and what is said of a worker that ends too soon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tripcast.errors import WorkerError

#: Of every worker. They wait for each other at every split, and OpenMP's threads would spin on cores that others need.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

#: Seconds between two looks at the workers.
_PAUSE = 0.2


def run_processes(number: int, module: str, task: Path) -> None:
    """Let processes of this machine be workers; arguments and errors as ``Workers.run``."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in _free_ports(number))
    command, environment = [sys.executable, "-m", module, str(task)], {**os.environ, **ENVIRONMENT}
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context((task / f"worker-{rank}.log").open("w")) for rank in range(number)]
        running = [
            subprocess.Popen([*command, str(rank), addresses], env=environment, stdout=output, stderr=subprocess.STDOUT)
            for rank, output in enumerate(outputs)
        ]
        try:
            _wait(running, task)
        finally:
            for process in running:
                process.kill()
                process.wait()


def ended_by_signal(worker: str, number: int) -> str:
    """The sentence about a worker that a signal has ended."""
    return (
        f"{worker} was ended by {signal.Signals(number).name}, which the kernel does where memory is short, and the "
        "training with it. Train again, with more memory or more workers."
    )


def failed(worker: str, said: str) -> str:
    """The sentence about a worker that ended with an error, the last line of what it said."""
    last = next((line for line in reversed(said.split("\n")) if line.strip()), "it said nothing")
    return f"{worker} failed, and the training with it: {last}"


def _wait(running: list[subprocess.Popen[bytes]], task: Path) -> None:
    while True:
        codes = [process.poll() for process in running]
        # One that was killed comes before those that ended because it was gone.
        for rank, code in sorted(enumerate(codes), key=lambda item: item[1] or 0):
            worker = f"Worker {rank + 1} of {len(running)}"
            if code and code < 0:
                raise WorkerError(ended_by_signal(worker, -code))
            if code:
                raise WorkerError(failed(worker, (task / f"worker-{rank}.log").read_text(errors="replace")))
        if not any(code is None for code in codes):
            return
        time.sleep(_PAUSE)


def _free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
