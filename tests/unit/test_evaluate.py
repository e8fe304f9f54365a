"""Selection as far as monitoring builds on it: what is known of a version, and what is expected of it from then on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.conftest import TOWN
from tripcast.jobs.evaluate import renew_expectation
from tripcast.jobs.judge import score
from tripcast.jobs.months import load_valid_trips
from tripcast.monitoring.quality import measure, read_expectations
from tripcast.months import Month
from tripcast.registry.versions import EXPECTATION, EXPECTED_FROM
from tripcast.taxi.bins import profile_trips
from tripcast.taxi.ways import METERED, WAYS, ZONES_ONLY, as_asked

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_a_registered_version_says_what_error_to_expect_and_from_which_month(loop):
    version = loop.registry.version(1)
    _, february = load_valid_trips(TOWN, "green", Month(2021, 2), loop.settings)

    expectation = read_expectations(version.tags[EXPECTATION], METERED)

    rows = score(loop.registry.load(version), february, version=1)
    (reached,) = measure(rows)
    assert version.tags[EXPECTED_FROM] == "2021-02"
    assert sorted(expectation) == sorted(WAYS)
    assert expectation[METERED].rmse(rows["predicted_minutes"].to_numpy()) == pytest.approx(
        reached.rmse.value, rel=1e-3
    )
    guessed = loop.registry.load(version).predict(as_asked(february)[ZONES_ONLY]).minutes
    error = np.sqrt(np.mean((guessed - february.duration_minutes) ** 2))
    assert error > reached.rmse.value
    assert expectation[ZONES_ONLY].rmse(guessed) == pytest.approx(error, rel=1e-3)


def test_a_registered_version_brings_the_profile_of_what_it_learned_from(loop, tmp_path):
    folder = loop.registry.download(loop.registry.version(1), tmp_path)
    _, january = load_valid_trips(TOWN, "green", Month(2021, 1), loop.settings)
    _, february = load_valid_trips(TOWN, "green", Month(2021, 2), loop.settings)
    predicted = loop.registry.load(loop.registry.version(1)).predict(february, metered=True).minutes

    profile_trips([january], [predicted]).save(tmp_path / "again.json")
    assert json.loads((folder / "profile.json").read_text()) == json.loads((tmp_path / "again.json").read_text())


def test_a_champion_that_the_gate_keeps_is_expected_to_do_what_it_did_there(loop):
    """A candidate that had learned how slow streets are was no better, so its error is what such trips allow."""
    before = loop.registry.version(1).tags[EXPECTATION]
    loop.source, loop.candidates = f"{TOWN}&slower_streets=2021-03:0.85", ("linear",)
    loop.watch("2021-03")
    loop.watch("2021-04")

    assert loop.train("2021-03", "2021-04", 1.0) == "refused"

    after = loop.registry.version(1).tags
    _, april = load_valid_trips(loop.source, "green", Month(2021, 4), loop.settings)
    rows = score(loop.registry.load(loop.registry.version(1)), april, version=1)
    expected = read_expectations(after[EXPECTATION], METERED)[METERED].rmse(rows["predicted_minutes"].to_numpy())
    assert after[EXPECTED_FROM] == "2021-04"
    assert after[EXPECTATION] != before
    assert expected == pytest.approx(measure(rows)[0].rmse.value, rel=1e-3)


def test_nothing_else_is_expected_of_a_champion_before_a_candidate_could_learn_what_has_changed(loop):
    """Streets are slow from April on: whoever learned from March is no judge of what April allows."""
    before = dict(loop.registry.version(1).tags)
    loop.source, loop.candidates = f"{TOWN}&slower_streets=2021-04:0.6", ("linear",)
    loop.watch("2021-03")
    loop.watch("2021-04")

    assert loop.train("2021-03", "2021-04", 1.0) == "refused"

    assert dict(loop.registry.version(1).tags) == before


def test_an_alarm_is_not_settled_by_a_refusal_of_what_is_better_nor_where_nothing_could_be_judged(loop):
    before = dict(loop.registry.version(1).tags)
    loop.source = f"{TOWN}&slower_streets=2021-03:0.85"
    loop.watch("2021-03")
    loop.watch("2021-04")
    better = loop.select("2021-03", "2021-04")
    refused = replace(better, decision=replace(better.decision, verdict="refused"))  # on coverage, say
    unjudged = {way: replace(evaluation, candidates={}) for way, evaluation in better.evaluations.items()}

    renew_expectation(refused)
    renew_expectation(replace(refused, evaluations=unjudged))

    assert better.decision.promote
    assert dict(loop.registry.version(1).tags) == before


@pytest.mark.slow
def test_an_earlier_test_month_changes_nothing_and_nor_does_a_candidate_that_is_promoted(loop):
    loop.candidates = ("linear",)
    before = dict(loop.registry.version(1).tags)
    assert loop.train("2020-12", "2021-01", 1.0) == "refused"
    assert dict(loop.registry.version(1).tags) == before

    loop.candidates, loop.source = ("lightgbm",), f"{TOWN}&slower_streets=2021-03:0.6"
    assert loop.train("2021-03", "2021-04", 0.1) == "promoted"
    assert dict(loop.registry.version(1).tags) == before
    assert loop.registry.version(4).tags[EXPECTED_FROM] == "2021-04"
