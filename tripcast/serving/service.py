"""The service without its web side: the registered models that it answers by, and their poller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tripcast.serving.metrics import Metrics
from tripcast.serving.poller_process import PollerProcess
from tripcast.serving.registry_poller import Report
from tripcast.serving.served_model import NotReady, ServedModel

#: Seconds that a reload waits for the registry.
_RELOAD_SECONDS = 15.0


class Service:
    """What answers for all registered models.

    Attributes:
        models: All of them, by key, in order; those without a champion, too.
        offered: Those that answer, by key; and under None the first of them, which answers who names none. It is
            replaced as a whole.
        metrics: What is counted of all of them.

    Args:
        names: The registered models' names by key: what a request calls them. Their order is that of ``models``.
        home: The home folder, for the local copies.
        check: The module that tries a version before it serves (``VersionTrials``).
        verify_keys: As ``ServedModel``.
    """

    def __init__(self, names: Mapping[str, str], home: Path, check: str, verify_keys: str | None = None) -> None:
        self.models = {key: ServedModel(name, home, verify_keys) for key, name in names.items()}
        self.offered: Mapping[str | None, ServedModel] = {}
        self.metrics = Metrics()
        self._poller = PollerProcess(list(names.values()), check, self.metrics, self._take)

    @property
    def serving(self) -> dict[str, ServedModel]:
        """The models that answer, by key, in order.

        Raises:
            NotReady: If none does.
        """
        serving = {key: model for key, model in self.offered.items() if key is not None}
        if not serving:
            models = "Not all models are" if any(model.is_ready for model in self.models.values()) else "No model is"
            raise NotReady(" ".join([f"{models} loaded yet.", *self.problems]))
        return serving

    @property
    def problems(self) -> list[str]:
        """What is wrong at the moment, a sentence each. That a model has no champion is, if it had one or none has."""
        models = self.models.values()
        concerned = [model for model in models if model.is_ready or not model.lacks_champion] or models
        return list(dict.fromkeys(problem for model in concerned for problem in model.problems))

    async def start(self) -> None:
        """Load what served last, if anything did, and begin to follow the registry."""
        served = [model for model in self.models.values() if model.load_last()]
        # If something served, what left no copy did not.
        for model in self.models.values():
            model.is_known = model.is_ready or bool(served and model not in served)
        self._offer()
        self._poller.start()

    async def stop(self) -> None:
        """Stop following the registry."""
        await self._poller.stop()

    async def reload(self) -> bool:
        """Ask the registry now, and take up what it says; whether it was heard of in time."""
        for model in self.models.values():
            model.retry()
        try:
            async with asyncio.timeout(_RELOAD_SECONDS):
                await self._poller.ask()
        except TimeoutError:
            return False
        return True

    async def _take(self, report: Report) -> None:
        await next(model for model in self.models.values() if model.name == report.model).take(report)
        self._offer()

    def _offer(self) -> None:
        # Not before all are known: a service that says that it is ready has what it will have, and the same first one.
        if not all(model.is_known for model in self.models.values()):
            return
        ready: dict[str | None, ServedModel] = {key: model for key, model in self.models.items() if model.is_ready}
        if ready:
            ready[None] = next(iter(ready.values()))
        self.offered = ready
