"""The model card: what a model is, how good it is and where it is not."""

from dataclasses import replace

import pytest

from tests.conftest import make_trips
from tests.unit.test_reports import CONTEXT, HOSTILE, Page, judged
from tripcast.evaluation.gate import decide
from tripcast.jobs.train import train
from tripcast.reports.model_card import Way, model_card


@pytest.fixture(scope="module")
def made():
    evaluation = judged(lightgbm=4.0, other=4.4, champion=5.0)
    decision = decide(evaluation)
    model = train("linear", make_trips(), taxi="green", data={"2021-01": "1" * 64})
    ways = [
        Way("zones_only", "with zones and time alone", evaluation.candidates["other"]),
        Way("metered", "with the meter's miles", evaluation.candidates["lightgbm"]),
    ]

    def make(context=CONTEXT, yardsticks=None):
        yardsticks = yardsticks or {"Version 3, in service before": 5.0}
        return model_card("tripcast-green", model.digest, model.manifest, ways, decision, context, yardsticks)

    return make, evaluation, decision, model


def test_the_figures_of_every_way_to_be_asked_are_there(made):
    make, evaluation, _, _ = made
    page = Page(make())
    for name, way in (("other", "zones_only"), ("lightgbm", "metered")):
        scores = evaluation.candidates[name]
        row = page.text[page.text.index(f" {way} ") :]
        figures = [f"{scores.rmse:.2f}", f"{scores.mae:.2f}", f"{scores.p90_error:.1f}"]
        assert row.split()[1:4] == figures


def test_what_it_is_and_what_it_learned_from_is_there(made):
    make, _, decision, model = made
    page = Page(make())
    for text in (
        *("tripcast-green", "2021-01", model.digest, "9f86d081884c", "76,518", "73,908", "46bea35", "a folder"),
        *(f"{model.manifest.trips:,}", decision.sentence, *(check.sentence for check in decision.reasons)),
    ):
        assert text in page.text


def test_the_weakest_slices_are_named(made):
    make, evaluation, _, _ = made
    parts = [part for part in evaluation.candidates["other"].slices if part.trips >= 1000]
    worst, surest = max(parts, key=lambda part: part.rmse), min(parts, key=lambda part: part.interval_coverage)
    page = Page(make())
    assert f"{worst.dimension}, {worst.label}: RMSE {worst.rmse:.2f} min over {worst.trips:,} trips" in page.text
    assert f"{surest.dimension}, {surest.label}: {surest.interval_coverage:.1%} end within the interval" in page.text


def test_a_simulated_model_says_so_and_a_real_one_does_not(made):
    make, *_ = made
    assert "made-up city" in Page(make(replace(CONTEXT, simulated=True))).text
    assert "made-up city" not in Page(make()).text


def test_what_comes_from_outside_is_text_and_nothing_else(made):
    make, *_ = made
    context = replace(CONTEXT, source=HOSTILE, versions={HOSTILE: HOSTILE}, run_url="javascript:1")
    page = Page(make(context, {HOSTILE: 5.0}))
    assert HOSTILE in page.text
    assert not {tag for tag, _ in page.elements} & {"img", "script", "a"}
