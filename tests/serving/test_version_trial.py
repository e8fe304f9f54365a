"""Trials of versions: models of every kind of damage fail in a process of their own, which the trial outlives."""

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tripcast.errors import StorageError
from tripcast.serving import version_trial
from tripcast.serving.version_trial import VersionTrials

CHECK = "tripcast.taxi.web.version_check"


def trial_of(folder: Path) -> str:
    """What a trial of a model says; empty if it passes."""
    try:
        VersionTrials(CHECK).require(7, folder)
    except StorageError as error:
        return str(error)
    return ""


@pytest.fixture
def with_trees(models, tmp_path) -> Callable[[str, str], Path]:
    """Makes a model whose trees have the first match of a line replaced, under a manifest that vouches for them."""

    def make(line: str, replacement: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(models["boosted"], folder)
        trees, manifest = folder / "zones_booster.txt", folder / "manifest.json"
        text, count = re.subn(f"^{line}", replacement, trees.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        trees.write_text(text)
        entries = json.loads(manifest.read_text())
        entries["files"]["zones_booster.txt"] = sha256(text.encode()).hexdigest()
        manifest.write_text(json.dumps(entries))
        return folder

    return make


@pytest.mark.parametrize("kind", ["boosted", "linear"])
def test_a_model_that_predicts_passes(models, kind):
    assert trial_of(models[kind]) == ""


@pytest.mark.parametrize(
    ("line", "replacement", "says"),
    [
        (r"num_leaves=\d+", "num_leaves=900", "cannot be read"),
        (r"leaf_value=\S+ ", "leaf_value=", "cannot be read"),
        (r"leaf_value=.*\n", "", "should contain leaf_value field"),
        (r"threshold=\S+", "threshold=abc", "no conversion to double for: abc"),
        # Where the sizes of the trees' texts are said, LightGBM reads the trees on several threads, and aborts.
        (r"(feature_infos=.*\n)", r"\1tree_sizes=" + "7 " * 9 + r"\n", "it ends the process that loads it (SIG"),
    ],
)
def test_damaged_trees_fail(with_trees, line, replacement, says):
    sentence = trial_of(with_trees(line, replacement))

    assert sentence.startswith("Version 7 in ")
    assert says in sentence


def test_trees_without_an_end_fail_in_time(with_trees, monkeypatch):
    monkeypatch.setattr(version_trial, "_TRIAL_SECONDS", 10.0)

    assert "it has not predicted some trips after 10 seconds" in trial_of(with_trees(r"left_child=\S+", "left_child=0"))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("never finite", "it predicts nan minutes, nan to nan, for a known trip"),
        ("finite on the known trip only", "it predicts nan minutes, nan to nan, from zone 41 to 41"),
    ],
)
def test_a_model_that_predicts_no_number_fails(models, kind, says):
    assert says in trial_of(models[kind])


def test_a_folder_that_is_not_a_model_fails_with_the_reason(tmp_path):
    assert "manifest.json cannot be read" in trial_of(tmp_path)


def test_a_model_is_tried_once_and_one_that_failed_again_after_a_while(models, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    trials = VersionTrials(CHECK)

    def passes() -> bool:
        try:
            trials.require(7, folder)
        except StorageError:
            return False
        return True

    assert not passes()
    shutil.copytree(models["linear"], folder)
    assert not passes()
    monkeypatch.setattr(version_trial, "_RETRY_SECONDS", 0.0)
    assert passes()
    shutil.rmtree(folder)
    assert passes()
