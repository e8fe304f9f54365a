import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from tripcast.evaluation.confidence import Measure
from tripcast.evaluation.gate import DEFAULT_RULE, GateRule, decide
from tripcast.evaluation.scores import Evaluation, Scores, SliceScores, Slicing

CHAMPION_RMSE = 6.0


def scores(rmse=5.0, *, champion=CHAMPION_RMSE, spread=0.05, r2=0.7, coverage=0.8, slices=()):
    """Scores as an evaluation would give them, with an interval of the difference that is ``spread`` to each side."""
    difference = None if champion is None else around(rmse - champion, spread)
    return Scores(
        trips=10_000,
        rmse=rmse,
        rmse_interval=(rmse - 0.1, rmse + 0.1),
        mae=0.7 * rmse,
        r2=r2,
        p90_error=1.6 * rmse,
        bias=0.0,
        interval_coverage=coverage,
        interval_width=12.0,
        difference=difference,
        slices=tuple(slices),
        density=np.zeros((60, 60), np.int64),
    )


def around(value, spread):
    return Measure(value, value - spread, value + spread)


def part(label, rmse, *, trips=1000, difference=None):
    return SliceScores("borough", label, trips, rmse, 0.7 * rmse, 0.0, 0.8, 12.0, difference)


def evaluation(champion=None, disqualified=None, **candidates):
    ordered = dict(sorted(candidates.items(), key=lambda item: item[1].rmse))
    return Evaluation(10_000, 28, Slicing({}, {}), ordered, champion, disqualified or {})


def failed(checks):
    return [check.name for check in checks if not check.passed]


def the(name, checks):
    (check,) = [check for check in checks if check.name == name]
    return check


CHAMPION = scores(CHAMPION_RMSE, champion=None)


def test_a_clearly_better_candidate_is_promoted():
    decision = decide(evaluation(CHAMPION, linear=scores(7.5), lightgbm=scores(5.4)))
    assert (decision.verdict, decision.promote, decision.winner) == ("promoted", True, "lightgbm")
    assert decision.sentence == "lightgbm is good enough to serve: RMSE 5.40 minutes, 10.0% below the champion's 6.00."
    assert [check.name for check in decision.reasons] == ["floor", "coverage", "gain", "confidence", "slices"]
    assert failed(decision.reasons) == []
    gain = the("gain", decision.reasons)
    assert (gain.observed, gain.threshold) == (pytest.approx(0.1), 0.005)
    assert decision.passed_over == {}


def test_a_worse_candidate_is_refused_and_the_sentence_says_on_what():
    decision = decide(evaluation(CHAMPION, lightgbm=scores(6.6)))
    assert (decision.verdict, decision.promote, decision.winner) == ("refused", False, "lightgbm")
    assert decision.sentence == "The champion stays: lightgbm, the best candidate, fails on gain, confidence."
    assert the("gain", decision.reasons).sentence == (
        "RMSE is 6.600 minutes against the champion's 6.000, 10.00% more: not better by the minimum gain of 0.5%."
    )


def test_a_tie_is_refused_as_not_better_by_the_minimum_gain():
    decision = decide(evaluation(CHAMPION, lightgbm=scores(CHAMPION_RMSE)))
    assert decision.verdict == "refused"
    assert "a tie: not better by the minimum gain of 0.5%" in the("gain", decision.reasons).sentence


def test_a_gain_below_the_minimum_is_refused_however_certain():
    decision = decide(evaluation(CHAMPION, lightgbm=scores(CHAMPION_RMSE * 0.996, spread=0.001)))
    assert (decision.verdict, failed(decision.reasons)) == ("refused", ["gain"])


def test_a_gain_that_may_be_chance_is_refused_however_large():
    decision = decide(evaluation(CHAMPION, lightgbm=scores(5.0, spread=1.01)))
    assert (decision.verdict, failed(decision.reasons)) == ("refused", ["confidence"])
    check = the("confidence", decision.reasons)
    assert (check.observed, check.threshold) == (pytest.approx(0.01), 0.0)
    assert "between -2.010 and +0.010 minutes" in check.sentence


def test_a_gain_that_has_to_be_proven_is_no_gain_that_is_only_likely():
    asked = GateRule(min_gain=0.03, proven_gain=0.03)
    verdicts = [
        decide(evaluation(CHAMPION, lightgbm=scores(5.7, spread=spread)), rule=asked).verdict for spread in (0.1, 0.2)
    ]
    assert verdicts == ["promoted", "refused"]
    decision = decide(evaluation(CHAMPION, lightgbm=scores(5.7, spread=0.2)), rule=asked)
    assert failed(decision.reasons) == ["confidence"]
    assert "below -0.180, 3.0% of the champion's" in the("confidence", decision.reasons).sentence


def test_weak_evidence_is_a_gain_that_may_be_chance_and_nothing_else():
    def may_be_chance(candidate, rule=DEFAULT_RULE):
        return decide(evaluation(CHAMPION, lightgbm=candidate), rule=rule).may_be_chance

    assert may_be_chance(scores(5.0, spread=1.01))
    assert not may_be_chance(scores(5.0, spread=0.1))  # proven
    assert not may_be_chance(scores(6.6))  # no gain
    assert not may_be_chance(replace(scores(5.0, spread=1.01), interval_coverage=0.5))
    # Proven, but to be smaller than what is asked: that is no chance.
    assert not may_be_chance(scores(5.7, spread=0.2), GateRule(min_gain=0.03, proven_gain=0.03))


def test_one_day_of_trips_is_no_confidence():
    decision = decide(evaluation(CHAMPION, lightgbm=replace(scores(5.0), difference=Measure(-1.0, None, None))))
    assert failed(decision.reasons) == ["confidence"]
    assert "All trips are of one day" in the("confidence", decision.reasons).sentence


def test_without_a_champion_floor_and_coverage_decide():
    decision = decide(evaluation(None, linear=scores(7.76, champion=None, r2=0.594)))
    assert (decision.verdict, decision.winner) == ("promoted", "linear")
    assert decision.sentence == "linear is good enough to serve: RMSE 7.76 minutes."
    assert [check.name for check in decision.reasons] == ["floor", "coverage", "champion"]


@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_below_the_floor_nothing_is_promoted(champion):
    decision = decide(evaluation(champion, linear=scores(5.0, r2=0.39)))
    assert (decision.verdict, failed(decision.reasons)) == ("refused", ["floor"])
    assert the("floor", decision.reasons).sentence == "R² is 0.390; at least 0.40 is asked of any model."
    assert decision.sentence.startswith("The champion stays" if champion else "Nothing is promoted")


@pytest.mark.parametrize(("coverage", "passes"), [(0.74, False), (0.751, True), (0.849, True), (0.86, False)])
def test_coverage_has_to_be_near_nominal_on_either_side(coverage, passes):
    decision = decide(evaluation(None, lightgbm=scores(coverage=coverage)))
    assert decision.promote is passes
    assert the("coverage", decision.reasons).observed == pytest.approx(coverage)


def test_coverage_no_further_off_than_the_champion_s_is_enough():
    worn = scores(CHAMPION_RMSE, champion=None, coverage=0.68)
    assert decide(evaluation(worn, lightgbm=scores(coverage=0.70))).promote
    decision = decide(evaluation(worn, lightgbm=scores(coverage=0.66)))
    assert failed(decision.reasons) == ["coverage"]
    assert "no further off than the champion" in the("coverage", decision.reasons).sentence


def test_no_more_than_all_trips_are_asked_for_beside_a_champion_that_is_far_off():
    astray = scores(CHAMPION_RMSE, champion=None, coverage=0.55)
    decision = decide(evaluation(astray, lightgbm=scores(coverage=0.81)))
    assert "55.0% to 100.0% is asked" in the("coverage", decision.reasons).sentence


def with_slice(**after):
    champion = scores(CHAMPION_RMSE, champion=None, slices=[part("Queens", 5.0), part("Bronx", 5.0)])
    candidate = scores(5.4, slices=[part("Bronx", 4.5, difference=around(-0.5, 0.1)), part("Queens", **after)])
    return decide(evaluation(champion, lightgbm=candidate))


def test_a_slice_clearly_worse_than_the_champion_s_is_refused_by_name():
    decision = with_slice(rmse=5.5, difference=around(0.5, 0.4))
    assert (decision.verdict, failed(decision.reasons)) == ("refused", ["slices"])
    check = the("slices", decision.reasons)
    assert (check.observed, check.threshold) == (pytest.approx(0.1), 0.05)
    assert (
        check.sentence == "RMSE is clearly more than 5% above the champion's on borough Queens (+10.0% on 1,000 trips)."
    )


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({"rmse": 5.5, "difference": around(0.5, 0.6)}, id="it may be chance"),
        pytest.param({"rmse": 5.2, "difference": around(0.2, 0.1)}, id="it is within the bound"),
        pytest.param({"rmse": 9.0, "difference": around(4.0, 0.1), "trips": 299}, id="it has too few trips"),
        pytest.param({"rmse": 9.0, "difference": Measure(4.0, None, None)}, id="it has one day"),
    ],
)
def test_a_slice_does_not_block_when(after):
    assert with_slice(**after).promote


def test_a_long_list_of_bad_slices_is_cut_after_the_worst():
    names = ["Manhattan", "Brooklyn", "Queens", "Bronx", "EWR", "Outside"]
    champion = scores(CHAMPION_RMSE, champion=None, slices=[part(name, 5.0) for name in names])
    worse = [part(name, 5.5 + 0.1 * rank, difference=around(0.5, 0.1)) for rank, name in enumerate(names)]
    sentence = the("slices", decide(evaluation(champion, lightgbm=scores(slices=worse))).reasons).sentence
    assert "on borough Outside (+20.0% on 1,000 trips); borough EWR (+18.0%" in sentence
    assert sentence.endswith("; and 2 more.")


def test_the_next_best_is_promoted_when_the_best_fails():
    decision = decide(evaluation(CHAMPION, sharp=scores(5.0, coverage=0.6), sound=scores(5.2), linear=scores(7.5)))
    assert (decision.verdict, decision.winner) == ("promoted", "sound")
    assert failed(decision.reasons) == []
    assert list(decision.passed_over) == ["sharp"]
    assert failed(decision.passed_over["sharp"]) == ["coverage"]


def test_when_none_passes_the_best_one_s_checks_are_the_reasons():
    decision = decide(evaluation(CHAMPION, linear=scores(7.5), lightgbm=scores(6.1)))
    assert decision.winner == "lightgbm"
    assert list(decision.passed_over) == ["linear"]


def test_a_candidate_that_is_the_champion_changes_nothing():
    decision = decide(evaluation(CHAMPION, linear=scores(7.5), lightgbm=scores(CHAMPION_RMSE)), identical=["lightgbm"])
    assert (decision.verdict, decision.promote, decision.winner) == ("unchanged", False, "lightgbm")
    assert decision.sentence == "The champion stays: lightgbm came out identical to it."
    assert failed(decision.reasons) == []


def test_a_better_candidate_wins_over_one_that_is_the_champion():
    decision = decide(evaluation(CHAMPION, tuned=scores(5.0), lightgbm=scores(CHAMPION_RMSE)), identical=["lightgbm"])
    assert (decision.verdict, decision.winner) == ("promoted", "tuned")


def test_a_run_repeated_after_the_second_best_was_promoted_changes_nothing():
    candidates = {"sharp": scores(5.9, coverage=0.6), "sound": scores(CHAMPION_RMSE)}
    decision = decide(evaluation(CHAMPION, **candidates), identical=["sound"])
    assert (decision.verdict, decision.winner) == ("unchanged", "sound")
    assert failed(decision.passed_over["sharp"]) == ["coverage"]


def test_of_two_equal_candidates_the_one_in_service_counts():
    candidates = {"another": scores(CHAMPION_RMSE), "same": scores(CHAMPION_RMSE)}
    assert decide(evaluation(CHAMPION, **candidates), identical=["same"]).verdict == "unchanged"


def test_a_disqualified_candidate_is_passed_over_with_its_reason():
    decision = decide(evaluation(CHAMPION, {"broken": "It gives no number."}, lightgbm=scores(5.0)))
    assert (decision.verdict, decision.winner) == ("promoted", "lightgbm")
    assert [(check.name, check.sentence) for check in decision.passed_over["broken"]] == [
        ("predictions", "It gives no number.")
    ]


def test_when_all_are_disqualified_nothing_is_promoted():
    decision = decide(evaluation(None, {"broken": "It gives no number."}))
    assert (decision.verdict, decision.winner, decision.reasons) == ("refused", None, ())
    assert decision.sentence == "Nothing is promoted: no candidate can be judged."


def test_a_champion_that_cannot_be_judged_does_not_block_its_successor():
    broken = replace(evaluation(None, lightgbm=scores(5.0, champion=None)), champion_problem="It gives no number.")
    decision = decide(broken)
    assert decision.verdict == "promoted"
    assert the("champion", decision.reasons).sentence == "The champion cannot be judged: It gives no number."


def test_a_perfect_champion_cannot_be_beaten():
    perfect = scores(0.0, champion=None, slices=[part("Queens", 0.0)])
    candidate = scores(0.0, champion=0.0, spread=0.0, slices=[part("Queens", 0.0, difference=around(0.0, 0.0))])
    assert failed(decide(evaluation(perfect, lightgbm=candidate)).reasons) == ["gain", "confidence"]


def test_the_thresholds_are_the_caller_s_to_choose():
    strict = GateRule(min_r2=0.9, min_gain=0.5)
    decision = decide(evaluation(CHAMPION, lightgbm=scores(5.0)), rule=strict)
    assert failed(decision.reasons) == ["floor", "gain"]
    assert decision.rule == strict


def test_a_decision_becomes_plain_json():
    decision = decide(evaluation(CHAMPION, {"broken": "It gives no number."}, lightgbm=scores(5.0)))
    document = json.loads(json.dumps(asdict(decision), allow_nan=False))
    assert (document["verdict"], document["winner"]) == ("promoted", "lightgbm")
    assert document["reasons"][0].keys() == {"name", "passed", "observed", "threshold", "sentence"}
    assert document["passed_over"]["broken"][0]["passed"] is False
    assert document["rule"]["min_gain"] == 0.005


def test_a_candidate_that_is_clearly_worse_in_another_way_of_asking_is_refused():
    asked = evaluation(CHAMPION, lightgbm=scores(5.0))
    others = {
        "planned": evaluation(CHAMPION, lightgbm=scores(6.0)),
        "metered": evaluation(CHAMPION, lightgbm=scores(6.3)),
    }
    decision = decide(asked, others)
    assert decision.verdict == "refused"
    assert failed(decision.reasons) == ["ways"]
    assert the("ways", decision.reasons).sentence == (
        "RMSE is clearly more than 1% above the champion's if asked metered (+5.0%)."
    )


@pytest.mark.parametrize("other", [scores(5.9), scores(6.05), scores(6.3, spread=0.4)])
def test_a_candidate_that_is_hardly_or_only_perhaps_worse_in_another_way_is_promoted(other):
    decision = decide(evaluation(CHAMPION, lightgbm=scores(5.0)), {"metered": evaluation(CHAMPION, lightgbm=other)})
    assert decision.promote
    assert the("ways", decision.reasons).passed


def test_a_candidate_that_cannot_be_judged_in_another_way_is_refused():
    others = {"planned": evaluation(CHAMPION, {"lightgbm": "It gives no plausible number of minutes."})}
    assert failed(decide(evaluation(CHAMPION, lightgbm=scores(5.0)), others).reasons) == ["ways"]


def test_without_a_champion_no_champion_is_named_for_the_coverage():
    decision = decide(evaluation(lightgbm=scores(5.0, champion=None, coverage=0.806)))
    assert the("coverage", decision.reasons).sentence == (
        "80.6% of trips ended within their 80% interval; 75.0% to 85.0% is asked."
    )
