"""The monitoring pipeline and the training that it calls for, by the command that people type, on a folder."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.command_line import TRIPCAST, environment, tripcast
from tests.unit.conftest import Loop
from tests.unit.test_alerts import Channel
from tripcast.monitoring.history import History
from tripcast.months import parse_months
from tripcast.settings import Settings
from tripcast.taxi.simulation import City

#: Streets become slow in March.
CITY = City.parse("simulated?trips=5000&seed=7&slower_streets=2021-03:0.6")


@pytest.fixture(scope="module")
def channel():
    """A webhook to which alerts go."""
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Months from January to May, and a damaged one of July; June is not published."""
    folder = tmp_path_factory.mktemp("months")
    for month in parse_months("2021-01..2021-05,2021-07"):
        rows = pa.Table.from_batches(CITY.month("green", month))
        pq.write_table(rows, folder / f"green_tripdata_{month}.parquet")
    damaged = folder / "green_tripdata_2021-07.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-2_000])
    return folder


@pytest.fixture(scope="module")
def loop(tmp_path_factory, empty_store, source):
    """A home in which version 1 serves, trained on January and judged on February."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPCAST_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "TRIPCAST_ARTIFACTS", "TRIPCAST_KFP_ENDPOINT"):
            patch.setenv(name, "")
        loop = Loop(Settings.load(), tmp_path_factory.mktemp("work"), source=str(source))
        loop.train("2021-01", "2021-02", 1.0)
        yield loop


@pytest.fixture(scope="module")
def turn(loop, channel):
    """Arguments and environment of a turn of that loop."""
    arguments = ["loop", "--source", loop.source, "--candidates", "lightgbm", "--home", str(loop.settings.home)]
    return [*arguments, "--json"], {"TRIPCAST_ALERT_WEBHOOK": channel.url}


def kill_at(line: str, turn) -> None:
    """Take a turn, and kill it without warning when it has come to a line of its progress."""
    arguments, settings = turn
    process = subprocess.Popen(
        [str(TRIPCAST), *arguments], stderr=subprocess.PIPE, text=True, env=environment(**settings)
    )
    assert process.stderr is not None
    said = []
    for each in process.stderr:
        said.append(each)
        if each.startswith(line):
            process.kill()
            break
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, "".join(said)


@pytest.fixture(scope="module")
def turns(turn, loop, channel) -> list[dict]:
    """The loop's turns, after a bad March, until nothing is left to do: the first is killed, and taken again.

    Each says what was printed, what serves afterwards, and what the webhook has been sent meanwhile.
    """
    loop.turn("2021-03")
    taken = []
    kill_at("ingest 2021-03: started", turn)
    for _ in range(4):
        arguments, settings = turn
        result = tripcast(*arguments, **settings)
        assert result.returncode == 0, result.stderr
        told = [message["blocks"][0]["text"]["text"].strip("*") for message in channel.messages]
        taken.append({**json.loads(result.stdout), "serving": loop.serving, "told": told, "stderr": result.stderr})
        channel.messages.clear()
    return taken


def test_progress_names_the_steps_of_the_turn_and_no_others(turns):
    assert "monitor next: succeeded" in turns[0]["stderr"]
    assert "retrain 2021-04: succeeded" in turns[0]["stderr"]
    assert "train lightgbm: succeeded" in turns[0]["stderr"]
    assert "respond 2021-07: succeeded" in turns[2]["stderr"]
    assert "retrain" not in turns[2]["stderr"]


def test_a_candidate_whose_gain_is_proven_serves_at_once_and_has_learned_from_the_latest_month(turns, loop):
    april = turns[0]
    assert (april["month"], april["action"], april["serving"]) == ("2021-04", "retrain", (2, None))
    assert april["retraining"] == {"train": "2021-01,2021-02,2021-03", "test": "2021-04", "min_gain": 0.01}
    assert (april["trained"]["train_months"], april["trained"]["test_month"]) == (
        "2021-01, 2021-02, 2021-03",
        "2021-04",
    )
    assert (april["trained"]["decision"], april["trained"]["version"]) == ("promoted", 2)
    assert april["trained"]["learned"] == ["2021-02", "2021-03", "2021-04"]
    assert april["trained"]["serves"] == "Version 2 answers every rider."
    assert loop.registry.version(2).tags["tripcast.train_months"] == "2021-02, 2021-03, 2021-04"


def test_a_turn_that_was_killed_and_taken_again_did_nothing_twice(turns, loop):
    # Also what the killed one sent is in here, and what March had left waiting for a webhook.
    assert turns[0]["told"].count("tripcast-green: version 2 has taken the place of version 1.") == 1
    assert turns[0]["told"].count("Green taxis: the predictions of version 1 have become worse.") == 1
    assert len(turns[0]["told"]) == len(set(turns[0]["told"]))
    assert loop.moves[:2] == [("promote", 1), ("promote", 2)]
    assert turns[0]["response"].startswith(turns[0]["reason"])


def test_the_next_month_says_what_the_promotion_has_saved(turns):
    may = turns[1]
    assert (may["month"], may["comparison"]["champion"], may["comparison"]["previous"]) == ("2021-05", 2, 1)
    assert may["comparison"]["rmse"] < 0.95 * may["comparison"]["previous_rmse"]
    assert may["comparison"]["relapse"] == ""
    assert "its promotion saves" in Path(may["report"]).read_text()


def test_a_damaged_month_alerts_and_fails_nothing(turns):
    july = turns[2]
    assert (july["month"], july["action"], july["retraining"]) == ("2021-07", "alert", None)
    assert "green_tripdata_2021-07.parquet" in july["result"]["data_problem"]
    assert july["told"] == ["Green taxis: the data of 2021-07 is broken."]


def test_nothing_new_is_said_and_is_no_failure(turns):
    assert (turns[3]["month"], turns[3]["told"]) == (None, [])
    assert turns[3]["response"] == "The next month is not published yet."


def test_the_report_is_a_page_in_the_run_and_in_the_store(turns, loop):
    for each in turns[:3]:
        page = Path(each["report"]).read_text()
        assert page.startswith("<!DOCTYPE html>")
        kept = Path(History(loop.store, "green").report_uri(each["month"])).read_text()
        assert each["reason"] in page
        assert kept == page
    assert Path(turns[0]["report"]).read_text().count("<svg") >= 3


def test_a_home_without_a_champion_ends_with_2_and_says_what_to_do(tmp_path, source):
    result = tripcast("loop", "--source", source, "--month", "2021-03", "--home", tmp_path)
    assert result.returncode == 2
    assert "No version of tripcast-green serves, so there is nothing to watch: train one first." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_rule_that_cannot_be_ends_with_2_before_any_work(tmp_path):
    result = tripcast("loop", "--source", tmp_path, "--rule", "k=4", "--home", tmp_path / "home")
    assert result.returncode == 2
    assert "k is 4 of n = 3 windows: give 0 <= k <= n." in result.stderr
    assert not any((tmp_path / "home").iterdir())
