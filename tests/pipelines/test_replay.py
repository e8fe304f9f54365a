"""The loop over past months, by the command that people type, in a simulated city in which streets become slow."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipelines.local.loop import Turn
from pipelines.local.replay import ReplayPlan, _at_home, _events, _published_at_the_end
from tests.pipelines.command_line import TRIPCAST, environment, tripcast
from tripcast.errors import InvalidRequest
from tripcast.jobs.respond import LoopOptions
from tripcast.monitoring.history import Window
from tripcast.monitoring.rule import WindowResult

CITY = "simulated?trips=5000&seed=7&slower_streets=2021-03:0.6"
STORY = ("--source", CITY, "--months", "2021-01..2021-04", "--candidates", "lightgbm", "--json")

#: What a real system would have set, and a replay must not touch.
REAL = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "TRIPCAST_ARTIFACTS": "s3://nowhere",
    "TRIPCAST_SERVICE_URL": "http://127.0.0.1:9",
    "TRIPCAST_KFP_ENDPOINT": "http://127.0.0.1:9",
    "TRIPCAST_ALERT_WEBHOOK": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def document(home) -> dict:
    """The first replay, killed without warning when its second month has begun, and asked for again."""

    def kept() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in home.glob("replays/*/months/????-??.json")}

    command = [str(TRIPCAST), "replay", *STORY, "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(**REAL)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == "2021-04":
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    lived = kept()
    again = tripcast("replay", *STORY, "--home", home, **REAL)
    assert again.returncode == 0, again.stderr
    assert set(lived.items()) <= set(kept().items())
    return json.loads(again.stdout) | {"lived": [Path(file).stem for file in lived]}


def test_a_replay_that_was_killed_goes_on_where_it_stopped(document):
    assert document["lived"] == ["2021-03"]
    assert [month["month"] for month in document["months"]] == ["2021-03", "2021-04"]


def test_the_first_months_train_and_judge_the_first_version(document):
    assert (document["train_months"], document["test_month"]) == (["2021-01"], "2021-02")
    assert [month["served_version"] for month in document["months"]] == [1, 1]


def test_every_month_says_how_the_system_the_first_version_and_the_notebook_did(document):
    for month in document["months"]:
        assert month["system_rmse"] == month["trained_once_rmse"]  # nothing else has served yet
        assert month["notebook_rmse"] > month["system_rmse"] > 5
        assert 0.5 < month["retrained_monthly_rmse"] / month["system_rmse"] < 1.5
        assert 4_000 < month["trips"] < 5_000
        assert (month["challenger_version"], month["challenger_share"]) == (None, 0.0)


def test_the_summary_says_regret_and_what_it_took(document):
    squares = {"system": 0.0, "retrained_monthly": 0.0}
    for month in document["months"]:
        for name in squares:
            squares[name] += month["trips"] * month[f"{name}_rmse"] ** 2
    assert document["regret"] == pytest.approx((squares["system"] / squares["retrained_monthly"]) ** 0.5 - 1)
    kinds = [event["kind"] for month in document["months"] for event in month["events"]]
    for name, kind in (("promotions", "promote"), ("refusals", "refuse"), ("alerts", "alert"), ("relapses", "relapse")):
        assert document[name] == kinds.count(kind)
    assert document["processor_seconds"] > 1


def test_the_reference_of_the_first_month_is_the_first_version_and_then_learns(document):
    first, second = document["months"]
    assert first["retrained_monthly_rmse"] == first["trained_once_rmse"]
    assert second["retrained_monthly_rmse"] != second["trained_once_rmse"]


def test_what_happened_is_told_in_order(document):
    kinds = [[event["kind"] for event in month["events"]] for month in document["months"]]
    assert kinds[0][-1] == "refuse"
    assert set(kinds[0][:-1]) == {"alert"}
    assert kinds[1] == ["promote"]
    (promote,) = document["months"][1]["events"]
    assert "It learned from 2021-02, 2021-03, 2021-04. Version 2 answers every rider." in promote["sentence"]


def test_the_page_is_there_and_shows_the_months(document):
    page = Path(document["page"]).read_text()
    assert page.lower().startswith("<!doctype html>")
    for month in document["months"]:
        assert month["month"] in page
    assert "<svg" in page


def test_the_real_home_is_left_as_it_was(document, home):
    assert {file.name for file in home.iterdir()} == {"replays", "downloads"}
    (replayed,) = (home / "replays").iterdir()
    assert Path(document["page"]) == replayed / "replay.html"
    assert not (replayed / "alerts" / "sent").exists()


def test_the_same_replay_again_is_there_already_and_says_the_same(document, home):
    again = tripcast("replay", *STORY, "--home", home, **REAL)
    assert json.loads(again.stdout) == {name: value for name, value in document.items() if name != "lived"}


@pytest.mark.parametrize(
    ("decision", "kind"),
    [("promoted", "promote"), ("trial", "challenge"), ("refused", "refuse"), ("unchanged", "refuse")],
)
def test_what_came_of_a_training_is_told(decision, kind):
    window = Window(WindowResult("2021-04", 1), "retrain", "All is well.")
    taken = Turn(window, "", {"decision": decision, "reason": "It is so."}, Path("report.html"), [])
    assert [(event.kind, event.sentence) for event in _events(taken)] == [(kind, "It is so.")]


def test_a_publisher_that_is_late_lets_nobody_see_what_is_not_out():
    months = "2021-01..2021-06,2022-01"
    story = ReplayPlan.plan(months, None, LoopOptions(CITY, "green"), published_after=2)
    assert story.published_before("2021-04") == []
    assert story.published_before("2021-05") == ["2021-02"]
    assert story.published_before("2022-01") == ["2021-02", "2021-03", "2021-04", "2021-05", "2021-06"]
    turns = {month: _published_at_the_end(story, month) for month in story.months}
    assert turns == {
        "2021-03": [],
        "2021-04": [],
        "2021-05": ["2021-03"],
        "2021-06": ["2021-04", "2021-05", "2021-06"],
        "2022-01": [],
    }
    prompt = ReplayPlan.plan(months, None, LoopOptions(CITY, "green"))
    assert [_published_at_the_end(prompt, month) for month in prompt.months] == [[month] for month in prompt.months]


def test_a_process_is_itself_again_after_a_replay(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPCAST_HOME", "/real")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("TRIPCAST_ALERT_WEBHOOK", "http://127.0.0.1:9")
    with _at_home(tmp_path):
        assert os.environ["TRIPCAST_HOME"] == str(tmp_path)
        assert "TRIPCAST_ALERT_WEBHOOK" not in os.environ
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///replay.db"  # as MLflow does
    assert (os.environ["TRIPCAST_HOME"], os.environ["MLFLOW_TRACKING_URI"]) == ("/real", "")
    assert os.environ["TRIPCAST_ALERT_WEBHOOK"] == "http://127.0.0.1:9"


# What cannot be replayed.


def test_a_story_begins_with_its_training_months():
    assert ReplayPlan.plan("2021-01..2021-04", None, LoopOptions(CITY, "green")).months == ["2021-03", "2021-04"]
    story = ReplayPlan.plan("2021-01..2021-04", "2021-01..2021-02", LoopOptions(CITY, "green"))
    assert (story.train, story.test, story.months) == (["2021-01", "2021-02"], "2021-03", ["2021-04"])


@pytest.mark.parametrize(
    ("months", "train", "sentence"),
    [
        ("2021-01..2021-02", None, "has nothing to live through: it needs 1 to train on"),
        ("2021-01..2021-03", "2021-01..2021-02", "it needs 2 to train on, one to judge on, and at least one more"),
        ("2021-01..2021-04", "2021-02", "The months to train on, 2021-02, are not the first of 2021-01"),
        ("2021-01..2021-04", "2020-12..2021-01", "are not the first of"),
    ],
)
def test_too_few_months_or_others_than_the_first_to_train_on_are_refused(months, train, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        ReplayPlan.plan(months, train, LoopOptions(CITY, "green"))


def test_months_that_a_folder_lacks_are_all_named_before_any_work(tmp_path):
    source = tmp_path / "months"
    source.mkdir()
    result = tripcast("replay", "--source", source, "--months", "2021-01..2021-03", "--home", tmp_path / "home")
    assert result.returncode == 2
    for month in ("2021-01", "2021-02", "2021-03"):
        assert f"There is no {month} of the green taxi" in result.stderr
    assert not any((tmp_path / "home").iterdir())


def test_a_rule_that_cannot_be_is_named_and_ends_with_2(tmp_path):
    result = tripcast(
        "replay", "--source", CITY, "--months", "2021-01..2021-04", "--rule", "magic=1", "--home", tmp_path / "home"
    )
    assert result.returncode == 2
    assert "The rule has no threshold 'magic'" in result.stderr
    assert not any((tmp_path / "home").iterdir())
