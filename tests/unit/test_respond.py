"""The response to a watched month: what is sent, promoted and withdrawn, and that none of it is done twice."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.conftest import TOWN
from tripcast.errors import InvalidRequest
from tripcast.jobs.months import load_valid_trips
from tripcast.jobs.respond import LoopOptions, respond, start_retraining
from tripcast.monitoring import alerts
from tripcast.monitoring.rule import Rule
from tripcast.months import Month
from tripcast.registry.tracking import Tracker
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prediction_rows import Answerer
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import ways_of

pytestmark = pytest.mark.usefixtures("without_pictures")

SLOW = f"{TOWN}&slower_streets=2021-03:0.6"
FAST = f"{TOWN}&slower_streets=2021-03:1.6"


def told(channel):
    """The first line of each message."""
    return [message["blocks"][0]["text"]["text"].strip("*") for message in channel.messages]


# Alerts.


def test_an_incident_goes_out_once_however_long_it_lasts(loop, channel):
    loop.source = SLOW
    loop.watch("2021-03")
    loop.respond("2021-03")
    assert told(channel) == [
        "Green taxis: the intervals of version 1 are off.",
        "Green taxis: the predictions of version 1 have become worse.",
    ]
    assert channel.messages[1]["text"].startswith("Green taxis: the predictions of version 1 have become worse. Since")
    assert str(loop.settings.home / "monitoring" / "green" / "2021-03" / "report.html") in json.dumps(
        channel.messages[1]
    )

    window = loop.watch("2021-04")
    response = loop.respond("2021-04")
    assert told(channel)[2:] == []
    assert response.retrain
    assert response.what == window.reason


@pytest.mark.slow
def test_each_broken_month_is_told_of(loop, channel):
    loop.source = f"{TOWN}&bad_rows=2021-03..2021-04"
    for month in ("2021-03", "2021-04"):
        loop.watch(month)
        assert not loop.respond(month).retrain
    assert told(channel) == [
        "Green taxis: the data of 2021-03 is broken.",
        "Green taxis: the data of 2021-04 is broken.",
    ]


def test_a_response_that_was_given_is_told_and_given_no_more(loop, channel):
    loop.source, loop.rule = SLOW, Rule(k=1, n=1)
    loop.registry.challenger(3, 0.1, "On trial.")
    loop.watch("2021-03")
    first = loop.respond("2021-03")
    sent, moves = len(channel.messages), loop.moves

    again = loop.respond("2021-03")

    assert again.what == f"2021-03 was responded to before: {first.what}"
    assert again.retrain is first.retrain
    assert (len(channel.messages), loop.moves) == (sent, moves)


def test_a_dead_webhook_fails_nothing_and_the_alert_goes_out_with_the_next_response(loop, channel, monkeypatch):
    monkeypatch.setattr(alerts, "_RETRIES", 0)
    loop.source = f"{TOWN}&bad_rows=2021-03..2021-03"
    loop.watch("2021-03")
    channel.answers.append(503)
    assert loop.respond("2021-03").what.endswith("Alerts that wait for a webhook: 1.")
    channel.messages.clear()

    window = loop.watch("2021-04")

    assert window.incidents == ()
    assert loop.respond("2021-04").what == f"{window.reason} Alerts sent: 1."
    assert told(channel) == ["Green taxis: the data of 2021-03 is broken."]


def test_the_same_response_again_sends_what_still_waits(loop, channel, monkeypatch):
    monkeypatch.setattr(alerts, "_RETRIES", 0)
    loop.source = f"{TOWN}&bad_rows=2021-03..2021-03"
    loop.watch("2021-03")
    channel.answers.append(503)
    loop.respond("2021-03")
    loop.respond("2021-03")
    loop.respond("2021-03")
    assert told(channel) == ["Green taxis: the data of 2021-03 is broken."] * 2  # refused once, then taken once


def test_without_a_webhook_alerts_wait_and_the_trial_is_ended_all_the_same(loop):
    loop.registry.challenger(3, 0.1, "On trial.")
    loop.watch("2021-03")
    assert loop.respond("2021-03").what.endswith("it is withdrawn. Alerts that wait for a webhook: 1.")
    assert loop.serving == (1, None)


def test_a_month_that_was_not_watched_cannot_be_responded_to(loop):
    for ask in (lambda: respond("green", "2021-03"), lambda: start_retraining(LoopOptions(TOWN, "green"), "2021-03")):
        with pytest.raises(InvalidRequest, match="2021-03 was not watched yet"):
            ask()


# The trial of a challenger.


def test_a_challenger_that_is_better_on_live_truth_becomes_the_champion(loop, channel):
    loop.registry.challenger(2, 0.1, "On trial.")
    window = loop.watch("2021-03")
    assert loop.serving == (1, 2)

    loop.respond("2021-03")

    assert loop.serving == (2, None)
    move = loop.registry.moves()[-1]
    assert (move.action, move.version, move.replaced, move.cause) == ("promote", 2, 1, "monitoring/2021-03")
    assert move.reason == window.trial.reason
    assert "it becomes the champion" in move.reason
    assert told(channel) == ["Green taxis: the challenger, version 2, becomes the champion."]
    assert loop.registry.rollback("By hand.").version == 1


def test_a_challenger_that_is_worse_on_live_truth_is_withdrawn_and_people_are_told(loop, channel):
    loop.registry.challenger(3, 0.1, "On trial.")
    window = loop.watch("2021-03")

    loop.respond("2021-03")

    assert loop.serving == (1, None)
    move = loop.registry.moves()[-1]
    assert (move.action, move.version, move.replaced, move.cause) == ("withdraw", 3, None, "monitoring/2021-03")
    assert move.reason == window.trial.reason
    assert "minutes worse than version 1" in move.reason
    assert told(channel) == ["Green taxis: the challenger, version 3, is withdrawn."]


def test_a_challenger_of_a_later_month_is_not_judged_on_what_it_has_seen(loop):
    loop.registry.expect(2, loop.registry.version(2).tags["tripcast.expectation"], "2021-02")
    loop.registry._client.set_model_version_tag("tripcast-green", "2", "tripcast.test_month", "2021-03")
    loop.registry.challenger(2, 0.1, "On trial.")

    assert loop.watch("2021-03").trial is None
    loop.respond("2021-03")
    assert loop.serving == (1, 2)
    assert loop.watch("2021-04").trial.challenger == 2


def one_day(loop, month):
    """A log and its truth, of the trips of one day: what is better there may be so by chance."""
    _, trips = load_valid_trips(loop.source, "green", Month.parse(month), loop.settings)
    trips = trips[trips.pickup_datetime.astype("datetime64[D]") == np.datetime64(f"{month}-10")]
    asked = Trips(trips.pickup_datetime, trips.pickup_zone, trips.dropoff_zone, trips.trip_distance_miles)
    log = PredictionLog(loop.store, loop.folder / "spool")
    prediction = loop.registry.load(loop.registry.version(1)).predict(asked)
    ids = log.extend(
        Answerer("tripcast-green", 1, "champion"),
        [None] * len(asked),
        asked,
        ways_of(asked, False).tolist(),
        prediction,
    )
    assert log.close(60).dropped == 0
    file = loop.folder / f"truth-{month}.parquet"
    pq.write_table(pa.table({"prediction_id": ids, "duration_minutes": trips.duration_minutes}), file)
    loop.store.put(file, f"truth/green/{month}.parquet")


@pytest.mark.slow
def test_an_undecided_challenger_waits_for_its_windows_and_is_then_withdrawn(loop, months_in):
    """A month whose data is broken is none of them."""
    folder = months_in(TOWN, "2021-03..2021-06")
    broken = folder / "green_tripdata_2021-04.parquet"
    broken.write_bytes(broken.read_bytes()[:-2_000])
    loop.source = str(folder)
    for month in ("2021-03", "2021-05", "2021-06"):
        one_day(loop, month)
    loop.registry.challenger(2, 0.1, "On trial.")

    verdicts = {}
    for month in ("2021-03", "2021-04", "2021-05", "2021-06"):
        trial = loop.watch(month).trial
        loop.respond(month)
        verdicts[month] = (trial and trial.verdict, loop.serving)

    assert verdicts == {
        "2021-03": ("wait", (1, 2)),
        "2021-04": (None, (1, 2)),
        "2021-05": ("wait", (1, 2)),
        "2021-06": ("withdraw", (1, None)),
    }
    assert "3 windows have not proven it better" in loop.registry.moves()[-1].reason


def test_a_champion_that_is_worse_than_the_one_before_it_goes_back_and_people_are_told(loop, channel):
    loop.registry.promote(3, "By hand.")
    window = loop.watch("2021-03")
    assert window.comparison.rmse > window.comparison.previous_rmse

    loop.respond("2021-03")

    assert loop.serving == (1, None)
    move = loop.registry.moves()[-1]
    assert (move.action, move.version, move.cause) == ("rollback", 1, "monitoring/2021-03/relapse")
    assert move.reason == window.comparison.relapse
    assert "Green taxis: version 3 goes back to version 1." in told(channel)
    assert loop.watch("2021-04").comparison is None  # the first champion has none before it


def test_a_promotion_that_has_paid_stays_and_its_saving_is_told(loop):
    loop.registry.promote(2, "By hand.")
    window = loop.watch("2021-03")
    assert window.comparison.relapse == ""
    assert "its promotion saves" in window.comparison.sentence
    loop.respond("2021-03")
    assert loop.serving == (2, None)


def test_a_person_who_rolled_back_meanwhile_is_not_followed_by_another_rollback(loop):
    loop.registry.promote(2, "By hand.")
    loop.registry.promote(3, "By hand.")
    assert loop.watch("2021-03").comparison.relapse
    loop.registry.rollback("By hand.")
    loop.respond("2021-03")
    assert loop.serving == (2, None)


def test_a_person_who_decided_meanwhile_has_the_last_word(loop):
    loop.registry.challenger(2, 0.1, "On trial.")
    assert loop.watch("2021-03").trial.verdict == "promote"
    loop.registry.withdraw("By hand.")

    loop.respond("2021-03")

    assert loop.serving == (1, None)
    assert loop.moves == [("promote", 1), ("challenge", 2), ("withdraw", 2)]


# Retraining.


def test_a_retraining_is_asked_for_until_it_has_come_to_something(loop):
    loop.source, loop.rule = SLOW, Rule(k=1, n=1)
    window = loop.watch("2021-03")
    assert loop.respond("2021-03").retrain
    assert loop.respond("2021-03").retrain
    options = LoopOptions(SLOW, "green", candidates=["linear"], trials=5, rollout=0.2, canary_minutes=3.0)
    assert options.training_arguments(window) == {
        "source": SLOW,
        "taxi": "green",
        "train_months": "2021-01,2021-02",
        "test_month": "2021-03",
        "candidates": ["linear"],
        "trials": 5,
        "rollout": 1.0,
        "trial_rollout": 0.2,
        "proven_gain": Rule().min_gain_aged,
        "refit": True,
        "canary_minutes": 3.0,
        "approval": False,
    }

    loop.history.save_retraining(window, {"run": "run-1"})

    assert not loop.respond("2021-03").retrain
    assert start_retraining(options, "2021-03") == "Run run-1 was started before."


def test_without_kubeflow_pipelines_the_retraining_is_left_to_the_loop(loop, monkeypatch):
    monkeypatch.delenv("TRIPCAST_KFP_ENDPOINT", raising=False)
    loop.source, loop.rule = SLOW, Rule(k=1, n=1)
    window = loop.watch("2021-03")
    assert start_retraining(LoopOptions(SLOW, "green"), "2021-03") == (
        "Left to whoever runs the loop: train on 2021-01,2021-02, test on 2021-03."
    )
    assert loop.history.get_retraining(window) is None


def test_a_month_that_calls_for_no_retraining_starts_none(loop):
    loop.rule = Rule(k=1, n=1)
    window, options = loop.watch("2021-03"), LoopOptions(TOWN, "green")
    assert start_retraining(options, "2021-03") == "2021-03 calls for no training."
    with pytest.raises(InvalidRequest, match="2021-03 calls for no training"):
        options.training_arguments(window)


def test_a_training_that_is_cut_short_and_repeated_makes_one_version_and_one_promotion(loop):
    loop.source = SLOW
    window = loop.live("2021-03..2021-04")["2021-04"]
    moves, versions = loop.moves, len(loop.registry.versions())
    assert moves == [("promote", 1), ("promote", 4)]
    assert loop.registry.version(4).tags["tripcast.train_months"] == "2021-02, 2021-03, 2021-04"
    # As if the process had died before it noted that the training was over.
    (loop.settings.home / "monitoring" / "green" / "2021-04" / "retrained.json").unlink()

    loop.turn("2021-04")

    assert (loop.moves, len(loop.registry.versions())) == (moves, versions)
    assert loop.history.get_retraining(window) == {"decision": "unchanged"}


# Processes that are killed.

MANY_LIVES = """
import os, signal, sys
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store  # once, not each life
from mlflow import MlflowClient
from tripcast.storage.store import FolderStore
from tripcast.jobs.respond import respond

def deadly(owner, name):
    change = getattr(owner, name)
    def last(*args, **kwargs):
        change(*args, **kwargs)
        print(name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, last)

for life in range(20):
    child = os.fork()
    if not child:
        deadly(FolderStore, "put")
        for name in ("set_registered_model_tag", "set_registered_model_alias"):
            deadly(MlflowClient, name)
        for name in ("delete_registered_model_tag", "delete_registered_model_alias"):
            deadly(MlflowClient, name)
        print(respond("green", sys.argv[1]).what, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        break
"""


@pytest.mark.parametrize(("city", "move", "serving"), [(SLOW, "promote", (3, None)), (FAST, "withdraw", (1, None))])
@pytest.mark.slow
def test_a_response_that_is_killed_after_each_change_and_repeated_does_nothing_twice(
    loop, channel, city, move, serving
):
    """Each life of the process makes one change to the store or the registry, and the next goes on from there."""
    loop.source = city
    loop.registry.challenger(3, 0.1, "It learned where streets are slow.")
    window = loop.watch("2021-03")
    lives = subprocess.run(
        [sys.executable, "-c", MANY_LIVES, "2021-03"], capture_output=True, text=True, env=os.environ, check=True
    )

    *changes, said = lives.stdout.splitlines()
    assert said.startswith("2021-03 was responded to before:")
    assert {"put", "set_registered_model_tag", "delete_registered_model_alias"} <= set(changes)
    assert changes.count("put") == 2 * len(told(channel)) + 1
    assert loop.moves == [("promote", 1), ("challenge", 3), (move, 3)]
    assert loop.serving == serving
    assert len(told(channel)) == len(set(told(channel))) == len(window.incidents) + 1
    assert loop.history.get_response(window)


DIES_BEFORE_IT_RECORDS = """
import os, signal, sys
from pathlib import Path
from tripcast.storage.store import FolderStore
from tripcast.monitoring.rule import Rule
from tripcast.jobs.monitor import watch

put = FolderStore.put
def deadly(self, file, key, content_type=None):
    if key.endswith("window.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, file, key, content_type)
FolderStore.put = deadly
pages = {"report": Path("report"), "summary": Path("summary")}
watch(sys.argv[1], "green", "2021-03", rule=Rule(), training_months=3, **pages)
"""


@pytest.mark.slow
def test_a_month_whose_watching_is_killed_before_its_record_is_watched_once(loop):
    killed = subprocess.run(
        [sys.executable, "-c", DIES_BEFORE_IT_RECORDS, SLOW],
        capture_output=True,
        text=True,
        cwd=loop.folder,
        env=os.environ,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert loop.history.window("2021-03") is None

    loop.source = SLOW
    window = loop.watch()

    assert (window.month, window.action) == ("2021-03", "retrain")
    assert [each.month for each in loop.history.windows()] == ["2021-03"]
    client = loop.registry._client
    experiment = Tracker(loop.registry.name, loop.settings).experiment_id
    (run,) = client.search_runs([experiment], "attributes.run_name = 'monitoring green'")
    (point,) = client.get_metric_history(run.info.run_id, "champion.rmse")
    assert point.value == window.result.rmse.value
