"""The registry on a real MLflow store: versions, aliases, the promotion record, and models that load without pickle."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from tests.conftest import make_trips
from tripcast.errors import InvalidRequest, StorageError, TrackingError
from tripcast.models import Model
from tripcast.registry.promotions import PromotionEvent
from tripcast.registry.registry import SHARE, Registry
from tripcast.registry.tracking import Tracker
from tripcast.registry.versions import DIGEST, EXPECTATION, EXPECTED_FROM, JUDGED_AGAINST
from tripcast.settings import Settings
from tripcast.taxi.pyfunc import flavour


@pytest.fixture
def registry(settings):
    return Registry("tripcast-green", settings)


@pytest.fixture
def register(settings, registry, make_model):
    """Registers the model of a seed, in a run of its own."""

    def register(seed: int):
        with Tracker("tripcast-green", settings).pipeline_run(f"run {seed}", f"run {seed}") as run_id:
            return registry.register(
                make_model(seed), flavour=flavour("green"), run_id=run_id, tags={"tripcast.candidate": "linear"}
            )

    return register


def aliases(registry: Registry) -> dict[str, int]:
    return {alias: version.number for version in registry.versions() for alias in version.aliases}


def test_a_new_registry_has_no_versions_and_no_champion(registry):
    assert registry.versions() == []
    assert registry.alias("champion") is None
    assert registry.moves() == []


def test_a_version_says_what_model_it_holds(registry, register, make_model):
    version = register(1)

    assert version.number == 1
    assert version.tags[DIGEST] == Model.load(make_model(1)).digest
    assert version.tags["tripcast.candidate"] == "linear"
    assert version.aliases == ()


def test_the_same_model_gives_the_same_version(registry, register):
    assert register(1).number == 1
    assert register(2).number == 2
    assert register(1).number == 1
    assert [version.number for version in registry.versions()] == [2, 1]


def test_a_version_loads_as_the_model_that_was_registered(registry, register, make_model):
    version = register(1)
    trips = make_trips(50, seed=9)

    loaded = registry.load(version)

    assert loaded.digest == version.tags[DIGEST]
    np.testing.assert_array_equal(loaded.predict(trips).minutes, Model.load(make_model(1)).predict(trips).minutes)


def test_the_first_promotion_makes_a_champion_and_no_previous(versions):
    move = versions.promote(1, "It is the first.")

    assert (move.version, move.replaced, move.reason) == (1, None, "It is the first.")
    assert aliases(versions) == {"champion": 1}


def test_a_promotion_keeps_the_champion_before_it_as_previous(versions):
    for number in (1, 2):
        versions.promote(number, "Better.")

    assert aliases(versions) == {"champion": 2, "previous": 1}
    assert [(move.action, move.version, move.replaced) for move in versions.moves()] == [
        ("promote", 1, None),
        ("promote", 2, 1),
    ]


def test_promoting_the_champion_changes_nothing(versions):
    versions.promote(1, "Once.")

    assert versions.promote(1, "Twice.") is None
    assert [move.reason for move in versions.moves()] == ["Once."]


def test_promoting_a_version_that_is_not_there_names_those_that_are(versions):
    with pytest.raises(InvalidRequest, match=r"no version 7; its versions: 1, 2, 3\."):
        versions.promote(7, "Why not.")


def test_rollbacks_go_back_one_promotion_at_a_time(versions):
    for number in (1, 2, 3):
        versions.promote(number, "Better.")

    assert versions.rollback("Too slow.").version == 2
    assert aliases(versions) == {"champion": 2, "previous": 1}
    assert versions.rollback("Too slow as well.").version == 1
    assert aliases(versions) == {"champion": 1}
    with pytest.raises(InvalidRequest, match="version 1 is the first champion"):
        versions.rollback("And again.")
    assert [move.action for move in versions.moves()] == ["promote", "promote", "promote", "rollback", "rollback"]


def test_a_rollback_without_a_champion_says_so(registry):
    with pytest.raises(InvalidRequest, match="no version was ever promoted"):
        registry.rollback("Hm.")


def test_aliases_that_were_not_set_are_set_by_the_next_attempt(versions, monkeypatch):
    with monkeypatch.context() as patch:
        for part in ("_set_champions", "_set_challenger"):
            patch.setattr(versions, part, lambda *_: None)  # as if the process had died between record and aliases
        versions.promote(1, "Better.")
    assert aliases(versions) == {}

    assert versions.promote(1, "Better.") is None
    assert aliases(versions) == {"champion": 1}
    assert len(versions.moves()) == 1


@pytest.fixture
def with_champion(versions):
    """Versions 1 to 3, the first of them the champion."""
    versions.promote(1, "It is the first.")
    return versions


def traffic(registry: Registry) -> tuple[int | None, int | None, float]:
    found = registry.traffic()
    champion, challenger = (version and version.number for version in (found.champion, found.challenger))
    return champion, challenger, found.share


def test_a_registry_without_versions_has_no_traffic(registry):
    assert traffic(registry) == (None, None, 0.0)


def test_a_challenger_stands_beside_the_champion_on_its_share(with_champion):
    move = with_champion.challenger(2, 0.1, "To compare.")

    assert (move.action, move.version, move.replaced, move.share) == ("challenge", 2, None, 0.1)
    assert traffic(with_champion) == (1, 2, 0.1)
    assert with_champion.traffic().share == 0.1
    assert aliases(with_champion) == {"champion": 1, "challenger": 2}


def test_every_move_of_a_challenger_is_recorded(with_champion):
    with_champion.challenger(2, 0.1, "To compare.")
    with_champion.set_share(0.5, "It does well.")
    with_champion.challenger(3, 0.2, "Another one.")
    with_champion.withdraw("It does not.")

    assert traffic(with_champion) == (1, None, 0.0)
    assert aliases(with_champion) == {"champion": 1}
    assert [(move.action, move.version, move.replaced, move.share) for move in with_champion.moves()] == [
        ("promote", 1, None, None),
        ("challenge", 2, None, 0.1),
        ("share", 2, None, 0.5),
        ("challenge", 3, 2, 0.2),
        ("withdraw", 3, None, 0.0),
    ]


def test_a_challenger_that_is_promoted_is_one_no_more_and_a_rollback_does_not_bring_it_back(with_champion):
    with_champion.challenger(2, 0.1, "To compare.")
    with_champion.promote(2, "It won.")
    assert traffic(with_champion) == (2, None, 0.0)

    with_champion.rollback("It did not.")
    assert traffic(with_champion) == (1, None, 0.0)
    assert aliases(with_champion) == {"champion": 1}


def test_a_challenger_stays_when_another_version_becomes_champion(with_champion):
    with_champion.challenger(2, 0.1, "To compare.")
    with_champion.promote(3, "By hand.")

    assert traffic(with_champion) == (3, 2, 0.1)


def test_moves_that_make_no_sense_say_what_would(registry, register):
    register(1)
    with pytest.raises(InvalidRequest, match="no champion for version 1 to challenge"):
        registry.challenger(1, 0.1, "Hm.")
    registry.promote(1, "It is the first.")
    with pytest.raises(InvalidRequest, match="version 1 is the champion"):
        registry.challenger(1, 0.1, "Hm.")
    with pytest.raises(InvalidRequest, match=r"no version 7; its versions: 1\."):
        registry.challenger(7, 0.1, "Hm.")
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequest, match="between 0 and 1"):
            registry.challenger(1, share, "Hm.")
    for move in (lambda: registry.set_share(0.5, "Hm."), lambda: registry.withdraw("Hm.")):
        with pytest.raises(InvalidRequest, match="has no challenger"):
            move()
    assert len(registry.moves()) == 1


def end_trial(registry: Registry, number: int, better: bool, cause: str = "monitoring/2021-06", champion: int = 1):
    return registry.end_trial(number, champion, better=better, reason="So it was.", cause=cause)


def test_a_trial_ends_with_a_promotion_or_a_withdrawal_and_says_what_for(with_champion):
    with_champion.challenger(2, 0.1, "To compare.")
    move = end_trial(with_champion, 2, better=True)
    assert (move.action, move.version, move.replaced, move.cause) == ("promote", 2, 1, "monitoring/2021-06")
    assert (traffic(with_champion), aliases(with_champion)) == ((2, None, 0.0), {"champion": 2, "previous": 1})

    with_champion.challenger(3, 0.1, "To compare.")
    move = end_trial(with_champion, 3, better=False, cause="monitoring/2021-07", champion=2)
    assert (move.action, move.version, move.replaced, move.cause) == ("withdraw", 3, None, "monitoring/2021-07")
    assert traffic(with_champion) == (2, None, 0.0)
    assert with_champion.moves()[-1] == move


@pytest.mark.parametrize("better", [True, False])
def test_a_trial_is_ended_once_for_the_same_cause(with_champion, better):
    with_champion.challenger(2, 0.1, "To compare.")
    end_trial(with_champion, 2, better)
    after = with_champion.moves(), traffic(with_champion)

    assert end_trial(with_champion, 2, better) is None
    assert (with_champion.moves(), traffic(with_champion)) == after

    # Nor when the version is on trial again: that is another trial.
    with_champion.promote(1, "By hand.")
    with_champion.challenger(2, 0.1, "Once more.")
    assert end_trial(with_champion, 2, better) is None
    assert traffic(with_champion) == (1, 2, 0.1)


def test_a_trial_that_somebody_else_has_decided_is_not_decided_again(with_champion):
    with_champion.challenger(2, 0.1, "To compare.")
    with_champion.challenger(3, 0.1, "By hand.")
    moves = with_champion.moves()

    assert end_trial(with_champion, 2, better=True) is None
    assert (with_champion.moves(), traffic(with_champion)) == (moves, (1, 3, 0.1))

    # Nor where it was compared with a champion that somebody has replaced.
    assert end_trial(with_champion, 3, better=True, champion=2) is None
    assert (with_champion.moves(), traffic(with_champion)) == (moves, (1, 3, 0.1))


@pytest.mark.parametrize(("better", "after"), [(True, (2, None, 0.0)), (False, (1, None, 0.0))])
def test_a_trial_whose_end_was_recorded_and_not_carried_out_is_ended_by_the_next_attempt(
    with_champion, monkeypatch, better, after
):
    with_champion.challenger(2, 0.1, "To compare.")
    with monkeypatch.context() as patch:
        for part in ("_set_champions", "_set_challenger"):
            patch.setattr(with_champion, part, lambda *_: None)  # as if the process had died
        end_trial(with_champion, 2, better)
    assert traffic(with_champion) == (1, 2, 0.1)

    assert end_trial(with_champion, 2, better) is None
    assert traffic(with_champion) == after
    assert len(with_champion.moves()) == 3


def test_what_to_expect_of_a_version_can_be_said_anew(with_champion):
    with_champion.expect(2, '{"metered": {"up_to": [], "squared_error": [25.0]}}', "2021-06")

    tags = with_champion.version(2).tags
    assert (tags[EXPECTATION], tags[EXPECTED_FROM]) == (
        '{"metered": {"up_to": [], "squared_error": [25.0]}}',
        "2021-06",
    )
    assert EXPECTATION not in with_champion.version(1).tags


def test_aliases_that_a_person_set_with_mlflow_count_and_enter_the_record(settings, with_champion):
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("tripcast-green", "champion", "3")
    client.set_registered_model_alias("tripcast-green", "challenger", "2")
    assert traffic(with_champion) == (3, 2, 0.0)

    with_champion.set_share(0.25, "To compare.")

    assert traffic(with_champion) == (3, 2, 0.25)
    assert (with_champion.moves()[-1].action, with_champion.moves()[-1].version) == ("challenge", 2)


@pytest.mark.parametrize("share", ["half", "7", "nan", "-1"])
def test_a_share_that_is_none_gives_the_challenger_nothing(settings, with_champion, share):
    with_champion.challenger(2, 0.1, "To compare.")
    mlflow.MlflowClient().set_registered_model_tag("tripcast-green", SHARE, share)

    assert traffic(with_champion) == (1, 2, 0.0)


def test_a_record_from_before_there_were_challengers_is_read(settings, with_champion):
    line = '{"at": "2026-11-01T00:00:00+00:00", "action": "promote", "version": 2, "replaced": 1, "reason": "Better."}'
    mlflow.MlflowClient().set_registered_model_tag("tripcast-green", "tripcast.move.000002", line)

    assert with_champion.moves()[-1].share is None
    assert with_champion.rollback("Worse.").version == 1


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"at": "", "action": "crown", "version": 2, "replaced": 1, "reason": ""}']
)
def test_a_line_of_the_record_that_somebody_broke_is_named(with_champion, line):
    mlflow.MlflowClient().set_registered_model_tag("tripcast-green", "tripcast.move.000002", line)

    with pytest.raises(TrackingError, match=r"The tag tripcast\.move\.000002 .* holds no move of the promotion record"):
        with_champion.rollback("Worse.")


def test_nothing_in_the_registered_folder_is_pickled(settings, register):
    register(1)

    names = {file.name for file in (settings.home / "artifacts").rglob("*") if file.is_file()}
    assert "manifest.json" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_mlflow_predicts_from_the_publishers_columns(settings, registry, register):
    registry.promote(register(1).number, "Better.")
    raw = pd.DataFrame(
        {
            "VendorID": [2, 2],
            "lpep_pickup_datetime": pd.to_datetime(["2021-02-10 08:15:00", "2021-02-10 23:00:00"]),
            "PULocationID": [74, 999],
            "DOLocationID": [236, 41],
            "trip_distance": [2.3, 0.0],
        }
    )

    predicted = mlflow.pyfunc.load_model("models:/tripcast-green@champion").predict(raw)

    assert list(predicted.columns) == ["duration_minutes", "lower_minutes", "upper_minutes"]
    assert (predicted.lower_minutes <= predicted.duration_minutes).all()
    assert (predicted.duration_minutes <= predicted.upper_minutes).all()
    assert predicted.duration_minutes[0] == pytest.approx(3 + 3.5 * 2.3 + 74 % 5, abs=2.0)


def test_the_signature_and_the_input_example_are_registered(settings, registry, register):
    register(1)

    model = mlflow.pyfunc.load_model("models:/tripcast-green/1")

    assert [column.name for column in model.metadata.signature.inputs] == [
        "lpep_pickup_datetime",
        "PULocationID",
        "DOLocationID",
        "trip_distance",
    ]
    assert model.input_example["PULocationID"].tolist() == [74]


@pytest.mark.slow
def test_a_model_loads_where_tripcast_is_not_installed(settings, registry, register, tmp_path):
    registry.promote(register(1).number, "Better.")
    script = (
        "import mlflow, sys, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/tripcast-green@champion')\n"
        "print(sys.modules['tripcast'].__file__)\n"
        "print(model.predict(model.input_example).shape)\n"
    )
    # Without the finder of editable installations, tripcast is not to be found.
    blocked = "import sys; sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
    result = subprocess.run(
        [sys.executable, "-c", blocked + script],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": settings.tracking_uri},
        capture_output=True,
        text=True,
        check=True,
    )

    where, shape = result.stdout.splitlines()[-2:]
    assert Path(where).is_relative_to(settings.home)
    assert shape == "(1, 3)"


KILLED_WHILE_REGISTERING = """
import os, signal, sys
from pathlib import Path
import mlflow
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.taxi.pyfunc import flavour

registry = Registry("tripcast-green", Settings.load())
registry._client.create_model_version = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
run = registry._client.create_run(Tracker("tripcast-green", Settings.load()).experiment_id)
registry.register(Path(sys.argv[1]), flavour=flavour("green"), run_id=run.info.run_id, tags={})
"""


@pytest.mark.slow
def test_a_process_killed_while_registering_leaves_no_half_version(settings, registry, register, make_model):
    result = subprocess.run([sys.executable, "-c", KILLED_WHILE_REGISTERING, make_model(1)])

    assert result.returncode == -signal.SIGKILL
    assert registry.versions() == []
    assert register(1).number == 1
    assert len(registry.versions()) == 1


def test_a_store_that_is_not_there_is_named(tmp_path):
    nowhere = dataclasses.replace(Settings.load(), home=tmp_path, tracking_uri="sqlite:////proc/nowhere/mlflow.db")

    with pytest.raises(StorageError, match=r"/proc/nowhere/mlflow\.db cannot be written"):
        Registry("tripcast-green", nowhere)


@pytest.fixture
def shelf(versions):
    """A registry of six versions, the first three of them registered, the others with the first one's files."""
    client = mlflow.MlflowClient()
    first = client.get_model_version("tripcast-green", "1")
    for _ in range(3):
        client.create_model_version("tripcast-green", first.source, first.run_id, tags=dict(first.tags))
    return versions


def test_moves_that_are_made_at_once_are_all_in_the_record_and_one_of_them_stands(settings, shelf):
    start = threading.Barrier(4)

    def promote(number):
        registry = Registry("tripcast-green", settings)
        start.wait()
        return registry.promote(number, "At once.")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, (2, 3, 4, 5)))

    assert sorted(move.version for move in shelf.moves()) == [2, 3, 4, 5]
    assert aliases(shelf) == {"champion": shelf.moves()[-1].version, "previous": shelf.moves()[-2].version}


def test_two_rollbacks_at_once_undo_one_promotion(settings, shelf):
    for number in (1, 2, 3):
        shelf.promote(number, "Better.")
    line = PromotionEvent("2026-11-01T00:00:00+00:00", "rollback", 2, 3, "Too slow.")
    for part in ("00000000", "ffffffff"):
        tag = f"tripcast.move.000004.{part}"
        mlflow.MlflowClient().set_registered_model_tag("tripcast-green", tag, json.dumps(dataclasses.asdict(line)))

    shelf.promote(4, "Better.")

    assert aliases(shelf) == {"champion": 4, "previous": 2}


def test_of_two_versions_that_were_judged_against_the_same_champion_only_one_takes_its_place(settings, shelf):
    shelf.promote(1, "First.")
    for number in (2, 3):
        shelf.tag(number, JUDGED_AGAINST, "1")
    assert shelf.promote(2, "Better than 1.", judged=True)

    with pytest.raises(
        InvalidRequest, match="version 3 was judged against version 1, and version 2 is the champion by n"
    ):
        shelf.promote(3, "Better than 1.", judged=True)
    with pytest.raises(InvalidRequest, match="version 3 was judged against version 1"):
        shelf.challenger(3, 0.1, "Better than 1.", judged=True)

    assert aliases(shelf) == {"champion": 2, "previous": 1}
    assert [move.version for move in shelf.moves()] == [1, 2]
    assert shelf.promote(3, "By hand.")


def test_a_judged_promotion_that_another_one_has_overtaken_is_void(shelf):
    shelf.promote(1, "First.")
    for number, part in ((2, "00000000"), (3, "ffffffff")):  # both were written when version 1 was the champion
        line = PromotionEvent("2026-11-01T00:00:00+00:00", "promote", number, 1, "Better than 1.", judged=True)
        tag = f"tripcast.move.000002.{part}"
        mlflow.MlflowClient().set_registered_model_tag("tripcast-green", tag, json.dumps(dataclasses.asdict(line)))

    shelf.promote(4, "Better.")

    assert shelf.moves()[-1].replaced == 2
    assert aliases(shelf) == {"champion": 4, "previous": 2}


def test_a_version_that_was_deleted_in_mlflow_stands_in_nobody_s_way(shelf):
    client = mlflow.MlflowClient()
    for number in (1, 2):
        shelf.promote(number, "Better.")
    shelf.challenger(4, 0.1, "To compare.")
    for number in ("2", "4"):
        client.delete_model_version("tripcast-green", number)

    shelf.promote(3, "Better.")
    assert aliases(shelf) == {"champion": 3, "previous": 1}
    assert shelf.rollback("Worse.").version == 1
    assert aliases(shelf) == {"champion": 1}
    shelf.promote(5, "Better.")
    client.delete_model_version("tripcast-green", "1")
    with pytest.raises(InvalidRequest, match="nothing to roll back to: every champion before version 5 is deleted"):
        shelf.rollback("Worse.")
    assert aliases(shelf) == {"champion": 5}
    assert [move.action for move in shelf.moves()][-2:] == ["rollback", "promote"]


def test_a_version_of_another_tool_is_never_promoted(shelf):
    source = mlflow.MlflowClient().get_model_version("tripcast-green", "1").source
    mlflow.MlflowClient().create_model_version("tripcast-green", source)
    shelf.promote(1, "First.")

    with pytest.raises(InvalidRequest, match="version 7 was not registered by tripcast"):
        shelf.promote(7, "Why not.")
    with pytest.raises(InvalidRequest, match="version 7 was not registered by tripcast"):
        shelf.challenger(7, 0.1, "Why not.")
    assert aliases(shelf) == {"champion": 1}


def test_a_model_that_is_registered_again_says_what_was_found_last(settings, registry, register, make_model):
    version = register(1)
    with Tracker("tripcast-green", settings).pipeline_run("later", "later") as run_id:
        later = {"tripcast.test_month": "2021-04", JUDGED_AGAINST: "3"}
        again = registry.register(make_model(1), flavour=flavour("green"), run_id=run_id, tags=later)

    assert again.number == version.number
    assert registry.version(1).tags == again.tags == {**version.tags, **later}


def test_figures_reach_the_service_by_source_the_latest_in_place_of_earlier_ones(registry, register):
    register(1)
    registry.publish("monitoring", {"champion.rmse": 4.5, "psi.pickup_zone": 0.1})
    registry.publish("monitoring", {"champion.rmse": 4.25})
    registry.publish("live", {"psi.pickup_zone": 0.3})
    registry._client.set_registered_model_tag(registry.name, "tripcast.figures.by-hand", "no figures")

    assert registry.traffic().figures == {"monitoring": {"champion.rmse": 4.25}, "live": {"psi.pickup_zone": 0.3}}
