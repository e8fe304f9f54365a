"""What the prediction log keeps of riders, and how one rider's rows and old days go."""

import stat
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tripcast.cli import main
from tripcast.errors import InvalidRequest
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.prediction_rows import Answerer
from tripcast.serving.riders import pseudonym, rider_secret
from tripcast.serving.stored_log import forget, read_log
from tripcast.storage.store import open_store

SECRET = b"a secret of thirty-two characters"
ALWAYS = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def log_of(folder, riders, **how):
    """A store whose log has an answer to each of the riders."""
    store = open_store(str(folder))
    log = PredictionLog(store, folder / "spool", **how)
    for rider in riders:
        log.append(Answerer("tripcast-green", 1, "champion"), rider, (74, 236, 2.3, 0), "planned", (12.5, 8.5, 18.5))
    assert log.close(60).pending == 0
    return store


def riders_in(store):
    return read_log(store, *ALWAYS)["rider_id"].to_pylist()


def test_the_log_has_pseudonyms_and_none_where_nobody_is_named(tmp_path):
    store = log_of(tmp_path, ["Zoë 🚕", None, "", "Zoë 🚕"], rider_secret=SECRET)

    zoe = pseudonym("Zoë 🚕".encode(), SECRET).decode()
    assert riders_in(store) == [zoe, None, pseudonym(b"", SECRET).decode(), zoe]
    assert "Zoë".encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("*.parquet"))


def test_a_pseudonym_is_hmac_sha_256_cut_to_128_bits():
    # RFC 4231, test case 5, is HMAC-SHA-256 cut to 128 bits.
    assert pseudonym(b"Test With Truncation", b"\x0c" * 20) == b"a3b6167473100ee06e0c796c2955552b"


def test_ids_are_logged_as_they_are_where_that_is_asked_for(tmp_path):
    assert riders_in(log_of(tmp_path, ["anna", None])) == ["anna", None]


def test_a_home_keeps_its_secret_to_its_owner(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIPCAST_RIDER_SECRET", raising=False)

    secret = rider_secret(tmp_path / "home")

    assert rider_secret(tmp_path / "home") == secret != rider_secret(tmp_path / "another")
    (file,) = (tmp_path / "home").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_environment_s_secret_comes_first_and_is_no_short_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPCAST_RIDER_SECRET", SECRET.decode())
    assert rider_secret(tmp_path) == SECRET
    monkeypatch.setenv("TRIPCAST_RIDER_SECRET", "short")
    with pytest.raises(InvalidRequest, match="TRIPCAST_RIDER_SECRET has less than 32 characters"):
        rider_secret(tmp_path)


def test_one_rider_s_rows_go_and_all_others_stay_as_they_were(tmp_path):
    store = log_of(tmp_path, ["anna", "ben", None, "anna"])
    others = read_log(store, *ALWAYS).filter(pa.array([False, True, True, False]))
    log_of(tmp_path, ["anna"])  # a file that is all hers

    assert forget(store, {"anna"}) == 3
    assert read_log(store, *ALWAYS).equals(others)
    assert len(store.list("predictions/")) == 1
    assert forget(store, {"anna"}) == 0


def test_the_command_finds_a_rider_by_id_and_by_pseudonym(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPCAST_RIDER_SECRET", SECRET.decode())
    monkeypatch.setenv("TRIPCAST_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("TRIPCAST_HOME", str(tmp_path / "home"))
    store = log_of(tmp_path, ["anna", "ben"], rider_secret=SECRET)
    log_of(tmp_path, ["anna"])

    done = CliRunner().invoke(main, ["log", "forget", "anna"])

    assert (done.exit_code, done.output.partition(".")[0]) == (0, "2 rows are removed")
    assert riders_in(store) == [pseudonym(b"ben", SECRET).decode()]
