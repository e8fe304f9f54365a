"""A worker in a pod of its own: what runs there, beside the step whose pod has made it (``tripcast.models.pods``).

``python -m tripcast.models.pod_worker MODULE JOB NUMBER STEP``.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tripcast.settings import Settings
from tripcast.storage.store import Store, open_store

#: Where workers listen to each other, and the step to them (deploy/base/steps/workers.yaml). LightGBM's own default.
PORT = 12400

#: Seconds between two attempts to find another worker's address.
_PAUSE = 1


def place_of(job: str) -> str:
    """The key in the artifact store below which the task of a Job is."""
    return f"workers/{job}/"


def fetch(store: Store, job: str, task: Path, wanted: Callable[[str], bool]) -> None:
    """Fetch the files of a task that are wanted, by their paths in it, into its folder."""
    place = place_of(job)
    for key in (key.removeprefix(place) for key in store.list(place)):
        if wanted(key):
            store.get(f"{place}{key}", task / key)


def main(module: str, job: str, number: str, step: str) -> None:
    """Work as one of the workers, in its pod.

    Args:
        module: What to run.
        job: The Job's name.
        number: How many workers there are.
        step: The IP address of the step's pod.
    """
    end_with(step)
    rank = os.environ["JOB_COMPLETION_INDEX"]
    # All have started when all names are known. Only then is anything fetched, which takes all of them about as long:
    # LightGBM gives the others two minutes to listen.
    addresses = ",".join(f"{_address(f'{job}-{other}.{job}')}:{PORT}" for other in range(int(number)))
    with TemporaryDirectory() as folder:
        work(module, job, Path(folder), rank, addresses)


def work(module: str, job: str, task: Path, rank: str, addresses: str) -> None:
    """Fetch a worker's part of the task, run its module on it, and keep what it has written."""
    store = open_store(Settings.load().artifacts)
    fetch(store, job, task, lambda key: key.split("/")[0] == rank or not key.split("/")[0].isdigit())
    given = set(task.rglob("*"))
    sys.argv = [module, str(task), rank, addresses]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    for file in (task / rank).rglob("*"):
        if file not in given:
            store.put(file, f"{place_of(job)}{file.relative_to(task)}")


def end_with(step: str) -> None:
    """End this process as soon as the step's has ended, whose address this is."""
    connection = socket.create_connection((step, PORT), timeout=60)
    connection.settimeout(None)

    def watch() -> None:
        with suppress(OSError):
            connection.recv(1)
        print("The step has ended.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _address(name: str) -> str:
    """The IPv4 address of a pod, once it has started: LightGBM takes no names."""
    while True:  # as long as the Job may take
        with suppress(socket.gaierror):
            return socket.gethostbyname(name)
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
