"""Drift against its plain definitions on raw samples, and on a simulated city that changes on command."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from tripcast.errors import ContractError, StorageError
from tripcast.monitoring import drift
from tripcast.monitoring.drift import compare
from tripcast.monitoring.reference import PREDICTED, VALUES, Batch, Bins, Profile
from tripcast.months import Month
from tripcast.taxi.bins import BINS, profile_trips
from tripcast.taxi.contract import sort_rows
from tripcast.taxi.ingestion import typed_batches
from tripcast.taxi.sources import open_source
from tripcast.taxi.trips import Trips


def make_trips(count=20_000, seed=0, longer=1.0, zones=(41, 42, 74, 75, 166, 236), month="2021-02"):
    random = np.random.default_rng(seed)
    zone = random.choice(zones, (2, count)).astype(np.int16)
    second = np.sort(random.integers(0, 28 * 86_400, count)).astype("timedelta64[s]")
    return Trips(np.datetime64(month, "us") + second, *zone, longer * random.gamma(2.0, 1.5, count).round(2) + 0.01)


def minutes_of(trips):
    return 3 + 4 * trips.trip_distance_miles


def profile(*batches):
    return profile_trips(batches, map(minutes_of, batches))


def the(feature, found):
    (part,) = [part for part in found.features if part.feature == feature]
    return part


def test_a_window_like_the_reference_has_not_drifted():
    found = compare(profile(make_trips(seed=1)), profile(make_trips(seed=2)))
    assert [part.feature for part in found.features] == list(BINS)
    assert all(part.psi < 0.01 for part in found.features)
    assert found.psi == dict.fromkeys(BINS, 0.0)
    assert (found.new_places, found.gone_places) == ({}, ())
    assert found.volume_ratio == pytest.approx(1, abs=0.05)


def test_the_same_trips_have_no_distance_to_themselves():
    reference = profile(make_trips())
    for part in compare(reference, reference).features:
        assert part.psi == 0


def test_the_psi_of_a_continuous_feature_is_that_of_the_deciles():
    before, after = make_trips(seed=1), make_trips(seed=2, longer=1.3)
    found = the("trip_distance_miles", compare(profile(before), profile(after)))
    deciles = np.quantile(before.trip_distance_miles, np.arange(1, 10) / 10)
    p, q = (
        np.bincount(np.searchsorted(deciles, trips.trip_distance_miles), minlength=10) / len(trips)
        for trips in (before, after)
    )
    assert found.psi == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=0.05)
    assert found.psi > 0.1


def test_the_psi_of_a_discrete_feature_is_that_of_its_values():
    before, after = make_trips(seed=1), make_trips(seed=2, zones=(41, 41, 41, 42, 74, 75, 166, 236))
    found = the("pickup_zone", compare(profile(before), profile(after)))
    zones = np.unique(before.pickup_zone)
    p, q = (np.array([np.mean(trips.pickup_zone == zone) for zone in zones]) for trips in (before, after))
    assert found.psi == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-12)


def test_psi_of_known_shares():
    # (0.4 - 0.5) ln(0.4 / 0.5) + (0.6 - 0.5) ln(0.6 / 0.5)
    assert drift.psi(np.array([50, 50]), np.array([40, 60])) == pytest.approx(0.040547, abs=1e-6)


def test_an_empty_bin_makes_no_infinity():
    expected = (0.5 - 0.0001) * np.log(0.5 / 0.0001) + 0.5 * np.log(2)
    assert drift.psi(np.array([1, 1]), np.array([0, 2])) == pytest.approx(expected, rel=1e-12)


def windows_of_one_law(shares, reference, window, count, monkeypatch):
    """The PSI of windows that are drawn as their references are, and its bound by chance; of a tenth of the draws."""
    monkeypatch.setattr(drift, "_DRAWS", 200)
    chance = np.random.default_rng(0)
    pairs = [[chance.multinomial(trips, shares) for trips in (reference, window)] for _ in range(count)]
    return np.array([[drift.psi(*pair), drift._psi_by_chance(*pair)] for pair in pairs]).T


@pytest.mark.slow
def test_chance_exceeds_its_bound_in_one_window_of_a_hundred_however_rare_most_values_are(monkeypatch):
    shares = np.random.default_rng(0).pareto(0.7, 260)
    found, bound = windows_of_one_law(shares / shares.sum(), 20_000, 5_000, 300, monkeypatch)
    assert 1 <= np.sum(found > bound) <= 8


def test_chance_follows_its_law_where_every_bin_has_many_trips(monkeypatch):
    found, bound = windows_of_one_law(np.full(199, 1 / 199), 20_000, 4_000, 50, monkeypatch)
    per_trip = 1 / 4_000 + 1 / 20_000
    assert np.mean(bound) == pytest.approx(stats.chi2.ppf(0.99, 198) * per_trip, rel=0.05)
    assert np.mean(found) == pytest.approx(198 * per_trip, rel=0.1)


def test_batches_add_up_to_the_whole():
    trips = make_trips(5_000)
    whole, parts = profile(trips), profile(trips[:100], trips[100:3_000], trips[3_000:])
    assert parts.to_json() == whole.to_json()
    assert whole.trips == 5_000


def test_a_profile_survives_its_file_and_is_small(tmp_path):
    batches = (make_trips(50_000, seed=seed, zones=range(1, 266), month=f"2021-{seed:02d}") for seed in range(1, 13))
    kept = profile(*batches)
    file = tmp_path / "model" / "profile.json"
    kept.save(file)
    assert file.stat().st_size < 100_000
    assert Profile.load(file, BINS).to_json() == kept.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "counts": {"pickup_zone": {"999": 1}}}']
)
def test_a_damaged_profile_is_refused(tmp_path, text):
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(StorageError, match=r"profile\.json is not the profile of trips"):
        Profile.load(file, BINS)


def test_no_trips_or_predictions_make_no_profile():
    with pytest.raises(ContractError, match="no trips to profile"):
        profile_trips([], [np.ones(3)])
    with pytest.raises(ContractError, match="no predictions to profile"):
        profile_trips([make_trips(3)], [])


def test_predictions_may_be_of_other_trips_than_the_features():
    learned, test, later = make_trips(3_000, seed=1), make_trips(1_000, seed=2), make_trips(2_000, seed=3)
    reference = profile_trips([learned], [minutes_of(test)])
    found = the("predicted_minutes", compare(reference, profile(later)))
    assert found.psi == the("predicted_minutes", compare(profile(test), profile(later))).psi
    assert found.psi < found.psi_chance


def test_unbelievable_distances_count_as_missing():
    before, after = make_trips(1_000), make_trips(1_000)
    after.trip_distance_miles[:200] = np.repeat([0.0, np.nan, 1e5, -1.0], 50)
    reference = profile(before)
    found = the("trip_distance_miles", compare(reference, profile_trips([after], [minutes_of(before)])))
    assert (found.missing_share, found.reference_missing_share) == (0.2, 0.0)
    assert found.psi > found.psi_chance


def test_a_window_without_any_distance_has_a_psi():
    trips = make_trips(1_000)
    unmeasured = replace(trips, trip_distance_miles=np.full(1_000, np.nan))
    found = compare(profile(trips), profile_trips([unmeasured], [minutes_of(trips)]))
    part = the("trip_distance_miles", found)
    assert part.psi > 5
    assert part.missing_share == 1.0


def test_new_and_gone_places_are_named():
    reference = profile(make_trips(zones=(41, 42, 74)))
    found = compare(reference, profile(make_trips(300, zones=(41, 42, 7, 264))))
    assert list(found.new_places) == [7, 264]
    assert 100 < found.new_places[7] < 200
    assert found.gone_places == (74,)
    assert the("pickup_zone", found).missing_share == pytest.approx(0.25, abs=0.08)


def test_a_rare_zone_without_trips_is_not_gone():
    trips = make_trips(10_000, zones=(41, 42))
    trips.pickup_zone[:5] = 74
    assert compare(profile(trips), profile(make_trips(10_000, zones=(41, 42)))).gone_places == ()


def test_volume_is_that_of_a_usual_day_whatever_clocks_say():
    reference, window = make_trips(28_000, seed=1), make_trips(14_000, seed=2)
    window.pickup_datetime[:3] = np.array(["2009-01-01", "2033-01-01", "2045-07-01"], "datetime64[us]")
    found = compare(profile(reference), profile(window))
    assert found.trips_per_day == pytest.approx(500, rel=0.1)
    assert found.volume_ratio == pytest.approx(0.5, rel=0.1)
    assert found.days["2009-01-01"] == 1
    assert sum(found.days.values()) == found.trips == 14_000


def test_a_drift_becomes_plain_json():
    found = compare(profile(make_trips(zones=(41, 42))), profile(make_trips(zones=(41, 7))))
    document = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert document["features"][0]["feature"] == "pickup_zone"
    assert document["new_places"].keys() == {"7"}
    assert document["gone_places"] == [42]


def city_month(source, month, folder):
    """The good trips of a simulated month, a batch at a time."""
    for batch in typed_batches(open_source(source, folder).month("green", Month.parse(month)), "green"):
        kept, _ = sort_rows(batch)
        yield Trips(**{name: kept[name].to_numpy() for name in kept.schema.names})


def test_ten_numbers_are_enough_to_see_what_has_moved():
    bins = {"grade": Bins(3), "depot": Bins(4, missing=(0,), places=True), PREDICTED: VALUES}

    def of(grades, depots):
        day = np.full(len(grades), np.datetime64("2021-02-01", "us"))
        batch = Batch({"grade": np.array(grades), "depot": np.array(depots)}, day)
        return Profile.of(bins, [batch], [np.ones(len(grades))])

    found = compare(of([0, 1] * 5, [1, 2] * 5), of([2] * 10, [1, 3] * 5))
    assert the("grade", found).psi > the("grade", found).psi_chance
    assert the(PREDICTED, found).psi == 0
    assert (found.new_places, found.gone_places) == ({3: 5}, ())


def test_zones_that_come_into_fashion_in_a_city_show_in_the_zones(tmp_path):
    city = "simulated?trips=8000&new_zones=2021-03"
    february, march = (profile(*city_month(city, month, tmp_path)) for month in ("2021-02", "2021-03"))
    found = compare(february, march)
    assert found.psi["pickup_zone"] > 0.2
    assert found.psi["weekday"] < 0.05
