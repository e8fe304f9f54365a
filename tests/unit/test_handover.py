"""What steps tell each other of an artifact, on its way through Kubeflow's ML Metadata."""

import json
from dataclasses import dataclass

import pytest

from tripcast.errors import StorageError
from tripcast.jobs.handover import Trained, Winner, from_metadata, read_months, to_metadata, write_months
from tripcast.months import MonthUsed

MONTH = MonthUsed("2021-01", "train", "a folder", 76_518, 73_908, "9f86d081")


@dataclass(frozen=True)
class Counted:
    trips: int
    share: float
    complete: bool
    by_reason: dict[str, int]
    text: str
    rmse: float | None = None


COUNTED = Counted(76_518, 1.0, True, {"too long": 3}, "12", None)


def test_metadata_is_strings_and_numbers():
    assert to_metadata(COUNTED) == {
        "trips": 76_518,
        "share": 1.0,
        "complete": "true",
        "by_reason": '{"too long":3}',
        "text": "12",
    }


@pytest.mark.parametrize("number", [float, int])
def test_a_record_comes_back_whatever_numbers_have_become(number):
    on_its_way = {
        name: number(value) if isinstance(value, int | float) else value for name, value in to_metadata(COUNTED).items()
    }

    assert from_metadata(Counted, on_its_way) == COUNTED


def test_entries_of_kubeflows_own_are_passed_over():
    metadata = {**to_metadata(Trained("linear", 2.5)), "display_name": "model", "store_session_info": "{}"}

    assert from_metadata(Trained, metadata) == Trained("linear", 2.5)


def test_no_winner_is_a_record_as_well():
    assert from_metadata(Winner, to_metadata(Winner())) == Winner()


def test_tags_come_back_as_they_were():
    winner = Winner("lightgbm", "f00d", "", "It is better.", {"tripcast.data_sha256": json.dumps({"2021-01": "9f86"})})

    assert from_metadata(Winner, to_metadata(winner)) == winner


@pytest.mark.parametrize("metadata", [{}, {"candidate": "linear"}, {"candidate": "linear", "seconds": "soon"}])
def test_metadata_of_another_kind_is_refused(metadata):
    with pytest.raises(StorageError, match="not that of a Trained"):
        from_metadata(Trained, metadata)


def test_months_are_a_file_beside_the_trips(tmp_path):
    write_months(tmp_path, [MONTH])

    assert read_months(tmp_path) == [MONTH]


@pytest.mark.parametrize("text", [None, "{", '[{"month": "2021-01"}]'])
def test_a_folder_that_does_not_say_its_months_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "months.json").write_text(text)

    with pytest.raises(StorageError, match="does not describe months"):
        read_months(tmp_path)
