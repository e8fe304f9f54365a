"""Is what was asked for possible? Answered before any work is done, for all of it at once."""

from __future__ import annotations

from collections.abc import Sequence

from tripcast.errors import InvalidRequest
from tripcast.jobs.months import find_months, look_into
from tripcast.months import Month, parse_months
from tripcast.registry.connection import check_reachable
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.candidates import CANDIDATES
from tripcast.taxi.feeds import find_feed
from tripcast.taxi.sources import open_source


def plan(source: str, taxi: str, train: str, test: str, candidates: Sequence[str]) -> list[dict[str, str]]:
    """Check a training request and find its months.

    Args:
        source: Where months come from, as ``tripcast.taxi.sources.open_source`` takes it.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        train: Months to train on, as ``2021-01..2021-02``.
        test: The month to judge on, as ``2021-03``.
        candidates: Names of candidates.

    Returns:
        For each month, training months first and in time order, its ``month`` and the ``revision`` that the source has.

    Raises:
        InvalidRequest: If a taxi or candidate is unknown, a month cannot be read, or training is not before the test.
        SourceError: If months are missing at the source, or are no tables.
        SourceUnreachable: If the source does not answer.
        ContractError: If months have not the columns of the taxi's.
        TrackingError: If the tracking server does not answer or refuses, or the experiment was deleted.
        StorageError: If the artifact store does not, or refuses.
    """
    find_feed(taxi)
    _check_candidates(candidates)
    months = _check_order(parse_months(train), parse_months(test))
    settings = Settings.load()
    check_reachable(settings.tracking_uri)
    # A server can be healthy and refuse all the same, or the experiment may have been deleted.
    Tracker(model_name(taxi), settings)
    open_store(settings.artifacts).check()

    opened = open_source(source, settings.downloads)
    revisions = find_months(opened, taxi, months)
    for remark in look_into(opened, taxi, months):
        print(remark)
    return [{"month": str(month), "revision": revision} for month, revision in revisions.items()]


def _check_candidates(candidates: Sequence[str]) -> None:
    known = ", ".join(CANDIDATES)
    if not candidates:
        raise InvalidRequest(f"No candidate was named: choose from {known}.")
    for name in candidates:
        if name not in CANDIDATES:
            raise InvalidRequest(f"There is no candidate '{name}': choose from {known}.")
        if candidates.count(name) > 1:
            raise InvalidRequest(f"The candidate '{name}' is named twice: once is enough.")


def _check_order(train: list[Month], test: list[Month]) -> list[Month]:
    if len(test) > 1:
        raise InvalidRequest(f"Candidates are judged on one month, not on {len(test)}: name one.")
    if train[-1] >= test[0]:
        raise InvalidRequest(
            f"The training month {train[-1]} is not before the test month {test[0]}: "
            "a model has to be judged on trips later than those it was trained on."
        )
    return [*train, *test]
