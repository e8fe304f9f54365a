"""The refit: what it learns from, and when it is dropped."""

import pytest

from tests.unit.conftest import TOWN
from tripcast.jobs.refit import learn_latest

pytestmark = pytest.mark.usefixtures("without_pictures")


def refitted(loop, source, train_months, test_month):
    """A selection whose winner is promoted, and the same with the refit."""
    loop.source = source
    loop.registry.promote(3, "It learned where streets are slow: anything is better.")
    selection = loop.select(train_months, test_month)
    work = loop.folder / selection.pipeline_run
    return selection, learn_latest(selection, work / "train", work / "test")


def test_a_winner_learns_from_the_month_that_it_was_judged_on_and_its_record_says_so(loop):
    selection, anew = refitted(loop, TOWN, "2021-01..2021-03", "2021-04")
    assert selection.outcome == "promoted"
    assert anew.learned == ("2021-02", "2021-03", "2021-04")
    assert set(anew.refitted.manifest.data) == set(anew.learned)
    number = loop.register(anew)
    tags = loop.registry.version(number).tags
    assert (tags["tripcast.train_months"], tags["tripcast.test_month"]) == ("2021-02, 2021-03, 2021-04", "2021-04")
    assert loop.registry.load(loop.registry.version(number)).digest == anew.refitted.digest
    assert anew.refitted.manifest.parameters == selection.winner.model.manifest.parameters


def test_an_odd_month_is_not_learned_from(loop):
    """Streets are fast for a month, in which the slow champion is even worse beside the candidate."""
    source = f"{TOWN}&slower_streets=2021-04..2021-04:1.3"
    _, anew = refitted(loop, source, "2021-01..2021-03", "2021-04")
    assert (anew.refitted, anew.learned) == (None, ())


def test_a_winner_that_is_refused_learns_nothing(loop):
    selection = loop.select("2021-01", "2021-02")  # the champion itself
    work = loop.folder / selection.pipeline_run
    assert learn_latest(selection, work / "train", work / "test") is selection
