"""Models: what they predict, their folder, and the published months' figures."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression

from tests.conftest import make_trips
from tripcast.errors import StorageError
from tripcast.jobs.train import train
from tripcast.models import Model
from tripcast.taxi.candidates import CANDIDATES, lightgbm, linear
from tripcast.taxi.features import FEATURES, OutOfFold
from tripcast.taxi.trips import Trip, Trips
from tripcast.taxi.ways import METERED, PLANNED, ZONES_ONLY, as_asked


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """A model of each candidate, with few trees; one distance of a hundred is absurd."""
    trips, data = make_trips(3000), {"2021-01": "ab" * 32}
    trips.trip_distance_miles[::100] = 50_000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lightgbm.DEFAULTS, "rounds", 100)
        return {name: train(name, trips, taxi="green", data=data, trials=1) for name in CANDIDATES}


@pytest.fixture(params=CANDIDATES)
def model(request, models) -> Model:
    return models[request.param]


def test_linear_is_the_notebooks_pipeline():
    trips = make_trips(800)
    trips.trip_distance_miles[3] = 244_152.01
    train_trips, other = trips[:600], trips[600:]

    def as_dictionaries(trips):
        columns = (trips.pickup_zone, trips.dropoff_zone, trips.trip_distance_miles)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [{"PU_DO": f"{pickup}_{dropoff}", "trip_distance": miles} for pickup, dropoff, miles in rows]

    vectorizer = DictVectorizer()
    notebook = LinearRegression().fit(
        vectorizer.fit_transform(as_dictionaries(train_trips)), train_trips.duration_minutes
    )
    expected = notebook.predict(vectorizer.transform(as_dictionaries(other)))
    np.testing.assert_allclose(linear.fit(train_trips, {}).predict(other), expected, rtol=1e-6)


def test_linear_gives_unseen_pairs_intercept_and_distance_alone(models):
    predictor = models["linear"].predictor
    trips = replace(make_trips(2), pickup_zone=np.array([1, 1], np.int16), trip_distance_miles=np.array([0.0, 2.0]))
    assert predictor.predict(trips) == pytest.approx(
        [predictor.intercept, predictor.intercept + 2 * predictor.per_mile]
    )


def test_lightgbm_comes_closer_than_linear_which_believes_absurd_distances(models):
    trips = make_trips(2000, seed=1)
    linear_error, lightgbm_error = (
        np.sqrt(np.mean((models[name].predict(trips).minutes - trips.duration_minutes) ** 2))
        for name in ("linear", "lightgbm")
    )
    assert lightgbm_error < 0.6 * linear_error


def test_anything_within_the_types_has_a_prediction(model):
    zones = np.array([-32_768, -1, 0, 1, 41, 265, 266, 32_767], np.int16)
    miles = np.array([np.nan, -1.0, 0.0, 1e-300, 3.0, 100.0, 244_152.01, 1e300, np.inf])
    times = np.array(["1582-10-15", "2008-12-31T23:59:59", "2021-02-03T04:05:06", "2400-01-01"], "datetime64[us]")
    pickup, dropoff, distance, time = (axis.ravel() for axis in np.meshgrid(zones, zones, miles, times))
    prediction = model.predict(Trips(time, pickup, dropoff, distance))
    for values in (prediction.minutes, prediction.lower, prediction.upper):
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert (values > 0).all()
    assert (prediction.lower <= prediction.minutes).all()
    assert (prediction.minutes <= prediction.upper).all()


def test_no_trips_have_no_predictions(model):
    assert len(model.predict(make_trips(1)[:0]).minutes) == 0


def test_one_trip_is_predicted_as_in_a_batch(model):
    trips = make_trips(20, seed=1)
    singly = [model.predict(trips[row : row + 1]).minutes[0] for row in range(20)]
    np.testing.assert_array_equal(singly, model.predict(trips).minutes)


@pytest.mark.parametrize("candidate", CANDIDATES)
@given(
    pickup_zone=st.integers(-32_768, 32_767) | st.sampled_from([0, 41, 42, 74, 264, 265, 266]),
    dropoff_zone=st.integers(0, 300) | st.sampled_from([41, 42, 74, 244]),
    miles=st.sampled_from([np.nan, np.inf, -1.0, 0.0, 1e-300, 60.0, 60.01, 200.0, 244_152.01, 1e300])
    | st.floats(0.01, 20),
    pickup=st.integers(0, 4_133_980_799)  # the last second of 2100
    | st.sampled_from([1_609_459_200, 1_610_928_000, 1_612_915_199, 1_640_476_799]),  # midnights and holidays
)
def test_one_trip_by_itself_is_predicted_as_in_a_batch(models, candidate, pickup_zone, dropoff_zone, miles, pickup):
    model = models[candidate]
    trip = Trip(pickup_zone, dropoff_zone, miles, pickup)
    for metered in (False, True):
        found, expected = model.predict_one(trip, metered), model.predict(Trips.of([trip]), metered)
        assert [type(number) for number in found] == [float] * 3
        np.testing.assert_allclose(found, [expected.minutes[0], expected.lower[0], expected.upper[0]], rtol=1e-12)


def test_a_trip_by_itself_leaves_nothing_behind_for_the_next(model):
    trips = make_trips(20, seed=1)
    seconds = trips.pickup_datetime.astype("datetime64[s]").astype(int).tolist()
    columns = (trips.pickup_zone.tolist(), trips.dropoff_zone.tolist(), trips.trip_distance_miles.tolist(), seconds)
    found = [model.predict_one(Trip(*trip)) for trip in zip(*columns, strict=True)]
    expected = model.predict(trips)
    np.testing.assert_allclose(found, np.column_stack([expected.minutes, expected.lower, expected.upper]), rtol=1e-12)


def test_the_less_is_known_of_the_distance_the_wider_is_the_interval(models):
    asked = as_asked(make_trips(500, seed=1))
    found = {way: models["lightgbm"].predict(trips, metered=way == METERED) for way, trips in asked.items()}
    width = {way: float(np.mean(prediction.upper - prediction.lower)) for way, prediction in found.items()}
    assert width[ZONES_ONLY] > 1.2 * width[PLANNED] > 1.2 * 1.1 * width[METERED]


#: What the trees of model format 1 looked at, in their order.
FEATURES_OF_FORMAT_1 = (
    *("pickup_pace", "dropoff_pace", "pair_pace", "usual_miles", "pickup_x", "pickup_y", "dropoff_x", "dropoff_y"),
    *("east", "north", "miles", "miles_to_usual", "hour_of_day", "weekday", "hour_pace", "minutes_for_miles"),
    "estimate",
)


def test_a_folder_of_format_1_still_answers_in_every_way(models, tmp_path):
    """It had one booster, of other features, and two intervals: for a plausible distance, and for none."""
    trips, manifest = make_trips(1000), models["lightgbm"].manifest
    features = OutOfFold(trips)
    columns = [FEATURES.index(name) for name in FEATURES_OF_FORMAT_1]
    rows, names = features(trips)[:, columns], list(FEATURES_OF_FORMAT_1)
    data = lgb.Dataset(rows, trips.duration_minutes, feature_name=names, params={"verbose": -1})
    trees = lgb.train({"verbose": -1}, data, num_boost_round=20)
    predictor = lightgbm.load(
        {"booster.txt": trees.model_to_string().encode(), **features.tables.files()}, {"level": 1.1}
    )
    known, unknown = manifest.intervals["metered"], manifest.intervals["zones_only"]
    Model(
        replace(
            manifest,
            format=1,
            parameters={"level": 1.1},
            intervals={"measured": known, "unmeasured": unknown},
            files={name: sha256(content).hexdigest() for name, content in predictor.files().items()},
        ),
        predictor,
    ).save(tmp_path)

    model = Model.load(tmp_path)

    unmetered = replace(make_trips(5, seed=1), trip_distance_miles=np.zeros(5))
    np.testing.assert_array_equal(model.predict(unmetered, metered=True).upper, model.predict(unmetered).upper)
    for way, asked in as_asked(make_trips(50, seed=1)).items():
        found = model.predict(asked, metered=way == METERED)
        expected = 1.1 * trees.predict(features.tables(asked)[:, columns])
        np.testing.assert_allclose(found.minutes, expected, rtol=1e-9)
        ends = (unknown if way == ZONES_ONLY else known).around(found.minutes)[1]
        np.testing.assert_allclose(found.upper, np.maximum(np.minimum(ends, 60), found.minutes))
        second = int(asked.pickup_datetime[7].astype("datetime64[s]").astype(int))
        zones = int(asked.pickup_zone[7]), int(asked.dropoff_zone[7])
        one = model.predict_one(Trip(*zones, float(asked.trip_distance_miles[7]), second), metered=way == METERED)
        assert one == pytest.approx((found.minutes[7], found.lower[7], found.upper[7]), rel=1e-5)


def test_a_model_folder_has_less_than_two_megabytes_and_the_trees_of_each_way(models):
    files = models["lightgbm"].predictor.files()
    assert {name for name in files if name.endswith(".txt")} == {
        "booster.txt",
        "planned_booster.txt",
        "zones_booster.txt",
    }
    leaves = 200 * 127 + 60 * 63 + 40 * 63  # of trees as large as they may grow
    grown = [int(count) for text in files.values() for count in re.findall(rb"num_leaves=(\d+)", text)]
    trees = sum(len(content) for name, content in files.items() if name.endswith(".txt"))
    tables = sum(len(content) for name, content in files.items() if name.endswith(".npy"))
    assert tables + trees / sum(grown) * leaves < 2_000_000


def test_a_model_of_earlier_two_boosters_answers_plans_by_that_of_metered_trips(models):
    predictor, trips = models["lightgbm"].predictor, make_trips(20, seed=1)
    files = {name: content for name, content in predictor.files().items() if name != "planned_booster.txt"}
    earlier = lightgbm.load(files, {"level": 1.1, "zones_level": 0.9})
    np.testing.assert_array_equal(earlier.predict(trips), earlier.predict(trips, metered=True))
    assert set(earlier.files()) == set(files)
    nowhere = replace(trips, trip_distance_miles=np.full(20, np.nan))
    level = predictor.levels[ZONES_ONLY]
    np.testing.assert_allclose(earlier.predict(nowhere), 0.9 / level * predictor.predict(nowhere))


def test_a_saved_model_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    trips = make_trips(500, seed=1)
    assert loaded.manifest == model.manifest
    assert loaded.digest == model.digest
    for name in ("minutes", "lower", "upper"):
        np.testing.assert_array_equal(getattr(loaded.predict(trips), name), getattr(model.predict(trips), name))


def test_a_model_folder_is_of_open_formats(model, tmp_path):
    model.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".csv", ".txt", ".npy"}
    for table in tmp_path.glob("*.npy"):
        np.load(table, allow_pickle=False)


def test_the_manifest_tells_what_the_model_was_made_from(model, tmp_path):
    model.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["taxi"] == "green"
    assert manifest["data"] == {"2021-01": "ab" * 32}
    assert manifest["trips"] == 3000
    assert manifest["first_pickup"].startswith("2021-01-01T")
    assert manifest["calibration"]["trips"] == 450
    assert model.manifest.train_months == ["2021-01"]


def test_the_digest_changes_with_the_data(models):
    other = train("linear", make_trips(3000, seed=1), taxi="green", data={"2021-01": "ab" * 32})
    assert re.fullmatch("[0-9a-f]{64}", other.digest)
    assert other.digest != models["linear"].digest


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing/manifest\.json cannot be read: No such file"):
        Model.load(tmp_path / "nothing")


def test_a_missing_file_is_named(model, tmp_path):
    model.save(tmp_path)
    name = min(model.manifest.files)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError, match=f"{name} cannot be read"):
        Model.load(tmp_path)


def test_a_truncated_file_is_named(model, tmp_path):
    model.save(tmp_path)
    file = tmp_path / min(model.manifest.files)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StorageError, match=f"{file.name} is not the file that the model was saved with"):
        Model.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": "one"}', "\xff"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"manifest\.json is not the manifest of a model"):
        Model.load(tmp_path)


def test_a_later_format_is_refused(models, tmp_path):
    replace(models["linear"], manifest=replace(models["linear"].manifest, format=3)).save(tmp_path)
    with pytest.raises(StorageError, match="model format 3, and this tripcast reads up to 2"):
        Model.load(tmp_path)


def test_an_unknown_candidate_in_a_folder_is_refused(models, tmp_path):
    replace(models["linear"], manifest=replace(models["linear"].manifest, candidate="oracle")).save(tmp_path)
    with pytest.raises(StorageError, match="'oracle', and this tripcast knows linear, lightgbm, tuned"):
        Model.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        model.save(tmp_path / "file" / "model")


@pytest.mark.slow
def test_loading_and_predicting_import_numpy_alone(models, tmp_path):
    models["lightgbm"].save(tmp_path)
    script = """
import sys
from pathlib import Path
import numpy as np
from tripcast.models import Model
from tripcast.taxi.features import FEATURES, OutOfFold
from tripcast.taxi.trips import Trip, Trips
one = Trips(np.array(["2021-02-03T04:05"], "M8[us]"), np.array([41], "i2"), np.array([42], "i2"), np.array([1.5]))
model = Model.load(Path(sys.argv[1]))
model.predict(one)
model.predict_one(Trip(41, 42, 1.5, 1_612_325_100))
heavy = {"lightgbm", "scipy", "sklearn", "pandas", "pyarrow", "mlflow", "optuna", "matplotlib", "boto3", "kfp"}
print(sorted(heavy & set(sys.modules)))
"""
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


def test_trees_cut_short_are_refused_even_where_the_manifest_agrees(models, tmp_path):
    folder = tmp_path / "model"
    models["lightgbm"].save(folder)
    text = (folder / "booster.txt").read_bytes()[:-5000]
    (folder / "booster.txt").write_bytes(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["booster.txt"] = sha256(text).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match=r"cannot be read \(the trees are not LightGBM's text format, or not all of"):
        Model.load(folder)


@pytest.mark.slow
def test_naming_the_candidates_imports_none_of_them():
    script = "import sys; from tripcast.models import Model; print({'lightgbm', 'sklearn'} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout == "set()\n"


def test_a_model_of_0_1_that_another_candidate_loads_is_that_model_still(make_model, tmp_path):
    folder = shutil.copytree(make_model(1), tmp_path / "brought")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"candidate": "monthly", "loads_as": "linear"}
    text = json.dumps(manifest, indent=1) + "\n"
    (folder / "manifest.json").write_text(text)

    model = Model.load(folder)

    assert model.digest == sha256(text.encode()).hexdigest()
    trips = make_trips(10, seed=3)
    np.testing.assert_array_equal(model.predict(trips).minutes, Model.load(make_model(1)).predict(trips).minutes)


def test_a_model_of_a_candidate_that_tripcast_does_not_know_is_refused(make_model, tmp_path):
    folder = shutil.copytree(make_model(1), tmp_path / "unknown")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"candidate": "forest"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="names the candidate 'forest', and this tripcast knows linear, lightgbm"):
        Model.load(folder)
