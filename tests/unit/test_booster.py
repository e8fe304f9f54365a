"""The booster: the predictions of LightGBM's own package, without it."""

import subprocess
import sys

import lightgbm
import numpy as np
import pytest

from tripcast.models.booster import Booster

FEATURES = ("east", "north", "hour")


@pytest.fixture(scope="module")
def trained() -> lightgbm.Booster:
    random = np.random.default_rng(0)
    rows = random.normal(size=(2000, 3))
    rows[::10, 1] = np.nan
    target = rows[:, 0] ** 2 + np.nan_to_num(rows[:, 1]) * rows[:, 2] + random.normal(0, 0.1, 2000)
    data = lightgbm.Dataset(rows, target, feature_name=list(FEATURES))
    return lightgbm.train({"verbose": -1, "num_leaves": 15}, data, num_boost_round=30)


@pytest.fixture(scope="module")
def booster(trained) -> Booster:
    return Booster(trained.model_to_string().encode(), FEATURES)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    rows[::7, 1] = np.nan
    return rows


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_rows_are_predicted_as_by_lightgbms_own_package(trained, booster, rows, threads):
    np.testing.assert_array_equal(booster.predict(rows, threads), trained.predict(rows))


def test_contributions_are_those_of_lightgbms_own_package(trained, booster, rows):
    contributions = booster.contributions(rows)
    np.testing.assert_allclose(contributions, trained.predict(rows, pred_contrib=True), rtol=1e-12)
    np.testing.assert_allclose(contributions.sum(axis=1), booster.predict(rows, 1), rtol=1e-9)


def test_contributions_to_rows_of_another_width_are_refused(booster, rows):
    with pytest.raises(ValueError, match="3 features are expected in a row, and not 2"):
        booster.contributions(rows[:, :2])


def test_rows_may_lie_in_memory_in_any_order(booster, rows):
    np.testing.assert_array_equal(booster.predict(np.asfortranarray(rows), 1), booster.predict(rows, 1))
    np.testing.assert_array_equal(booster.predict(rows[::2], 1), booster.predict(rows, 1)[::2])


def test_no_rows_have_no_predictions(booster, rows):
    assert booster.predict(rows[:0], 1).shape == (0,)


def test_rows_of_another_width_are_refused(booster, rows):
    with pytest.raises(ValueError, match="3 features are expected in a row, and not 2"):
        booster.predict(rows[:, :2], 1)


def test_one_row_is_predicted_as_in_a_matrix(booster, rows):
    singly = []
    for row in rows:
        booster.row[:] = row.data
        singly.append(booster.predict_row())
    np.testing.assert_array_equal(singly, booster.predict(rows, 1))


def test_boosters_do_not_share_their_row(trained, booster, rows):
    other = Booster(booster.text, FEATURES)
    booster.row[:], other.row[:] = rows[0].data, rows[1].data
    assert [booster.predict_row(), other.predict_row()] == booster.predict(rows[:2], 1).tolist()


@pytest.mark.parametrize("damage", [lambda text: b"", lambda text: b"\xff\x00", lambda text: text[: len(text) // 2]])
def test_a_damaged_text_is_refused(booster, damage):
    with pytest.raises(ValueError, match=r"\w"):
        Booster(damage(booster.text), FEATURES)


def test_trees_pick_their_features_out_of_wider_rows(booster, rows):
    wide = Booster(booster.text, ("hour", "weekday", "east", "north"))
    wider = np.column_stack([rows[:, 2], np.full(len(rows), np.nan), rows[:, :2]]).astype(np.float32)
    np.testing.assert_array_equal(wide.predict(wider, 1), booster.predict(rows, 1))
    contributions = wide.contributions(wider)
    np.testing.assert_array_equal(contributions[:, [2, 3, 0, 4]], booster.contributions(rows))
    assert not contributions[:, 1].any()
    wide.row[:] = wider[5].data
    assert wide.predict_row() == booster.predict(rows[5:6], 1)[0]


def test_boosters_may_share_a_row(booster, rows):
    other = Booster(booster.text, FEATURES, shares=booster)
    booster.row[:] = rows[3].data
    assert other.predict_row() == booster.predict_row() == booster.predict(rows[3:4], 1)[0]


def test_other_features_than_the_trees_were_grown_on_are_refused(booster):
    with pytest.raises(ValueError, match="other features: hour"):
        Booster(booster.text, ("east", "north", "weekday"))


@pytest.mark.slow
def test_a_booster_frees_its_memory(booster):
    script = """
import sys, resource
from tripcast.models.booster import Booster
text = sys.stdin.buffer.read()
peaks = []
for count in (20, 400):
    for _ in range(count):
        Booster(text, ("east", "north", "hour"))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0] < 4_000)
"""
    child = subprocess.run([sys.executable, "-c", script], input=booster.text, capture_output=True, check=True)
    assert child.stdout == b"True\n"
