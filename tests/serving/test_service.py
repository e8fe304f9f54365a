"""The service without its web side and without its poller's process."""

import asyncio

import pytest

from tripcast.models import Model
from tripcast.serving import metrics
from tripcast.serving import served_model as module
from tripcast.serving.model_cache import DesiredState, ServedVersion
from tripcast.serving.registry_poller import Report
from tripcast.serving.served_model import ServedModel


@pytest.fixture
def model(tmp_path) -> ServedModel:
    return ServedModel("tripcast-green", tmp_path)


@pytest.mark.parametrize("trouble", [MemoryError("no room"), RuntimeError("a defect"), OSError(5, "I/O error")])
def test_a_load_that_fails_by_whatever_is_listed_and_tried_again(model, models, tmp_path, monkeypatch, trouble):
    def fail(folder):
        raise trouble

    def served(version: int, kind: str) -> ServedVersion:
        folder = tmp_path / Model.load(models[kind]).digest
        folder.symlink_to(models[kind])
        return ServedVersion(version, folder, {})

    champion = served(1, "linear")
    first = Report(model.name, DesiredState(champion, None, 0.0))
    second = Report(model.name, DesiredState(champion, served(2, "boosted"), 0.5))

    async def story() -> list[tuple[list[int], list[str]]]:
        seen = []

        async def take(report: Report) -> None:
            await model.take(report)
            seen.append(([arm.version for arm in model.arms.all], model.problems))

        await take(first)
        with monkeypatch.context() as broken:
            broken.setattr(Model, "load", fail)
            await take(second)
            await take(second)
        monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
        await take(second)
        return seen

    problem = f"Version 2 cannot be loaded: {trouble}"
    assert asyncio.run(story()) == [([1], []), ([1], [problem]), ([1], [problem]), ([1, 2], [])]


def test_the_age_of_the_last_poll_does_not_follow_the_clock_of_the_day(model, monkeypatch):
    monkeypatch.setattr(metrics.time, "time", lambda: 0.0)

    assert model.metrics.last_poll > 0
