"""Monitoring: predictions joined with their truth, and what is measured of them."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import make_trips
from tripcast.errors import ContractError
from tripcast.jobs.judge import judged as judge_trips
from tripcast.jobs.judge import score
from tripcast.models import Model
from tripcast.monitoring.quality import (
    Expectation,
    join,
    judged_schema,
    measure,
    read_expectations,
    write_expectations,
)
from tripcast.monitoring.trial import DailySums
from tripcast.taxi.ways import ways_of

#: The minutes that a truth may have.
BOUNDS = (1, 60)


def judged(true, predicted, *, day=None, version=1, arm="champion", way="zones_only", half_width=5.0):
    true, predicted = np.asarray(true, float), np.asarray(predicted, float)
    n = len(true)
    day = np.arange(n) % 28 if day is None else np.asarray(day)
    return pa.table(
        [
            pa.array([f"id-{row}" for row in range(n)]),
            pa.array(np.full(n, version, np.int32)),
            pa.array(np.full(n, arm)),
            pa.array(np.full(n, way)),
            pa.array(np.datetime64("2021-02-01T08:00", "us") + day.astype("timedelta64[D]")),
            predicted,
            predicted - half_width,
            predicted + half_width,
            true,
        ],
        schema=judged_schema(),
    )


def days_of_traffic(seed, days=28, per_day=50, spread=2.0):
    """Trips whose errors share what their day does, and the day of each."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), random.poisson(per_day, days))
    truth = random.uniform(5, 30, len(day))
    return truth, truth + random.normal(0, spread, days)[day] + random.normal(0, 3, len(day)), day


def log_of(ids, **changed):
    n = len(ids)
    columns = {
        "prediction_id": ids,
        "version": pa.array([3] * n, pa.int32()),
        "arm": ["champion"] * n,
        "way": ["planned"] * n,
        "rider_id": pa.nulls(n, pa.string()),
        "pickup_datetime": pa.array([datetime(2021, 2, 10, 8)] * n, pa.timestamp("us")),
        "duration_minutes": [10.0 + row for row in range(n)],
        "lower_minutes": [8.0] * n,
        "upper_minutes": [15.0] * n,
    }
    return pa.table({**columns, **changed})


def test_the_measures_are_their_plain_definitions():
    truth, predicted, day = days_of_traffic(seed=0)
    (found,) = measure(judged(truth, predicted, day=day))
    error = predicted - truth
    assert (found.version, found.arm, found.trips, found.days) == (1, "champion", len(truth), 28)
    assert found.rmse.value == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found.mae.value == pytest.approx(np.mean(np.abs(error)))
    assert found.bias.value == pytest.approx(np.mean(error))
    assert found.interval_coverage.value == pytest.approx(np.mean(np.abs(error) <= 5))
    for mean in (found.rmse, found.mae, found.bias, found.interval_coverage):
        assert mean.low < mean.value < mean.high


def test_the_interval_of_equal_days_is_that_of_student_s_t_over_day_means():
    truth, predicted, day = np.zeros(40), np.repeat([1.0, 2.0, 3.0, 6.0], 10), np.repeat([0, 1, 2, 3], 10)
    (found,) = measure(judged(truth, predicted, day=day))
    reach = 3.182446 * np.std([1, 2, 3, 6], ddof=1) / 2  # t of 97.5 % with three degrees of freedom
    assert (found.bias.low, found.bias.high) == (pytest.approx(3 - reach), pytest.approx(3 + reach))
    assert found.rmse.value == pytest.approx(np.sqrt(12.5))
    assert found.rmse.low == 0.0  # four days are few: the mean squared error may be anything from zero


def test_intervals_hold_the_truth_as_often_as_they_say_when_days_share_their_traffic():
    expected = np.sqrt(2.0**2 + 3.0**2)
    found = [measure(judged(*days[:2], day=days[2]))[0] for days in map(days_of_traffic, range(400))]
    held = {
        "bias": np.mean([quality.bias.low <= 0 <= quality.bias.high for quality in found]),
        "rmse": np.mean([quality.rmse.low <= expected <= quality.rmse.high for quality in found]),
    }
    assert 0.92 <= held["bias"] <= 0.98
    assert 0.90 <= held["rmse"] <= 0.98


def test_versions_and_arms_are_measured_apart():
    parts = [
        judged(np.full(10, 9.0), np.full(10, 10.0), version=12, arm="challenger"),
        judged(np.full(20, 9.0), np.full(20, 11.0), version=3),
        judged(np.full(30, 9.0), np.full(30, 12.0), version=12),
    ]
    rows = pa.concat_tables(parts).take(np.random.default_rng(0).permutation(60))
    assert [(part.version, part.arm, part.trips, round(part.bias.value, 9)) for part in measure(rows)] == [
        (3, "champion", 20, 2.0),
        (12, "challenger", 10, 1.0),
        (12, "champion", 30, 3.0),
    ]


def test_what_to_expect_follows_the_mix_of_trips():
    # Trips predicted at 10 minutes are off by 1, those at 30 minutes by 5.
    expectation = Expectation.of(judged([11.0, 9.0, 25.0, 35.0], [10.0, 10.0, 30.0, 30.0]))
    assert (expectation.up_to, expectation.squared_error) == ([10.0], [1.0, 25.0])
    assert expectation.rmse(np.array([10.0, 30.0])) == pytest.approx(np.sqrt(13))
    assert expectation.rmse(np.array([4.0, 8.0, 10.0])) == 1.0
    assert expectation.rmse(np.array([99.0])) == 5.0


def test_a_window_like_the_test_month_is_expected_to_be_as_good():
    truth, predicted, day = days_of_traffic(seed=0, per_day=200)
    rows = judged(truth, predicted, day=day)
    expectation = Expectation.of(rows)
    (found,) = measure(rows, {1: {"zones_only": expectation}, 2: {"zones_only": Expectation([], [99.0])}})
    assert found.expected_rmse == pytest.approx(found.rmse.value)
    assert len(expectation.squared_error) == 20
    assert measure(rows)[0].expected_rmse is None


def test_an_older_model_on_easier_trips_is_seen_to_have_aged():
    random = np.random.default_rng(0)
    long, short = random.uniform(5, 55, 5_000), random.uniform(5, 25, 5_000)

    def after(predicted, noise):
        return judged(predicted * (1 + random.normal(0, noise, 5_000)), predicted)

    expectation = Expectation.of(after(long, 0.2))
    (found,) = measure(after(short, 0.25), {1: {"zones_only": expectation}})
    assert found.rmse.value < expectation.rmse(long)
    assert found.rmse.value / found.expected_rmse == pytest.approx(1.25, abs=0.05)


def test_each_way_is_held_against_its_own_expectation():
    """Clients that send no distance have errors of 6 minutes where plans have 4: that is no ageing."""
    random = np.random.default_rng(0)
    predicted = random.uniform(5, 55, 9_000)
    blind = judged(predicted[:6_000] + random.normal(0, 6, 6_000), predicted[:6_000])
    planned = judged(predicted[6_000:] + random.normal(0, 4, 3_000), predicted[6_000:], way="planned")
    known = {
        "zones_only": Expectation([], [36.0]),
        "planned": Expectation([], [16.0]),
        "metered": Expectation([], [9.0]),
    }
    (found,) = measure(pa.concat_tables([blind, planned]), {1: known})
    assert found.expected_rmse == pytest.approx(np.sqrt((2 * 36 + 16) / 3))
    assert found.rmse.value / found.expected_rmse == pytest.approx(1, abs=0.03)
    assert [(part.way, part.trips, part.expected_rmse) for part in found.ways] == [
        ("planned", 3_000, 4.0),
        ("zones_only", 6_000, 6.0),
    ]
    for part, alone in zip(found.ways, (planned, blind), strict=True):
        (apart,) = measure(alone)
        assert (part.rmse, part.mae, part.interval_coverage) == (apart.rmse, apart.mae, apart.interval_coverage)


def test_what_is_not_known_of_one_way_is_not_known_of_the_whole():
    rows = pa.concat_tables([judged([10.0] * 9, [11.0] * 9), judged([10.0], [11.0], way="planned")])
    (found,) = measure(rows, {1: {"zones_only": Expectation([], [1.0])}})
    assert found.expected_rmse is None
    assert [part.expected_rmse for part in found.ways] == [None, 1.0]


def test_no_judged_predictions_give_no_expectation():
    with pytest.raises(ContractError, match="no judged predictions to learn from"):
        Expectation.of(judged_schema().empty_table())


def test_one_day_has_no_interval():
    (found,) = measure(judged([10, 20], [11, 19], day=[0, 0]))
    assert (found.mae.value, found.mae.low, found.mae.high) == (1.0, None, None)


def test_nothing_to_judge_gives_nothing():
    assert measure(judged_schema().empty_table()) == ()


def test_minutes_that_are_no_number_are_refused():
    with pytest.raises(ContractError, match="1 of 3 predictions to judge have no finite number of minutes"):
        measure(judged([10, 20, 30], [11, np.nan, 29]))


def test_truths_find_their_predictions_by_id():
    log = pa.concat_tables([log_of(["a", "b", "c"]), log_of(["d"], arm=["challenger"])])
    truth = pa.table({"prediction_id": ["d", "b", "nobody's"], "duration_minutes": [12.0, 9.0, 5.0]})
    rows, found = join(log, truth, BOUNDS)
    assert rows.schema == judged_schema()
    assert rows.select(["prediction_id", "arm", "predicted_minutes", "true_minutes"]).to_pylist() == [
        {"prediction_id": "d", "arm": "challenger", "predicted_minutes": 10.0, "true_minutes": 12.0},
        {"prediction_id": "b", "arm": "champion", "predicted_minutes": 11.0, "true_minutes": 9.0},
    ]
    assert (found.unjudged, found.unknown, found.ambiguous) == (2, 1, 0)


def test_a_truth_that_no_trip_can_have_had_is_left_out_and_counted():
    minutes = [1.0, 60.0, 0.99, 600.0, np.inf, np.nan, -3.0]
    ids = [f"id-{row}" for row in range(len(minutes))]
    truth = pa.table({"prediction_id": ids, "duration_minutes": minutes})
    rows, found = join(log_of(ids), truth, BOUNDS)
    assert rows["true_minutes"].to_pylist() == [1.0, 60.0]
    assert (found.unjudged, found.unknown, found.ambiguous, found.out_of_bounds) == (0, 0, 0, 5)


def test_runaway_meters_do_not_pass_for_errors_of_the_model():
    truth, predicted, _ = days_of_traffic(seed=0)
    ids = [f"id-{row}" for row in range(len(truth))]
    recorded = np.where(np.arange(len(truth)) % 160 == 0, 800.0, truth)
    log = log_of(ids, duration_minutes=predicted, lower_minutes=predicted, upper_minutes=predicted)
    rows, found = join(log, pa.table({"prediction_id": ids, "duration_minutes": recorded}), BOUNDS)
    (quality,) = measure(rows)
    assert quality.rmse.value == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)), rel=0.02)
    assert found.out_of_bounds == np.count_nonzero(recorded == 800)


def test_an_id_with_two_truths_has_none():
    truth = pa.table({"prediction_id": ["a", "b", "a"], "duration_minutes": [12.0, 9.0, 40.0]})
    rows, found = join(log_of(["a", "b"]), truth, BOUNDS)
    assert rows["prediction_id"].to_pylist() == ["b"]
    assert (found.unjudged, found.unknown, found.ambiguous) == (1, 0, 2)


def test_a_truth_without_an_id_or_a_duration_is_none():
    truth = pa.table({"prediction_id": ["a", None, "b"], "duration_minutes": [None, 9.0, 8.0]})
    rows, found = join(log_of(["a", "b"]), truth, BOUNDS)
    assert rows["prediction_id"].to_pylist() == ["b"]
    assert (found.unjudged, found.unknown, found.ambiguous) == (1, 0, 0)


def test_an_empty_log_joins_to_nothing():
    truth = pa.table({"prediction_id": ["a"], "duration_minutes": [12.0]})
    rows, found = join(log_of(["a"])[:0], truth, BOUNDS)
    assert (len(rows), found.unjudged, found.unknown) == (0, 0, 1)
    assert measure(rows) == ()


def test_the_served_version_is_scored_where_nothing_was_logged(make_model, monkeypatch):
    monkeypatch.setattr("tripcast.jobs.judge._BATCH_TRIPS", 400)
    model, trips = Model.load(make_model(1)), make_trips(1_000, seed=5)
    rows = score(model, trips, version=7)
    assert rows.schema == judged_schema()
    assert rows["prediction_id"].null_count == 1_000
    np.testing.assert_array_equal(rows["predicted_minutes"].to_numpy(), model.predict(trips, metered=True).minutes)
    (found,) = measure(rows)
    error = model.predict(trips, metered=True).minutes - trips.duration_minutes
    assert (found.version, found.arm, found.trips) == (7, "champion", 1_000)
    assert found.rmse.value == pytest.approx(np.sqrt(np.mean(error**2)))


def test_trips_without_durations_cannot_be_scored(make_model):
    trips = make_trips(10)
    object.__setattr__(trips, "duration_minutes", None)
    with pytest.raises(ValueError, match="no durations"):
        score(Model.load(make_model(1)), trips, version=7)


def test_expectations_survive_json_and_fit_into_a_tag():
    truth, predicted, day = days_of_traffic(seed=0, per_day=200)
    expectation = Expectation.of(judged(truth, predicted, day=day))
    text = write_expectations({"planned": expectation, "metered": expectation, "zones_only": Expectation([], [9.0])})
    again = read_expectations(text, only_way="metered")
    assert again["planned"].rmse(predicted) == pytest.approx(expectation.rmse(predicted), rel=1e-3)
    assert again["zones_only"].rmse(np.array([5.0])) == 3.0
    assert len(text) < 1500


def test_the_expectation_of_an_older_version_is_of_the_one_way_it_was_judged_in():
    found = read_expectations('{"up_to": [], "squared_error": [9.0]}', only_way="metered")
    assert found == {"metered": Expectation([], [9.0])}


def test_what_is_no_expectation_is_not_read():
    for text, error in (("{", ValueError), ('{"up_to": []}', TypeError), ('{"mean": 1}', TypeError)):
        with pytest.raises(error):
            read_expectations(text, only_way="metered")


def test_predictions_stand_beside_the_truth_of_their_trips(make_model):
    model, trips = Model.load(make_model(1)), make_trips(50, seed=5)
    prediction = model.predict(trips, metered=True)
    ways = ways_of(trips, metered=True)
    rows = judge_trips(trips, ways, prediction, version=3, arm="challenger")
    assert rows.schema == judged_schema()
    np.testing.assert_array_equal(rows["true_minutes"].to_numpy(), trips.duration_minutes)
    np.testing.assert_array_equal(rows["lower_minutes"].to_numpy(), prediction.lower)
    assert rows["way"].to_pylist() == ways.tolist()
    assert (rows["version"].unique().to_pylist(), rows["arm"].unique().to_pylist()) == ([3], ["challenger"])


def test_the_difference_of_two_versions_is_that_of_their_errors():
    truth, predicted, day = days_of_traffic(seed=0)
    better = truth + 0.5 * (predicted - truth)
    worse, rows = judged(truth, predicted, day=day), judged(truth, better, day=day)
    found = DailySums.of(rows, worse).difference()
    assert found.value == pytest.approx(measure(rows)[0].rmse.value - measure(worse)[0].rmse.value)
    assert found.low < found.value < found.high < 0
    mirrored = DailySums.of(worse, rows).difference()
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_what_a_day_does_to_both_versions_cancels_out():
    truth, predicted, day = days_of_traffic(seed=0, spread=4.0)
    slightly = truth + 0.99 * (predicted - truth)
    rows, others = judged(truth, slightly, day=day), judged(truth, predicted, day=day)
    apart = [measure(each)[0].rmse for each in (rows, others)]
    assert apart[0].high > apart[1].low  # alone neither could be told from the other
    assert DailySums.of(rows, others).difference().high < 0


def test_equal_versions_do_not_differ_and_one_day_proves_nothing():
    truth, predicted, day = days_of_traffic(seed=0)
    same = DailySums.of(judged(truth, predicted, day=day), judged(truth, predicted, day=day)).difference()
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    alone = DailySums.of(judged([10, 20], [11, 19], day=[0, 0]), judged([10, 20], [12, 18], day=[0, 0])).difference()
    assert (alone.value, alone.low, alone.high) == (-1.0, None, None)
    right = DailySums.of(judged([10.0, 20.0], [10.0, 20.0]), judged([10.0, 20.0], [11.0, 21.0])).difference()
    assert right.value == -1.0


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    held = []
    for seed in range(300):
        truth, predicted, day = days_of_traffic(seed)
        random = np.random.default_rng(1_000 + seed)
        others = predicted + random.normal(0, 2, len(truth))  # noise of its own: its squared error is 4 more
        found = DailySums.of(judged(truth, others, day=day), judged(truth, predicted, day=day)).difference()
        held.append(found.low <= np.sqrt(2**2 + 3**2 + 2**2) - np.sqrt(2**2 + 3**2) <= found.high)
    assert 0.91 <= np.mean(held) <= 0.99
