"""Follows the registry, in a process of its own, and keeps a local copy of what it says should serve.

    python -m tripcast.serving.registry_poller --model tripcast-green --check tripcast.taxi.web.version_check

Every poll ends with one line of JSON on standard output (``Report``). A line with a number on standard input asks for a
poll at once, and the report of a poll that began after it carries that number. The process ends with its standard
input, so that it never outlives the service that started it, however that one ended.

MLflow is imported here and nowhere else in the service: it would take seconds and a hundred megabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tripcast.errors import SignatureError, StorageError, TrackingError, TripcastError
from tripcast.serving.model_cache import DesiredState, ModelCache, ServedVersion, encode
from tripcast.serving.version_trial import VersionTrials
from tripcast.settings import Settings

#: Seconds between two polls.
POLL_SECONDS = 5.0

#: The service wants the processor first.
_NICENESS = 10

#: MLflow's client would try for minutes by itself, where the next poll is the next try; and draw progress bars.
_MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Report:
    """What a poll found.

    Attributes:
        desired: What should serve, every model folder of it whole; None if that is not known.
        errors: What went wrong, a sentence each: the registry did not answer, a version could not be had.
        asked: The last number that was read from standard input before the poll began.
        figures: What was last measured of the model (``Registry.publish``).
    """

    desired: DesiredState | None
    errors: list[str] = field(default_factory=list)
    asked: int = 0
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class RegistryPoller:
    """Follows one registered model.

    Args:
        model: Its name, for example ``tripcast-green``.
        settings: Where the registry and the local copy are.
        check: The module that tries a version (``VersionTrials``).
    """

    def __init__(self, model: str, settings: Settings, check: str) -> None:
        self._model = model
        self._settings = settings
        self._copy = ModelCache(settings.home, model)
        self._trials = VersionTrials(check)
        with suppress(StorageError):  # what served last has been tried
            self._trials.passed(last.folders if (last := self._copy.read()) else set())

    def poll(self, asked: int = 0) -> Report:
        """Ask the registry what should serve, and fetch what is not here yet.

        Args:
            asked: Goes into the report.
        """
        try:
            return self._poll(asked)
        except TripcastError as error:
            return Report(None, [str(error)], asked)
        except Exception as error:  # of an artifact store's client, perhaps: the next poll may do better
            return Report(None, [f"{type(error).__name__}: {error}"], asked)

    def _poll(self, asked: int) -> Report:
        from tripcast.registry.registry import DIGEST, Registry, Version

        # Anew each time: after an outage nothing of the broken connection is left.
        registry = Registry(self._model, self._settings)

        def is_signed(version: Version, folder: Path) -> bool:
            try:
                registry.verify(version, folder)
            except SignatureError:
                return False
            return True

        def fetch(version: Version) -> ServedVersion:
            digest = version.tags.get(DIGEST)
            if digest is None:
                raise TrackingError(
                    f"{registry.name} version {version.number} does not say which model it holds (tag {DIGEST}). "
                    "Register it with tripcast, or point the alias at a version that was."
                )
            folder = self._copy.model(digest)
            if not _is_whole(folder, digest) or not is_signed(version, folder):
                with self._copy.scratch() as scratch:
                    fetched = registry.download(version, scratch)
                    if not _is_whole(fetched, digest):
                        raise StorageError(
                            f"The artifact store holds another model than {registry.name} version {version.number} "
                            f"was registered with ({digest[:12]}). Register the model again and promote that version."
                        )
                    self._copy.keep(fetched, digest)
            self._trials.require(version.number, folder)
            return ServedVersion(version.number, folder, version.tags)

        traffic = registry.traffic()
        if traffic.champion is None:
            return Report(
                None, [f"{registry.name} has no champion: 'tripcast train' or 'tripcast promote' makes one."], asked
            )
        champion, challenger, errors = fetch(traffic.champion), None, []
        if traffic.challenger is not None:
            try:
                challenger = fetch(traffic.challenger)
            except TripcastError as error:  # the champion is there, and can do without
                errors.append(str(error))
        desired = DesiredState(champion, challenger, traffic.share if challenger else 0.0)
        self._copy.remove_all_but(desired.folders)
        return Report(desired, errors, asked, traffic.figures)


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether the folder holds that model and every one of its files as it was saved."""
    try:
        manifest = (folder / "manifest.json").read_bytes()
        files: dict[str, str] = json.loads(manifest)["files"]
        return sha256(manifest).hexdigest() == digest and all(
            sha256((folder / name).read_bytes()).hexdigest() == wanted for name, wanted in files.items()
        )
    except (OSError, KeyError, ValueError):
        return False


class _Requests:
    """The numbers on standard input, read by a thread that ends the process when there will be no more."""

    def __init__(self) -> None:
        self.last = 0
        self.arrived = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.last = int(line)
            self.arrived.set()
        # Whatever the other thread is doing, a download perhaps: nobody waits for it any more.
        os._exit(0)


def main() -> None:
    """Poll until standard input ends."""
    parser = argparse.ArgumentParser(description="Keep a local copy of what the registry says should serve.")
    parser.add_argument("--model", required=True, help="The registered model's name.")
    parser.add_argument("--check", required=True, help="The module that tries a version.")
    asked = parser.parse_args()
    requests = _Requests()
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)
    poller = RegistryPoller(asked.model, Settings.load(), asked.check)
    print(encode(poller.poll(requests.last)).decode(), flush=True)
    os.nice(_NICENESS)  # not before: a service that starts waits for the first report
    requests.arrived.wait(POLL_SECONDS)
    while True:
        requests.arrived.clear()
        print(encode(poller.poll(requests.last)).decode(), flush=True)
        requests.arrived.wait(POLL_SECONDS)


if __name__ == "__main__":
    main()
