"""What is asked these days beside what the champion learned from, with a registry, a store and a log as they are."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

from tests.unit.conftest import TOWN
from tripcast.cli import main
from tripcast.jobs.live import watch_live
from tripcast.jobs.months import load_valid_trips
from tripcast.months import Month
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prediction_rows import Answerer
from tripcast.taxi.pyfunc import flavour
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import ways_of

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def ask(loop):
    """Has the champion, and a challenger beside it, answer 2,000 trips of March; perhaps all from one zone."""
    _, trips = load_valid_trips(TOWN, "green", Month(2021, 3), loop.settings)
    model = loop.registry.load(loop.registry.version(1))

    def ask(zone=None):
        rows = np.random.default_rng(1).choice(len(trips), 2_000, replace=False)
        pickup = trips.pickup_zone[rows] if zone is None else np.full(len(rows), zone, np.int16)
        asked = Trips(trips.pickup_datetime[rows], pickup, trips.dropoff_zone[rows], trips.trip_distance_miles[rows])
        log = PredictionLog(loop.store, loop.folder / "spool")
        ways, prediction = ways_of(asked, metered=False).tolist(), model.predict(asked)
        for answerer in (Answerer("tripcast-green", 1, "champion"), Answerer("tripcast-yellow", 1, "champion")):
            log.extend(answerer, [None] * len(rows), asked, ways, prediction)
        assert log.close(60).pending == 0

    return ask


def test_what_is_asked_as_ever_has_not_drifted(loop, ask):
    ask()

    found, page = watch_live("green", 7)

    assert found.trips == 2_000
    assert max(found.psi.values()) < 0.1
    assert page == f"{loop.store.uri}/live/green/report.html"
    figures = dict(loop.registry.traffic().figures["live"])
    assert figures.pop("looked_at") > 0
    assert figures == {"trips": 2_000, **{f"psi.{feature}": psi for feature, psi in found.psi.items()}}


def test_what_is_asked_otherwise_is_seen_at_once_and_stands_first_on_the_page(loop, ask):
    ask(zone=74)

    done = CliRunner().invoke(main, ["log", "drift"])

    assert done.exit_code == 0, done.output
    assert loop.registry.traffic().figures["live"]["psi.pickup_zone"] > 0.25
    rows = re.findall(r'<th scope="row">(.+?)</th>', loop.store.read("live/green/report.html").decode())
    assert rows[0] == "pickup zone"
    assert {"dropoff zone", "trip distance miles", "predicted minutes"} < set(rows)


def test_a_log_without_answers_says_so(loop):
    found, _ = watch_live("green", 7)

    assert found is None
    assert loop.registry.traffic().figures["live"]["trips"] == 0
    assert "was asked nothing in these days" in loop.store.read("live/green/report.html").decode()


def test_all_taxis_that_serve_are_looked_at_whatever_is_wrong_with_one(loop, make_model):
    with Tracker("tripcast-yellow", loop.settings).pipeline_run("first", "first") as run_id:
        yellow = Registry("tripcast-yellow", loop.settings)
        yellow.register(make_model(1), flavour=flavour("yellow"), run_id=run_id, tags={})
    yellow.promote(1, "It is the first.")

    done = CliRunner().invoke(main, ["log", "drift"])

    assert done.exit_code == 2
    assert "Green taxi: " in done.stdout
    assert "tripcast-yellow version 1 was registered without a reference: train a version anew." in done.stderr


def test_where_nothing_serves_it_is_said(loop):
    loop.registry.remove_champion("For a test.")
    done = CliRunner().invoke(main, ["log", "drift"])

    assert (done.exit_code, done.stdout) == (2, "")
    assert "No model serves, so nobody is answered: train one first." in done.stderr
