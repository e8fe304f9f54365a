"""One registered model in the service: which of its versions answer, and how others take over while it runs."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from pathlib import Path

from tripcast.errors import StorageError
from tripcast.models import Model
from tripcast.models.signature import SIGNATURE, verify
from tripcast.serving.arms import Arm, Arms, salt_of
from tripcast.serving.metrics import ModelMetrics
from tripcast.serving.model_cache import DesiredState, ModelCache, ServedVersion
from tripcast.serving.prediction_rows import Answerer, ArmName
from tripcast.serving.registry_poller import Report

_log = logging.getLogger("tripcast.serving")

#: Seconds until a version that was refused is tried again: its folder may have been mended.
_RETRY_SECONDS = 60.0


class NotReady(Exception):
    """No champion has been loaded yet; the text says why."""


class ServedModel:
    """What answers for one registered model.

    Attributes:
        name: The registered model's name, for example ``tripcast-green``.
        metrics: What is counted of it.
        is_known: Whether its champion was loaded once, or it is known to have had none: from the local copy, or by the
            registry's word.
        lacks_champion: Whether the registry says that it has none. One that had goes on answering.

    Args:
        name: See above.
        home: The home folder, for the local copy.
        verify_keys: Of which one has to have signed a version (``Settings.verify_keys``); None if none has to.
    """

    def __init__(self, name: str, home: Path, verify_keys: str | None = None) -> None:
        self.name = name
        self.metrics = ModelMetrics()
        self.is_known = self.lacks_champion = False
        self._verify_keys = verify_keys
        self._arms: Arms | None = None
        self._copy = ModelCache(home, name)
        self._serving: DesiredState | None = None
        self._wanted: DesiredState | None = None
        self._refused: dict[int, str] = {}
        self._refused_at = 0.0
        self._registry_errors = ["The registry has not answered yet."]

    @property
    def arms(self) -> Arms:
        """What answers now.

        Raises:
            NotReady: If nothing does.
        """
        if self._arms is None:
            raise NotReady(" ".join(["No model is loaded yet.", *self.problems]))
        return self._arms

    @property
    def is_ready(self) -> bool:
        """Whether a champion is loaded."""
        return self._arms is not None

    @property
    def problems(self) -> list[str]:
        """What is wrong at the moment, a sentence each: the registry, a version that was refused."""
        lack = [f"{self.name} has no champion: 'tripcast train' or 'tripcast promote' makes one."]
        return [*self._registry_errors, *self._refused.values(), *(lack if self.lacks_champion else [])]

    def folder(self, arm: Arm) -> Path:
        """The model folder of an arm, in the local copy."""
        return self._copy.model(arm.model.digest)

    def load_last(self) -> bool:
        """Load what served last, and whether anything did: it may be damaged."""
        try:
            last = self._copy.read()
        except StorageError as error:
            _log.error("%s", error)
            return True
        if last is not None:
            self._adopt(last, *self._load(last))
        return last is not None

    def retry(self) -> None:
        """Have versions that were refused tried again with the next report."""
        self._refused_at = 0.0

    async def take(self, report: Report) -> None:
        """Take up what a poll found."""
        if report.errors:
            self.metrics.poller_failures += 1
            if report.errors != self._registry_errors:
                _log.error("%s", " ".join(report.errors))
        self._registry_errors = report.errors
        desired = report.desired
        self.lacks_champion = desired is None and not report.errors
        if desired is not None or self.lacks_champion:
            self.metrics.last_poll = time.monotonic()
            self.metrics.figures = report.figures
        unchanged = desired == self._wanted
        if desired is not None and (
            not unchanged or (self._refused and time.monotonic() >= self._refused_at + _RETRY_SECONDS)
        ):
            # In a thread, so that requests go on.
            loaded = await asyncio.to_thread(self._load, desired)
            self._adopt(desired, *loaded)
            self._wanted = desired
            if self._serving is not None:
                await asyncio.to_thread(self._remember, self._serving)
        self.is_known = self.is_known or self.is_ready or self.lacks_champion

    def _load(self, wanted: DesiredState) -> tuple[Arm | None, Arm | None, dict[int, str]]:
        """Load and check what is not in memory yet; None, with the reason by version, for what is not fit to serve."""
        refused: dict[int, str] = {}

        def load(name: ArmName, served: ServedVersion) -> Arm | None:
            answerer = Answerer(self.name, served.version, name)
            for arm in self._arms.all if self._arms else []:
                if arm.version == served.version and arm.model.digest == served.folder.name:
                    return dataclasses.replace(arm, answerer=answerer, tags=served.tags)
            try:
                if self._verify_keys is not None:  # the local copy may have been changed, too
                    verify(served.folder, self.name, served.tags.get(SIGNATURE), self._verify_keys)
                return Arm(answerer, Model.load(served.folder), served.tags)
            except Exception as trouble:  # of whatever kind: it is tried again after a while
                _log.exception("%s version %d cannot be loaded.", self.name, served.version)
                refused[served.version] = f"Version {served.version} cannot be loaded: {trouble}"
                return None

        champion = load("champion", wanted.champion)
        return champion, load("challenger", wanted.challenger) if wanted.challenger else None, refused

    def _adopt(
        self, wanted: DesiredState, champion: Arm | None, challenger: Arm | None, refused: dict[int, str]
    ) -> None:
        """Let what was loaded answer from now on. A champion that was refused leaves the one in service where it is."""
        self._refused, self._refused_at = refused, time.monotonic()
        for version, reason in refused.items():
            self.metrics.refused[version] += 1
            _log.error("%s version %d does not serve: %s", self.name, version, reason)
        served_champion = wanted.champion
        if champion is None:
            if self._arms is None or self._serving is None:
                return
            champion, served_champion = self._arms.champion, self._serving.champion
        if challenger is not None and challenger.version == champion.version:
            challenger = None
        serving = DesiredState(
            served_champion, wanted.challenger if challenger else None, wanted.share if challenger else 0.0
        )
        if serving == self._serving:
            return
        if self._serving is not None:
            self.metrics.swaps += 1
        self._serving = serving
        self._arms = Arms(champion, challenger, serving.share, salt_of(self.name, serving), self._challenger_failed)
        beside = f", version {challenger.version} for {serving.share:.0%} of the riders" if challenger else ""
        _log.info("%s version %d answers%s.", self.name, champion.version, beside)

    def _remember(self, serving: DesiredState) -> None:
        try:
            self._copy.write(serving)
        except StorageError as error:  # it serves nonetheless
            _log.error("%s", error)

    def _challenger_failed(self, arm: Arm, what: str) -> None:
        # The first time, then ever more rarely: a challenger that always fails must not fill the disk.
        self.metrics.challenger_failures[arm.version] += 1
        count = self.metrics.challenger_failures[arm.version]
        if count & (count - 1) == 0:
            _log.error("The challenger, %s version %d, has failed %d times: %s", self.name, arm.version, count, what)
