"""Follows the registry, in a process of its own, and keeps a local copy of what it says should serve.

    python -m tripcast.serving.registry_poller --check tripcast.taxi.web.version_check tripcast-green tripcast-yellow

Each model is polled by a thread of its own, so that a download or a trial of one keeps no other waiting. Every poll
ends with one line of JSON on standard output (``Report``). A line with a number on standard input asks for a poll of
all models at once, and the reports of polls that began after it carry that number. The process ends with its standard
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
    """What a poll found of a model.

    Attributes:
        model: The registered model's name.
        desired: What should serve, every model folder of it whole; None if there is no champion or, with errors, if
            that is not known.
        errors: What went wrong, a sentence each: the registry did not answer, a version could not be had.
        asked: The last number that was read from standard input before the poll began.
        figures: What was last measured of the model (``Registry.publish``).
    """

    model: str
    desired: DesiredState | None
    errors: list[str] = field(default_factory=list)
    asked: int = 0
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class RegistryPoller:
    """Follows one registered model.

    Args:
        model: Its name, for example ``tripcast-green``.
        settings: Where the registry and the local copy are.
        trials: Try versions; they may be those of other models, too.
    """

    def __init__(self, model: str, settings: Settings, trials: VersionTrials) -> None:
        self._model = model
        self._settings = settings
        self._copy = ModelCache(settings.home, model)
        self._trials = trials
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
            return Report(self._model, None, [str(error)], asked)
        except Exception as error:  # of an artifact store's client, perhaps: the next poll may do better
            return Report(self._model, None, [f"{type(error).__name__}: {error}"], asked)

    def _poll(self, asked: int) -> Report:
        from tripcast.registry.registry import Registry
        from tripcast.registry.versions import DIGEST, Version

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
            return Report(self._model, None, [], asked, traffic.figures)
        champion, challenger, errors = fetch(traffic.champion), None, []
        if traffic.challenger is not None:
            try:
                challenger = fetch(traffic.challenger)
            except TripcastError as error:  # the champion is there, and can do without
                errors.append(str(error))
        desired = DesiredState(champion, challenger, traffic.share if challenger else 0.0)
        self._copy.remove_all_but(desired.folders)
        return Report(self._model, desired, errors, asked, traffic.figures)


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


class _Service:
    """The service at the other end of standard input and output."""

    def __init__(self) -> None:
        self._asked = 0
        self._changed = threading.Condition()

    def wait(self, seconds: float, answered: int) -> int:
        """Wait until it asks again, but not for long; return the number of its last request."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked != answered, seconds)
            return self._asked

    def report(self, report: Report) -> None:
        """Tell it what a poll found."""
        with self._changed:
            print(encode(report).decode(), flush=True)

    def listen(self) -> None:
        """Take its requests until there will be no more."""
        for line in sys.stdin:
            with self._changed:
                self._asked = int(line)
                self._changed.notify_all()


def _follow(poller: RegistryPoller, service: _Service) -> None:
    """Poll one model as long as the process lives."""
    try:
        asked = service.wait(0.0, answered=0)
        service.report(poller.poll(asked))
        os.nice(_NICENESS)  # of this thread; not before: a service that starts waits for the first report
        while True:
            asked = service.wait(POLL_SECONDS, answered=asked)
            service.report(poller.poll(asked))
    finally:
        os._exit(1)  # a process that does not follow all of them any more is to be started again


def main() -> None:
    """Poll until standard input ends."""
    parser = argparse.ArgumentParser(description="Keep a local copy of what the registry says should serve.")
    parser.add_argument("--check", required=True, help="The module that tries a version.")
    parser.add_argument("models", nargs="+", help="The registered models' names.")
    arguments = parser.parse_args()
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)
    import tripcast.registry.registry  # noqa: F401  # here once, not in all threads at a time

    service, settings, trials = _Service(), Settings.load(), VersionTrials(arguments.check)
    for model in arguments.models:
        threading.Thread(target=_follow, args=(RegistryPoller(model, settings, trials), service), daemon=True).start()
    service.listen()
    # Whatever the threads are doing, a download perhaps: nobody waits for it any more.
    os._exit(0)


if __name__ == "__main__":
    main()
