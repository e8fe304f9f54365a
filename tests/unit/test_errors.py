"""What a step that fails leaves behind for Kubernetes."""

import pytest

from tripcast import errors
from tripcast.errors import (
    ClusterUnreachable,
    ContractError,
    DeploymentError,
    InvalidRequest,
    SourceError,
    SourceUnreachable,
    StorageError,
    TrackingError,
)


@pytest.fixture
def last_words(tmp_path, monkeypatch, capsys):
    file = tmp_path / "termination-log"
    monkeypatch.setattr(errors, "TERMINATION_LOG", file)

    def leave(error: Exception) -> str:
        errors.leave_last_words(type(error), error, None)
        assert str(error)[:50] in capsys.readouterr().err
        return file.read_text() if file.exists() else ""

    return leave


@pytest.mark.parametrize("kind", [InvalidRequest, SourceError, ContractError, DeploymentError])
def test_wrong_input_is_not_tried_again(last_words, kind):
    assert last_words(kind("There is no candidate 'ligthgbm'.")) == "There is no candidate 'ligthgbm'. (no other try)"


@pytest.mark.parametrize("kind", [SourceUnreachable, TrackingError, StorageError, ClusterUnreachable])
def test_what_may_be_better_in_a_minute_is(last_words, kind):
    assert last_words(kind("It does not answer.")) == "It does not answer."


def test_a_long_sentence_is_cut_and_still_says_that_no_other_try_helps(last_words):
    words = last_words(ContractError("too many rows " * 1000))

    assert len(words) < 4096
    assert words.endswith("(no other try)")


def test_a_defect_leaves_nothing_but_its_traceback(last_words):
    assert last_words(ZeroDivisionError("one by none")) == ""
