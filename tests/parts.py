"""What tests need beside Python: found, or said to be missing; and for what they start, ports and patience."""

import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

GO_PROGRAMS = Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin"


def missing(part: str, remedy: str) -> NoReturn:
    """A failure where everything is to be tested, a skip on a laptop that lacks a part."""
    if os.environ.get("CI"):
        pytest.fail(f"{part} is missing. {remedy}")
    pytest.skip(f"{part} is missing. {remedy}")


def program(name: str, remedy: str, place: Path = GO_PROGRAMS) -> str:
    """The path of a program that is on the path or in a place."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(place)])) or missing(name, remedy)


#: Ports that no system hands out, each once, in an order that no seed decides; pytest-xdist's workers share none.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = list(range(20_000 + _WORKER, 30_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
random.SystemRandom().shuffle(_PORTS)


def free_port() -> int:
    """A port that nobody listens on, and that nobody else is given: free until a server takes it, or restarts."""
    while True:
        port = _PORTS.pop()
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("", port))
            return port


def wait_for(condition: Callable[[], bool], output: Path | None = None, seconds: float = 120.0) -> None:
    """Ask again and again until something is so; fail when it does not come to be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, output.read_text() if output else "It did not come to be."
        time.sleep(0.02)


def is_running(process_id: int) -> bool:
    """Where nobody reaps orphans, an ended process stays behind as a zombie."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
        return False
    return state != "Z"
