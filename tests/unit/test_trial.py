"""The verdict on a challenger, on written differences and on predictions of both versions for the same trips."""

import json

import numpy as np
import pytest

from tripcast.evaluation.confidence import Measure
from tripcast.monitoring.rule import Rule
from tripcast.monitoring.trial import Trial, judge

BETTER = Measure(-0.5, -0.6, -0.4)
PERHAPS_BETTER = Measure(-0.05, -0.2, 0.1)
WORSE = Measure(0.05, -0.1, 0.2)


def trials(*differences, rule=None):
    """The verdicts of windows in a row."""
    found = []
    for difference in differences:
        found.append(judge(2, 1, 3_000, difference, found, rule or Rule()))
    return [trial.verdict for trial in found]


def test_a_challenger_that_is_clearly_better_becomes_the_champion():
    trial = judge(2, 1, 3_000, BETTER)
    assert trial.verdict == "promote"
    assert trial.reason == (
        "Version 2 is 0.500 minutes better than version 1 in RMSE on 3,000 live trips "
        "(95 % interval -0.600 to -0.400): it becomes the champion."
    )


@pytest.mark.parametrize("difference", [WORSE, Measure(0.5, 0.4, 0.6), Measure(0.0, 0.0, 0.0)])
def test_a_challenger_that_is_not_better_is_withdrawn_at_once(difference):
    trial = judge(2, 1, 3_000, difference)
    assert trial.verdict == "withdraw"
    assert "minutes worse than version 1" in trial.reason
    assert trial.reason.endswith("it is withdrawn.")


def test_a_challenger_that_may_be_better_has_its_windows_and_then_goes():
    assert trials(PERHAPS_BETTER, PERHAPS_BETTER, PERHAPS_BETTER) == ["wait", "wait", "withdraw"]
    assert trials(PERHAPS_BETTER, rule=Rule(trial_windows=1)) == ["withdraw"]
    assert trials(PERHAPS_BETTER, BETTER) == ["wait", "promote"]
    assert trials(PERHAPS_BETTER, WORSE) == ["wait", "withdraw"]


def test_the_last_window_says_how_many_there_were():
    earlier = [judge(2, 1, 3_000, PERHAPS_BETTER), judge(2, 1, 3_000, PERHAPS_BETTER)]
    assert "which may be chance: its trial goes on." in earlier[0].reason
    assert judge(2, 1, 3_000, PERHAPS_BETTER, earlier).reason.endswith(
        "which 3 windows have not proven: it is withdrawn."
    )


def test_windows_against_another_champion_or_of_another_challenger_do_not_count():
    earlier = [judge(2, 7, 3_000, PERHAPS_BETTER), judge(3, 1, 3_000, PERHAPS_BETTER)] * 2
    assert judge(2, 1, 3_000, PERHAPS_BETTER, earlier).verdict == "wait"


def test_trips_of_a_single_day_prove_nothing_in_favour():
    trial = judge(2, 1, 300, Measure(-0.5, None, None))
    assert trial.verdict == "wait"
    assert "interval" not in trial.reason
    assert judge(2, 1, 300, Measure(0.5, None, None)).verdict == "withdraw"


def test_a_trial_survives_json():
    for trial in (judge(2, 1, 3_000, BETTER), judge(2, 1, 300, Measure(-0.5, None, None))):
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict(), allow_nan=False))) == trial


def test_versions_that_are_equal_are_hardly_ever_promoted():
    """The interval's promise, 2.5 % on either side, holds over many windows of thirty days."""
    from tests.unit.test_quality import days_of_traffic, judged
    from tripcast.monitoring.quality import rmse_difference

    verdicts = []
    for seed in range(200):
        truth, predicted, day = days_of_traffic(seed, days=30)
        others = truth + (predicted - truth)[::-1]
        difference = rmse_difference(judged(truth, predicted, day=day), judged(truth, others, day=day))
        verdicts.append(judge(2, 1, len(truth), difference).verdict)
    assert np.mean([verdict == "promote" for verdict in verdicts]) < 0.06
