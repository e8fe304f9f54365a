"""The verdict on a challenger and on a champion, on predictions of both versions for the same trips."""

import msgspec
import numpy as np
import pytest

from tests.unit.test_quality import days_of_traffic, judged
from tripcast.monitoring.rule import Rule
from tripcast.monitoring.trial import DailySums, compare, judge


def sums(gain, seed=0, days=30, per_day=50):
    """A month in which one version's errors are by a share smaller than another's, but for chance of each trip."""
    truth, predicted, day = days_of_traffic(seed, days=days, per_day=per_day)
    noise = np.random.default_rng(seed + 10_000).normal(0, 3, (2, len(truth)))
    shared = predicted - truth
    rows, others = (judged(truth, truth + shared + noise[0] * (1 - 2 * gain), day=day), None)
    others = judged(truth, truth + shared + noise[1], day=day)
    return DailySums.of(rows, others)


BETTER, WORSE = sums(0.4), sums(-0.4)


def trials(*windows, rule=None):
    """The trials of windows in a row."""
    found = []
    for each in windows:
        found.append(judge(2, 1, each, found, rule or Rule()))
    return found


def verdicts(*windows, rule=None):
    return [trial.verdict for trial in trials(*windows, rule=rule)]


def test_the_sums_of_days_say_what_the_trips_say():
    truth, predicted, day = days_of_traffic(0)
    rows, others = judged(truth, predicted, day=day), judged(truth, predicted + 1, day=day)
    found = DailySums.of(rows, others)
    assert sum(found.trips) == len(truth)
    rmse = [np.sqrt(np.mean((minutes - truth) ** 2)) for minutes in (predicted, predicted + 1)]
    assert found.rmse() == pytest.approx(rmse)
    assert found.difference().value == pytest.approx(rmse[0] - rmse[1])


def test_a_challenger_that_is_clearly_better_becomes_the_champion():
    (trial,) = trials(BETTER)
    assert trial.verdict == "promote"
    assert trial.reason.startswith(f"Version 2 is {-trial.difference.value:.3f} minutes better than version 1 in RMSE")
    assert "(95 % interval over all 3 looks -" in trial.reason
    assert trial.reason.endswith("it becomes the champion.")


def test_a_challenger_that_is_clearly_worse_is_withdrawn_at_once():
    (trial,) = trials(WORSE)
    assert (trial.verdict, trial.reason[-16:]) == ("withdraw", "it is withdrawn.")
    assert "minutes worse than version 1" in trial.reason


def test_a_challenger_that_may_be_better_has_its_windows_and_then_goes():
    same = sums(0.0)
    assert verdicts(same, same, same) == ["wait", "wait", "withdraw"]
    assert verdicts(same, rule=Rule(trial_windows=1)) == ["withdraw"]
    assert verdicts(same, BETTER) == ["wait", "promote"]
    assert "3 windows have not proven it better" in trials(same, same, same)[-1].reason


def test_all_trips_since_the_trial_began_are_judged_together():
    windows = [sums(0.05, seed) for seed in range(3)]
    found = trials(*windows)
    assert [trial.trips for trial in found] == np.cumsum([sum(each.trips) for each in windows]).tolist()
    assert found[-1].difference.value == pytest.approx((windows[0] + windows[1] + windows[2]).difference().value)


def test_windows_against_another_champion_or_of_another_challenger_do_not_count():
    same = sums(0.0)
    earlier = [judge(2, 7, same), judge(3, 1, same)] * 2
    assert judge(2, 1, same, earlier) == judge(2, 1, same)


def test_trips_of_a_single_day_prove_nothing():
    day = sums(0.4, days=1)
    (trial,) = trials(day)
    assert trial.verdict == "wait"
    assert "interval" not in trial.reason


def test_a_trial_and_a_comparison_survive_json():
    for each in (*trials(BETTER), *trials(sums(0.4, days=1)), compare(2, 1, WORSE, first=True)):
        assert msgspec.json.decode(msgspec.json.encode(each), type=type(each)) == each


def test_all_looks_together_promote_an_equal_version_in_at_most_one_trial_of_forty_and_a_better_one_mostly():
    def promoted(gain):
        ends = [verdicts(*(sums(gain, 3 * seed + look, per_day=20) for look in range(3))) for seed in range(200)]
        return np.mean(["promote" in end for end in ends])

    assert promoted(0.0) <= 0.045  # 2.5 % with the chance of 200 trials
    assert promoted(0.08) > 0.5


# The champion beside the one before it.


def test_what_a_promotion_has_saved_is_the_difference_on_the_same_trips():
    comparison = compare(2, 1, BETTER, first=True)
    assert (comparison.champion, comparison.previous, comparison.relapse) == (2, 1, "")
    saved = 1 - comparison.rmse / comparison.previous_rmse
    assert comparison.sentence.endswith(f"its promotion saves {saved:.1%}.")
    assert comparison.difference.value == pytest.approx(comparison.rmse - comparison.previous_rmse)


def test_a_champion_that_is_clearly_worse_goes_back_on_the_first_month_after_its_promotion_and_on_no_other():
    worse = compare(2, 1, WORSE, first=True)
    assert worse.relapse.endswith("version 1 serves again.")
    assert "its promotion costs" in worse.sentence
    assert compare(2, 1, WORSE, first=False).relapse == ""
    assert compare(2, 1, sums(0.0), first=True).relapse == ""
