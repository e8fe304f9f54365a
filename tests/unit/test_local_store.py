"""A fresh home: however many commands make it at once, and whenever one is killed, it opens afterwards."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (children are forked: they need not import it each)
import pytest
from click.testing import CliRunner

from tripcast.cli import main
from tripcast.errors import InvalidRequest, StorageError, TrackingError
from tripcast.registry.local_store import make_local_store
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.storage.files import make_home

pytestmark = pytest.mark.slow  # of processes

FORK = multiprocessing.get_context("fork")


def settings_of(home: Path) -> Settings:
    uri = f"sqlite:///{home / 'mlflow.db'}"
    return Settings(home=home, artifacts=str(home), tracking_uri=uri, service_url=None, image="none")


def use(home: Path) -> None:
    registry = Registry("tripcast-green", settings_of(home))
    assert registry.versions() == []
    with Tracker("tripcast-green", settings_of(home)).pipeline_run("key", "name"):
        pass


def opens(home: Path) -> bool:
    """Whether a process that comes later can use a home."""
    later = FORK.Process(target=use, args=(home,))
    later.start()
    later.join()
    return later.exitcode == 0


def test_three_commands_at_once_make_one_store(tmp_path: Path) -> None:
    commands = [FORK.Process(target=use, args=(tmp_path,)) for _ in range(3)]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert [command.exitcode for command in commands] == [0, 0, 0]
    assert opens(tmp_path)


def test_kills_at_any_moment_leave_a_home_that_opens(tmp_path: Path) -> None:
    for seconds in (0.1, 0.4, 0.8):
        command = FORK.Process(target=use, args=(tmp_path,))
        command.start()
        command.join(seconds)
        command.kill()
        command.join()
    assert opens(tmp_path)
    assert not list(tmp_path.glob(".*.part*"))


def test_an_experiment_that_was_deleted_comes_with_its_remedy(tmp_path: Path) -> None:
    tracker = Tracker("tripcast-green", settings_of(tmp_path))
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=r"was deleted .*mlflow experiments restore --experiment-id \d+,"):
        Tracker("tripcast-green", settings_of(tmp_path))
    tracker.client.restore_experiment(tracker.experiment_id)
    assert Tracker("tripcast-green", settings_of(tmp_path)).experiment_id == tracker.experiment_id


def test_a_folder_in_place_of_the_store_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"'sqlite:///{tmp_path}' names a folder as MLflow's store"):
        make_local_store(f"sqlite:///{tmp_path}", tmp_path)


def test_a_home_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "deep" / "home"
    monkeypatch.setenv("TRIPCAST_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert CliRunner().invoke(main, ["ui"]).exit_code == 0
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize(("found", "left"), [(0o755, 0o700), (0o775, 0o700), (0o770, 0o770), (0o700, 0o700)])
def test_a_home_that_everybody_may_read_is_closed(tmp_path: Path, found: int, left: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(found)
    make_home(home)
    assert stat.S_IMODE(home.stat().st_mode) == left


def test_a_home_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").touch()
    for place in (tmp_path / "home", tmp_path / "home" / "deeper"):
        monkeypatch.setenv("TRIPCAST_HOME", str(place))
        result = CliRunner().invoke(main, ["models"])
        assert result.exit_code == 1
        assert f"{place} cannot be written: " in result.stderr


def test_a_home_below_a_folder_that_may_not_be_entered_is_named() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        locked = Path(scratch) / "locked"
        locked.mkdir()
        Path(scratch).chmod(0o755)
        locked.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is locked for root
        try:
            with pytest.raises(StorageError, match=r"locked/home cannot be written: Permission denied \([\d,]+ MB"):
                make_home(locked / "home")
        finally:
            os.seteuid(user)
            locked.chmod(0o755)
