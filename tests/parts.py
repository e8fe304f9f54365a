"""What tests need beside Python: found, or said to be missing; and ports for what they start."""

import os
import random
import shutil
import socket
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


def free_port() -> int:
    """A port that nobody listens on, of those that no system hands out: free until a server takes it, or restarts."""
    while True:
        port = random.SystemRandom().randint(20_000, 29_999)
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("", port))
            return port
