"""What tripcast 0.1 registered goes on loading, serving and rolling back.

``registered_by_0_1`` is what it left behind: two versions' folders as they stand in MLflow's store (without the copy of
its code), the tags and aliases of the registered model, and what the two models predicted for twenty trips.
"""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from tests.conftest import make_trips
from tripcast.monitoring.quality import read_expectations
from tripcast.monitoring.reference import PROFILE, Profile
from tripcast.registry.registry import Registry
from tripcast.registry.versions import EXPECTATION
from tripcast.taxi.bins import BINS
from tripcast.taxi.ways import METERED

LEFT = Path(__file__).parent / "registered_by_0_1"


@pytest.fixture
def registry(settings, tmp_path) -> Registry:
    """A store that holds what was left behind."""
    left = json.loads((LEFT / "registry.json").read_text())
    registry, client = Registry("tripcast-green", settings), mlflow.MlflowClient()
    client.create_registered_model("tripcast-green", tags=left["tags"])
    for number, version in sorted(left["versions"].items()):
        folder = Path(shutil.copytree(LEFT / f"version-{number}", tmp_path / f"version-{number}"))
        (folder / "code").mkdir()
        client.create_model_version("tripcast-green", folder.as_uri(), tags=version["tags"])
    for alias, number in left["aliases"].items():
        client.set_registered_model_alias("tripcast-green", alias, str(number))
    return registry


def test_each_version_predicts_what_it_predicted(registry):
    trips = make_trips(600, seed=5)[:20]
    for number, expected in json.loads((LEFT / "predictions.json").read_text()).items():
        prediction = registry.load(registry.version(int(number))).predict(trips, metered=True)
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(prediction, name), values, rtol=1e-9)


def test_mlflow_loads_a_version_by_the_module_that_it_names(registry):
    raw = pd.DataFrame(
        {
            "lpep_pickup_datetime": pd.to_datetime(["2021-02-10T08:15:00"]),
            "PULocationID": [74],
            "DOLocationID": [236],
            "trip_distance": [2.3],
        }
    )
    predicted = mlflow.pyfunc.load_model("models:/tripcast-green@champion").predict(raw)
    assert 8 < predicted["duration_minutes"][0] < 20


def test_a_version_is_monitored_by_the_profile_and_the_expectation_that_it_came_with(registry, tmp_path):
    champion = registry.traffic().champion
    profile = Profile.load(registry.download(champion, tmp_path / "fetched") / PROFILE, BINS)
    assert profile.trips == 600
    assert read_expectations(champion.tags[EXPECTATION], METERED)[METERED].rmse(np.array([10.0])) == pytest.approx(
        2, abs=1
    )


def test_the_promotion_record_goes_on(registry):
    traffic = registry.traffic()
    assert (traffic.champion.number, traffic.challenger.number, traffic.share) == (2, 1, 0.1)

    registry.withdraw("Enough seen.")
    registry.rollback("Too slow.")

    assert {alias: version.number for version in registry.versions() for alias in version.aliases} == {"champion": 1}
    assert [move.action for move in registry.moves()] == ["promote", "promote", "challenge", "withdraw", "rollback"]
