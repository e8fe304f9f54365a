"""Training: what it refuses, what it holds out, and that it gives the same model every time."""

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from tests.conftest import make_trips
from tripcast.errors import InvalidRequest
from tripcast.jobs import train as train_job
from tripcast.jobs.train import train
from tripcast.models.model import Search
from tripcast.taxi import features
from tripcast.taxi.candidates import CANDIDATES, boosting, lightgbm, linear
from tripcast.taxi.trip_files import TripFiles, trips_schema
from tripcast.taxi.trips import Trips, sample

pytestmark = pytest.mark.usefixtures("few_trees")

DATA = {"2021-01": "cd" * 32}


def test_an_unknown_candidate_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequest, match="no candidate 'forest': choose among linear, lightgbm, tuned"):
        train("forest", make_trips(600), taxi="green", data=DATA)


def test_too_few_trips_are_refused_with_the_number_needed():
    with pytest.raises(InvalidRequest, match="499 good trips are too few to train on: at least 500"):
        train("linear", make_trips(499), taxi="green", data=DATA)


def test_a_search_without_trials_is_refused():
    with pytest.raises(InvalidRequest, match="at least 1"):
        train("tuned", make_trips(600), taxi="green", data=DATA, trials=0)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_five_hundred_trips_suffice(candidate):
    model = train(candidate, make_trips(500), taxi="green", data=DATA, trials=1)
    assert model.manifest.trips == 500
    assert np.std(model.predict(make_trips(100, seed=1)).minutes) > 1


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_trips_of_a_single_day_suffice(candidate):
    trips = make_trips(20_000)
    day = trips[trips.pickup_datetime < np.datetime64("2021-01-02")]
    model = train(candidate, day, taxi="green", data=DATA, trials=1)
    assert np.isfinite(model.predict(day).minutes).all()


def test_choices_are_made_on_the_later_trips(monkeypatch):
    seen = {}
    fit_holdout = linear.fit_holdout

    def watch(earlier, later, search):
        seen.update(earlier=earlier, later=later)
        return fit_holdout(earlier, later, search)

    monkeypatch.setattr(linear, "fit_holdout", watch)
    trips = make_trips(1000)
    shuffled = trips[np.random.default_rng(0).permutation(1000)]
    model = train("linear", shuffled, taxi="green", data=DATA)
    assert len(seen["earlier"]) == 850
    assert len(seen["later"]) == 150
    assert seen["earlier"].pickup_datetime.max() <= seen["later"].pickup_datetime.min()
    assert model.manifest.trips == 1000


@pytest.mark.slow
def test_the_calibration_is_that_of_trips_held_out():
    trips = make_trips(4000)
    model = train("lightgbm", trips, taxi="green", data=DATA)
    found = model.manifest.calibration
    holdout_fit, _ = lightgbm.fit_holdout(trips[:3400], trips[3400:], Search(1, None))
    errors = holdout_fit.predict(trips[3400:], metered=True) - trips.duration_minutes[3400:]
    assert found.trips == 600
    assert found.rmse == pytest.approx(np.sqrt(np.mean(errors**2)), abs=1e-4)
    assert found.mae == pytest.approx(np.mean(np.abs(errors)), abs=1e-4)
    assert found.bias == pytest.approx(np.mean(errors), abs=1e-4)


@pytest.mark.slow
def test_slower_traffic_at_the_end_lifts_the_level_halfway():
    trips = make_trips(8000)
    trips.duration_minutes[6800:] *= 1.2
    np.clip(trips.duration_minutes, 1, 60, out=trips.duration_minutes)
    assert train("lightgbm", trips, taxi="green", data=DATA).manifest.parameters["level"] == pytest.approx(
        1.1, abs=0.02
    )


@pytest.mark.slow
def test_a_search_tells_of_every_trial_and_keeps_the_best():
    told = []
    model = train(
        "tuned", make_trips(800), taxi="green", data=DATA, trials=4, on_trial=lambda *trial: told.append(trial)
    )
    assert [number for number, _, _ in told] == [0, 1, 2, 3]
    assert told[0][1] == lightgbm.DEFAULTS
    _, best, _ = min(told, key=lambda trial: trial[2])
    assert {name: model.manifest.parameters[name] for name in best} == best


@pytest.mark.slow
def test_a_search_that_finds_nothing_better_returns_the_defaults(monkeypatch):
    run = boosting.HoldoutFit.run

    def worse_than_the_defaults(self, parameters):
        predictor, rmse = run(self, parameters)
        return predictor, rmse + (parameters != lightgbm.DEFAULTS)

    monkeypatch.setattr(boosting.HoldoutFit, "run", worse_than_the_defaults)
    trips = make_trips(800)
    tuned = train("tuned", trips, taxi="green", data=DATA, trials=3)
    default = train("lightgbm", trips, taxi="green", data=DATA)
    assert tuned.manifest.parameters == default.manifest.parameters
    assert tuned.manifest.files == default.manifest.files


def test_a_search_does_not_write_to_the_console(capfd):
    train("tuned", make_trips(600), taxi="green", data=DATA, trials=2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.slow
def test_the_same_trips_give_the_same_bytes_whatever_the_number_of_threads(candidate, tmp_path):
    trips = make_trips(20_000)
    trips.trip_distance_miles[::500] = 50_000.0
    for threads in (1, 2):
        with threadpool_limits(threads):
            train(candidate, trips, taxi="green", data=DATA, trials=2).save(tmp_path / str(threads))
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} for folder in ("1", "2"))
    assert one == two


def write(trips, folder, group=700):
    folder.mkdir()
    table = pa.table([getattr(trips, name) for name in trips_schema().names], schema=trips_schema())
    for number, start in enumerate(range(0, len(table), 4000)):
        pq.write_table(table[start : start + 4000], folder / f"2021-{number + 1:02d}.parquet", row_group_size=group)
    return TripFiles(sorted(folder.glob("*.parquet")))


@pytest.mark.parametrize("candidate", ["linear", "lightgbm"])
@pytest.mark.slow
def test_files_that_are_read_a_batch_at_a_time_give_the_model_of_the_same_trips_in_memory(
    candidate, tmp_path, monkeypatch
):
    monkeypatch.setattr(boosting, "_BIN_ROWS", 3000)
    monkeypatch.setattr(train_job, "_HOLDOUT_TRIPS", 2500)
    trips = make_trips(10_000)
    trips = trips[np.random.default_rng(0).permutation(len(trips))]
    streamed = train(candidate, write(trips, tmp_path / "files"), taxi="green", data=DATA)
    assert streamed.manifest == train(candidate, trips, taxi="green", data=DATA).manifest


def test_files_of_trips_come_in_their_order_and_never_empty(tmp_path):
    trips = make_trips(9000)
    files = write(trips, tmp_path / "files")
    pq.write_table(trips_schema().empty_table(), tmp_path / "files" / "2021-02-none.parquet")
    batches = list(TripFiles(sorted((tmp_path / "files").glob("*.parquet"))).batches())
    assert len(files) == 9000
    assert {len(batch) for batch in batches} == {700, 500, 300}  # 4000 and 1000 in groups of 700
    np.testing.assert_array_equal(Trips.joined(batches).duration_minutes, trips.duration_minutes)


def test_a_sample_is_all_trips_or_evenly_spaced_ones(tmp_path):
    trips = make_trips(9000)
    files = write(trips, tmp_path / "files")
    assert len(sample(trips, 9000)) == len(sample(files, 10_000)) == 9000
    some = sample(files, 4)
    rows = [0, 2999, 5999, 8999]
    np.testing.assert_array_equal(some.trip_distance_miles, trips.trip_distance_miles[rows])


@pytest.mark.slow
def test_tables_of_a_sample_of_the_trips_predict_nearly_as_well(monkeypatch):
    trips, later = make_trips(40_000), make_trips(5000, seed=1)

    def rmse():
        errors = train("lightgbm", trips, taxi="green", data=DATA).predict(later).minutes - later.duration_minutes
        return np.sqrt(np.mean(errors**2))

    whole = rmse()
    monkeypatch.setattr(features, "_TABLE_TRIPS", 10_000)
    assert rmse() == pytest.approx(whole, rel=0.02)
