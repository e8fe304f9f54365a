"""What monitoring keeps of each window, in a folder and in a bucket, and what is left to do about it."""

import json
from dataclasses import replace

import pytest

from tripcast.errors import StorageError
from tripcast.evaluation.confidence import Measure
from tripcast.monitoring.history import History, Retraining, Window
from tripcast.monitoring.rule import Incident, WindowResult
from tripcast.monitoring.trial import DailySums, compare, judge
from tripcast.storage.store import FolderStore, open_store

SUMS = DailySums((10, 20), (90.0, 160.0), (100.0, 200.0))


def window(month="2021-06", action="retrain"):
    measured = Measure(6.0, 5.9, 6.1)
    result = WindowResult(month, 1, 5.0, measured, Measure(0.7, 0.69, 0.71), {"weekday": 0.1}, 0.9)
    return Window(
        result=WindowResult(**{**vars(result), "retrained": action == "retrain"}),
        action=action,
        reason="It is too high.",
        incidents=(Incident("error", "2021-05", "RMSE is 6.00 minutes."),),
        trial=judge(2, 1, SUMS),
        comparison=compare(1, 3, SUMS, first=True),
        revision="first",
        retraining=Retraining("2021-05", month) if action == "retrain" else None,
        figures={"quality": [{"rmse": 6.0}], "drift": None},
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def history(folder):
    return History(FolderStore(folder), "green")


@pytest.fixture
def pages(tmp_path):
    files = {"report": tmp_path / "report", "summary": tmp_path / "summary"}
    for name, file in files.items():
        file.write_text(f"The {name}.")
    return files


@pytest.mark.parametrize("action", ["nothing", "alert", "retrain"])
def test_a_window_comes_back_as_it_was_recorded(history, pages, action):
    history.record(window(action=action), **pages)
    again = history.window("2021-06")
    assert again == window(action=action)
    assert again.result.retrained is (action == "retrain")
    assert history.windows() == [again]


def test_a_record_of_0_1_0_is_read(history, folder, pages):
    history.record(window(), **pages)
    record = folder / "monitoring" / "green" / "2021-06" / "window.json"
    entries = json.loads(record.read_text())
    del entries["comparison"], entries["revision"], entries["retraining"]["min_gain"], entries["trial"]["sums"]
    record.write_text(json.dumps(entries))
    read = history.window("2021-06")
    assert read == replace(window(), comparison=None, revision="", trial=replace(window().trial, sums=DailySums()))
    assert judge(2, 1, SUMS, [read.trial]).trips == 30


def test_windows_come_in_order_of_time_and_each_taxi_has_its_own(history, folder, pages):
    for month in ("2021-12", "2022-01", "2021-02"):
        history.record(window(month), **pages)
    History(FolderStore(folder), "yellow").record(window("2021-07"), **pages)
    assert [each.month for each in history.windows()] == ["2021-02", "2021-12", "2022-01"]


def test_a_month_that_was_not_watched_has_no_record(history):
    assert history.windows() == []
    assert history.window("2021-06") is None
    assert history.get_response(window()) is None
    assert history.get_retraining(window()) is None


def test_the_pages_come_back_and_have_their_place(history, folder, pages, tmp_path):
    history.record(window(), **pages)
    history.pages("2021-06", tmp_path / "again.html", tmp_path / "again.md")
    assert (tmp_path / "again.html").read_text() == "The report."
    assert (tmp_path / "again.md").read_text() == "The summary."
    assert history.report_uri("2021-06") == str(folder / "monitoring" / "green" / "2021-06" / "report.html")


def test_pages_without_a_record_are_no_window(history, folder, pages):
    """As a process leaves them that dies before it writes the record."""
    history.record(window(), **pages)
    (folder / "monitoring" / "green" / "2021-06" / "window.json").unlink()
    assert history.windows() == []
    assert history.window("2021-06") is None


@pytest.mark.parametrize("action", ["nothing", "alert"])
def test_a_window_is_done_when_it_was_responded_to(history, pages, action):
    history.record(window(action=action), **pages)
    assert not history.is_done(window(action=action))
    history.save_response(window(action=action), {"what": "Told."})
    assert history.is_done(window(action=action))
    assert history.get_response(window()) == {"what": "Told."}


def test_a_window_that_calls_for_retraining_is_done_when_that_has_come_to_something(history, pages):
    history.record(window(), **pages)
    history.save_response(window(), {"what": "Told."})
    assert not history.is_done(window())
    history.save_retraining(window(), {"decision": "refused"})
    assert history.is_done(window())
    assert history.get_retraining(window()) == {"decision": "refused"}


def test_what_was_done_about_a_broken_month_is_not_taken_for_what_is_to_do_about_the_mended_one(history, pages):
    history.record(window(action="alert"), **pages)
    history.save_response(window(action="alert"), {"what": "Told."})
    mended = replace(window(action="alert"), revision="second")
    history.record(mended, **pages)
    assert history.windows() == [mended]
    assert not history.is_done(mended)
    history.save_response(mended, {"what": "Nothing is wrong."})
    assert history.is_done(mended)


def test_a_damaged_record_is_named_with_what_to_do(history, folder, pages):
    history.record(window(), **pages)
    (folder / "monitoring" / "green" / "2021-06" / "window.json").write_text("{")
    with pytest.raises(StorageError, match=r"green/2021-06/window\.json cannot be read .* then remove it\."):
        history.windows()


def test_a_bucket_keeps_what_a_folder_does(s3, pages):
    s3.create_bucket(Bucket="artifacts")
    history = History(open_store("s3://artifacts/tripcast"), "green")
    history.record(window(), **pages)
    history.save_response(window(), {"what": "Told."})
    again = History(open_store("s3://artifacts/tripcast"), "green")
    assert again.windows() == [window()]
    assert again.get_response(window()) == {"what": "Told."}
    assert again.get_retraining(window()) is None
    assert again.report_uri("2021-06") == "s3://artifacts/tripcast/monitoring/green/2021-06/report.html"
