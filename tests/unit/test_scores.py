from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tripcast.errors import ContractError
from tripcast.evaluation import scores as evaluation_scores
from tripcast.evaluation.confidence import CONFIDENCE, Measure
from tripcast.evaluation.scores import Batch
from tripcast.taxi.slices import SLICES, slice_trips
from tripcast.taxi.trips import Trips


@dataclass(frozen=True)
class StandIn:
    minutes: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def evaluate(trips, predictions, champion=None):
    batch = Batch(trips.duration_minutes, trips.pickup_datetime, slice_trips(trips), predictions, champion)
    return evaluation_scores.evaluate([batch] if len(trips) else [])


def predicting(minutes, half_width=5.0):
    minutes = np.asarray(minutes, np.float64)
    return StandIn(minutes, minutes - half_width, minutes + half_width)


def trips_at(pickups, minutes, pickup_zone=74, dropoff_zone=75, miles=1.5):
    count = len(minutes)
    return Trips(
        np.asarray(pickups, "datetime64[us]"),
        np.broadcast_to(np.int16(pickup_zone), count),
        np.broadcast_to(np.int16(dropoff_zone), count),
        np.broadcast_to(np.float64(miles), count),
        np.asarray(minutes, np.float64),
    )


def random_trips(count, hours=28 * 24, seed=0):
    random = np.random.default_rng(seed)
    seconds = random.integers(0, hours * 3600, count)
    miles = random.gamma(2, 2, count)
    miles[::50], miles[1::50] = 0, 244_152.01
    return Trips(
        np.datetime64("2021-02-01", "us") + seconds.astype("timedelta64[s]"),
        random.integers(1, 266, count).astype(np.int16),
        random.integers(1, 266, count).astype(np.int16),
        miles,
        random.uniform(1, 60, count),
    )


@pytest.fixture(scope="module")
def judged():
    trips = random_trips(4000)
    random = np.random.default_rng(1)
    near, far = (predicting(trips.duration_minutes + random.normal(1, spread, 4000)) for spread in (4, 5))
    return trips, near, far, evaluate(trips, {"far": far, "near": near}, champion=far)


def labels(evaluation, dimension):
    return {part.label: part.trips for part in evaluation.candidates["model"].slices_of(dimension)}


def test_metrics_are_those_of_scikit_learn(judged):
    trips, near, _, evaluation = judged
    scores = evaluation.candidates["near"]
    assert scores.rmse == pytest.approx(root_mean_squared_error(trips.duration_minutes, near.minutes))
    assert scores.mae == pytest.approx(mean_absolute_error(trips.duration_minutes, near.minutes))
    assert scores.r2 == pytest.approx(r2_score(trips.duration_minutes, near.minutes))


def test_metrics_of_four_trips_are_those_worked_out_by_hand():
    trips = trips_at(["2021-02-01T08:00"] * 4, [10, 20, 30, 40])
    prediction = StandIn(np.array([12.0, 18, 33, 40]), np.array([10.0, 10, 31, 30]), np.array([14.0, 19, 40, 45]))
    scores = evaluate(trips, {"model": prediction}).candidates["model"]
    assert scores.metrics == pytest.approx(
        {
            "rmse": (17 / 4) ** 0.5,
            "mae": 7 / 4,
            "r2": 1 - 17 / 500,
            "p90_error": 2.7,
            "bias": 3 / 4,
            "interval_coverage": 2 / 4,  # an interval holds its own ends: 10 in [10, 14]; 20 is above 19, 30 below 31
            "interval_width": (4 + 9 + 9 + 15) / 4,
        }
    )


def test_candidates_are_ordered_from_the_lowest_error(judged):
    assert list(judged[3].candidates) == ["near", "far"]


def test_slices_of_each_dimension_partition_the_trips(judged):
    trips, near, _, evaluation = judged
    scores = evaluation.candidates["near"]
    for dimension in SLICES:
        parts = scores.slices_of(dimension)
        assert sum(part.trips for part in parts) == len(trips)
        assert sum(part.trips * part.rmse**2 for part in parts) == pytest.approx(len(trips) * scores.rmse**2)
        assert sum(part.trips * part.mae for part in parts) == pytest.approx(len(trips) * scores.mae)
        assert sum(part.trips * part.bias for part in parts) == pytest.approx(len(trips) * scores.bias)
        places = [SLICES[dimension].index(part.label) for part in parts]
        assert places == sorted(places)
    monday = trips.pickup_datetime.astype("datetime64[D]").astype(int) % 7 == 4
    (scored,) = [part for part in scores.slices_of("weekday") if part.label == "Monday"]
    assert scored.trips == monday.sum()
    assert scored.rmse == pytest.approx(
        root_mean_squared_error(trips.duration_minutes[monday], near.minutes[monday]), rel=1e-12
    )


def test_slices_follow_the_clock_of_the_pickup():
    # A Monday, a Sunday, and a Wednesday before the epoch.
    trips = trips_at(["2021-02-01T08:59:59", "2021-02-07T23:00", "1969-12-31T23:30"], [10, 10, 10])
    evaluation = evaluate(trips, {"model": predicting([11, 12, 13])})
    assert labels(evaluation, "hour") == {"08:00": 1, "23:00": 2}
    assert labels(evaluation, "weekday") == {"Monday": 1, "Wednesday": 1, "Sunday": 1}


def test_slices_follow_the_borough_of_the_pickup():
    trips = replace(trips_at(["2021-02-01"] * 5, [10] * 5), pickup_zone=np.array([4, 74, 1, 264, 265], np.int16))
    evaluation = evaluate(trips, {"model": predicting([10] * 5)})
    assert labels(evaluation, "borough") == {"Manhattan": 2, "EWR": 1, "Outside": 1, "Unknown": 1}


def test_an_airport_at_either_end_makes_an_airport_trip():
    trips = replace(
        trips_at(["2021-02-01"] * 4, [10] * 4),
        pickup_zone=np.array([132, 74, 138, 74], np.int16),
        dropoff_zone=np.array([74, 1, 132, 75], np.int16),
    )
    assert labels(evaluate(trips, {"model": predicting([10] * 4)}), "airport") == {"city": 1, "airport": 3}


def test_distance_bands_hold_their_upper_end_and_every_absurd_value():
    miles = np.array([0, 0.01, 1, 1.01, 5, 20, 100, 100.01, 244_152.01])
    trips = replace(trips_at(["2021-02-01"] * 9, [10] * 9), trip_distance_miles=miles)
    assert labels(evaluate(trips, {"model": predicting([10] * 9)}), "distance") == {
        "unmetered": 1,
        "up to 1 mile": 2,
        "1 to 2 miles": 1,
        "2 to 5 miles": 1,
        "10 to 20 miles": 1,
        "20 to 100 miles": 1,
        "over 100 miles": 2,
    }


def test_a_pickup_years_away_is_a_day_like_any_other():
    near = random_trips(2000)
    trips = replace(near, pickup_datetime=near.pickup_datetime.copy())
    trips.pickup_datetime[0] = np.datetime64("2009-01-01T00:30")
    evaluation = evaluate(trips, {"model": predicting(trips.duration_minutes + 1)})
    assert evaluation.days == 29
    assert evaluation.candidates["model"].rmse == pytest.approx(1)


def test_the_density_counts_trips_by_minute_of_truth_and_of_prediction():
    trips = trips_at(["2021-02-01"] * 4, [10.9, 10.1, 60, 1])
    density = evaluate(trips, {"model": predicting([12.5, 12.1, 75, -3])}).candidates["model"].density
    assert (density[10, 12], density[59, 59], density[1, 0], density.sum()) == (2, 1, 1, 4)


def month_of_equal_models(seed):
    """Thirty days of 40 trips; both models err alike, and more on the same days, each with noise of its own."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(30), 40)
    wildness = random.choice([2.0, 6.0], 30)[day]
    trips = trips_at(np.datetime64("2021-02-01", "D") + day, np.full(1200, 20.0))
    # What a day does to a model is shared by its trips: the worse that errors of one day are alike.
    errors = (wildness * (random.normal(size=30)[day] + random.normal(size=1200)) for _ in range(2))
    model, champion = (predicting(20 + error) for error in errors)
    return evaluate(trips, {"model": model}, champion).candidates["model"].difference


def test_an_equal_model_is_called_better_no_more_often_than_the_confidence_says():
    months = 400
    better = sum(month_of_equal_models(seed).high < 0 for seed in range(months))
    nominal = months * (1 - CONFIDENCE) / 2
    assert better <= nominal + 2 * nominal**0.5


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        day = np.repeat(np.arange(40), 25)
        # Days are calm or wild together: errors of 2 or of 6 minutes, so 20 ** 0.5 on the whole.
        error = random.choice([2.0, 6.0], 40)[day] * random.normal(size=1000)
        trips = trips_at(np.datetime64("2021-02-01", "D") + day, np.full(1000, 20.0))
        better, worse = (predicting(20 + error * times) for times in (1.0, 1.2))
        difference = evaluate(trips, {"model": better}, worse).candidates["model"].difference
        held += difference.low <= -0.2 * 20**0.5 <= difference.high
    assert held / 100 == pytest.approx(CONFIDENCE, abs=0.04)


def test_the_comparison_is_paired_so_shared_errors_cancel():
    trips = random_trips(3000)
    random = np.random.default_rng(2)
    shared = random.normal(0, 6, 3000)
    model = predicting(trips.duration_minutes + shared)
    champion = predicting(trips.duration_minutes + 1.02 * shared + random.normal(0, 0.1, 3000))
    evaluation = evaluate(trips, {"model": model}, champion)
    scores = evaluation.candidates["model"]
    low, high = scores.rmse_interval
    assert scores.difference.high < 0
    assert low < evaluation.champion.rmse < high
    assert scores.difference.high - scores.difference.low < (high - low) / 10


def test_more_trips_on_the_same_days_are_no_more_evidence():
    trips = random_trips(500, hours=48)
    random = np.random.default_rng(2)
    model, champion = (predicting(trips.duration_minutes + random.normal(0, 5, 500)) for _ in range(2))
    again = np.tile(np.arange(500), 20)
    once = evaluate(trips, {"model": model}, champion)
    often = evaluate(trips[again], {"model": predicting(model.minutes[again])}, predicting(champion.minutes[again]))
    difference, repeated = once.candidates["model"].difference, often.candidates["model"].difference
    assert (repeated.low, repeated.high) == pytest.approx((difference.low, difference.high))


def test_a_champion_among_the_candidates_differs_by_nothing(judged):
    difference = judged[3].candidates["far"].difference
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_every_slice_has_its_own_difference_to_the_champion(judged):
    _, _, _, evaluation = judged
    champion = {(part.dimension, part.label): part.rmse for part in evaluation.champion.slices}
    judgeable = [part for part in evaluation.candidates["near"].slices if part.trips >= 50]
    assert len(judgeable) >= 24 + 7 + 5 + 4 + 2
    for part in judgeable:
        assert part.difference.value == pytest.approx(part.rmse - champion[part.dimension, part.label])
        assert part.difference.low < part.difference.high


def test_one_day_has_no_interval():
    pickups = [f"2021-02-01T{hour:02d}:10" for hour in range(24)]
    minutes = np.arange(24) + 10.0
    scores = evaluate(trips_at(pickups, minutes), {"model": predicting(minutes + 1)}, predicting(minutes + 2))
    assert scores.candidates["model"].rmse_interval is None
    assert scores.candidates["model"].difference == Measure(pytest.approx(-1), None, None)
    assert all(part.difference.interval is None for part in scores.candidates["model"].slices)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("field", ["minutes", "lower", "upper"])
def test_a_candidate_without_a_believable_number_is_disqualified(bad, field):
    trips = random_trips(1000, hours=30)
    good = predicting(trips.duration_minutes + 1)
    values = getattr(good, field).copy()
    values[:3] = bad
    evaluation = evaluate(trips, {"good": good, "broken": replace(good, **{field: values})})
    assert list(evaluation.candidates) == ["good"]
    assert evaluation.disqualified == {"broken": "It gives no plausible number of minutes for 3 of 1,000 trips."}


def test_a_champion_without_a_believable_number_is_nothing_to_compare_with():
    trips = random_trips(1000, hours=30)
    good = predicting(trips.duration_minutes + 1)
    evaluation = evaluate(trips, {"good": good}, predicting(np.full(1000, np.nan)))
    assert evaluation.champion is None
    assert evaluation.champion_problem == "It gives no plausible number of minutes for 1,000 of 1,000 trips."
    assert evaluation.candidates["good"].difference is None


def test_equal_durations_have_an_r2_of_one_only_if_all_are_met():
    trips = trips_at(["2021-02-01"] * 2, [10, 10])
    evaluation = evaluate(trips, {"right": predicting([10, 10]), "wrong": predicting([10, 11])})
    assert {name: scores.r2 for name, scores in evaluation.candidates.items()} == {"right": 1.0, "wrong": 0.0}


def test_a_month_without_trips_cannot_be_judged_on():
    with pytest.raises(ContractError, match="no trips to judge on: choose a month that has some"):
        evaluate(trips_at([], []), {})


def test_predictions_of_another_number_of_trips_are_a_defect():
    with pytest.raises(ValueError, match=r"5 trips are wanted, but their shapes are \[\(4,\)\]"):
        evaluate(random_trips(5), {"model": predicting([1, 2, 3, 4])})


def test_trips_judged_batch_by_batch_have_the_scores_of_all_at_once(judged):
    trips, near, far, whole = judged

    def part(prediction, rows):
        return StandIn(prediction.minutes[rows], prediction.lower[rows], prediction.upper[rows])

    batches = [
        Batch(
            trips.duration_minutes[rows],
            trips.pickup_datetime[rows],
            slice_trips(trips[rows]),
            {"far": part(far, rows), "near": part(near, rows)},
            part(far, rows),
        )
        for rows in (slice(0, 5), slice(5, 3000), slice(3000, None))
    ]
    found = evaluation_scores.evaluate(batches)
    assert (found.trips, found.days) == (whole.trips, whole.days)
    for name, scores in whole.candidates.items():
        assert found.candidates[name].metrics == pytest.approx(scores.metrics)
        np.testing.assert_array_equal(found.candidates[name].density, scores.density)
        for part_found, part_whole in zip(found.candidates[name].slices, scores.slices, strict=True):
            assert (part_found.label, part_found.trips) == (part_whole.label, part_whole.trips)
            assert part_found.difference.value == pytest.approx(part_whole.difference.value)
