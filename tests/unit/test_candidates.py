"""Candidates that other packages bring: a real small distribution, found, trained by, and not needed afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_trips
from tripcast.errors import InvalidRequest, StorageError
from tripcast.models import CANDIDATES, Model, training
from tripcast.models.training import train, train_from_files
from tripcast.registry.registry import Registry
from tripcast.taxi.candidates.lightgbm import Boosted
from tripcast.taxi.trips import Trips, trips_schema

#: Grows the trees month after month, each month's upon those before it: never more than one month in memory.
MONTHLY = """
    import json
    import os

    import lightgbm

    from tripcast.taxi.features import FEATURES, OutOfFold
    from tripcast.models.booster import Booster
    from tripcast.taxi.candidates.lightgbm import Boosted
    from tripcast.taxi.candidates.lightgbm import fit_holdout as fit_holdout_trees
    from tripcast.taxi.trips import read_trips

    loads_as = "lightgbm"

    def fit_holdout(earlier, later, search):
        if "TRACE" in os.environ:
            with open(os.environ["TRACE"], "a") as trace:
                trace.write(json.dumps([len(earlier), len(later), str(later.pickup_datetime.max())]) + "\\n")
        predictor, parameters = fit_holdout_trees(earlier, later, search)
        return predictor, {**parameters, "rounds": 20}

    def fit_files(files, parameters):
        tables = OutOfFold(read_trips(files[-1:])).tables
        settings = {name: value for name, value in parameters.items() if name not in ("rounds", "level")}
        trees = None
        for file in files:
            trips = read_trips([file])
            month = lightgbm.Dataset(tables(trips), trips.duration_minutes, feature_name=list(FEATURES))
            trees = lightgbm.train(
                {**settings, "objective": "regression", "verbose": -1, "deterministic": True, "seed": 1},
                month, parameters["rounds"], init_model=trees,
            )
        booster = Booster(trees.model_to_string().encode(), FEATURES)
        return Boosted(tables, booster, parameters["level"], booster, parameters["zones_level"])
"""


def install(site: Path, name: str, module: str) -> None:
    """Put a distribution there that brings one candidate, as an installer leaves it."""
    package = f"tripcast_{name}"
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text(dedent(module))
    described = site / f"{package}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[tripcast.candidates]\n{name} = {package}\n")


@pytest.fixture
def bring(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
    """Installs a distribution for this process; gives the folder to put on other processes' path."""
    site = tmp_path / "site"

    def bring(name: str, module: str) -> Path:
        install(site, name, module)
        monkeypatch.syspath_prepend(str(site))
        vars(CANDIDATES).pop("_from_entry_points", None)
        return site

    yield bring
    vars(CANDIDATES).pop("_from_entry_points", None)
    for name in [name for name in sys.modules if name.startswith("tripcast_")]:
        del sys.modules[name]


def month(number: int, count: int) -> Trips:
    trips = make_trips(count, seed=number)
    return Trips(
        trips.pickup_datetime + np.timedelta64(31 * (number - 1), "D"),
        trips.pickup_zone,
        trips.dropoff_zone,
        trips.trip_distance_miles,
        trips.duration_minutes,
    )


@pytest.fixture
def months(tmp_path) -> Path:
    """Three months of 800 trips, as the contract leaves them."""
    folder = tmp_path / "trips"
    folder.mkdir()
    for number in (1, 2, 3):
        trips = month(number, 800)
        columns = {name: getattr(trips, name) for name in trips_schema().names}
        pq.write_table(pa.table(columns, schema=trips_schema()), folder / f"2021-{number:02d}.parquet")
    return folder


DATA = {f"2021-{number:02d}": f"{number:064d}" for number in (1, 2, 3)}


def test_a_package_brings_a_candidate_beside_tripcasts_own(bring):
    bring("monthly", MONTHLY)
    assert list(CANDIDATES) == ["linear", "lightgbm", "tuned", "monthly"]
    assert "monthly" in CANDIDATES
    with pytest.raises(InvalidRequest, match="choose among linear, lightgbm, tuned, monthly"):
        train("forest", make_trips(600), taxi="green", data=DATA)


def test_no_package_is_asked_about_tripcasts_own():
    script = (
        "import importlib.metadata\n"
        "def refuse(**_): raise AssertionError('asked')\n"
        "importlib.metadata.entry_points = refuse\n"
        "from tripcast.models import CANDIDATES\n"
        "print(CANDIDATES['lightgbm'], 'tuned' in CANDIDATES)"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout == "tripcast.taxi.candidates.lightgbm True\n"


def test_a_package_cannot_take_the_name_of_tripcasts_own(bring):
    bring("linear", MONTHLY)
    assert CANDIDATES["linear"] == "tripcast.taxi.candidates.linear"
    assert list(CANDIDATES) == ["linear", "lightgbm", "tuned"]


def test_its_model_is_a_model_like_any_other_where_the_package_is_not(bring, months, tmp_path):
    bring("monthly", MONTHLY)
    folder = tmp_path / "model"
    train_from_files("monthly", months, folder, taxi="green", data=DATA, trials=1)
    later = month(4, 300)
    script = f"""
from pathlib import Path
from tests.unit.test_candidates import month
from tripcast.models import Model
model = Model.load(Path({str(folder)!r}))
print(model.predict(month(4, 300)).minutes.tolist())
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    model = Model.load(folder)
    manifest = json.loads((folder / "manifest.json").read_text())

    assert (manifest["candidate"], manifest["loads_as"]) == ("monthly", "lightgbm")
    assert set(manifest["files"]) > {"booster.txt"}
    assert (folder / "booster.txt").read_bytes().startswith(b"tree\n")
    assert isinstance(model.predictor, Boosted)
    assert json.loads(child.stdout) == model.predict(later).minutes.tolist()
    errors = model.predict(later).minutes - later.duration_minutes
    assert np.sqrt(np.mean(errors**2)) < 0.5 * np.std(later.duration_minutes)


def test_its_manifest_says_of_all_trips_what_that_of_an_own_candidate_says(bring, months, tmp_path):
    bring("monthly", MONTHLY)
    manifests = []
    for name in ("monthly", "lightgbm"):
        train_from_files(name, months, tmp_path / name, taxi="green", data=DATA, trials=1)
        manifests.append(Model.load(tmp_path / name).manifest)
    brought, own = manifests

    for part in ("format", "taxi", "data", "trips", "first_pickup", "last_pickup", "calibration", "intervals"):
        assert getattr(brought, part) == getattr(own, part), part
    assert brought.parameters == {**own.parameters, "rounds": 20}
    assert "loads_as" not in json.loads(own.to_json())


def test_the_rehearsal_has_the_latest_trips_in_memory_and_no_more(bring, months, tmp_path, monkeypatch):
    bring("monthly", MONTHLY)
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.setattr(training, "_HOLDOUT_TRIPS", 600)
    read: list[list[str]] = []
    read_trips = training.read_trips
    monkeypatch.setattr(
        training, "read_trips", lambda files: read.append([file.name for file in files]) or read_trips(files)
    )
    train_from_files("monthly", months, tmp_path / "model", taxi="green", data=DATA, trials=1)

    assert read == [["2021-03.parquet"]]
    assert json.loads((tmp_path / "trace").read_text()) == [510, 90, str(month(3, 800).pickup_datetime.max())]


def test_a_candidate_that_does_not_say_whose_predictor_it_fits_is_refused(bring, months, tmp_path):
    bring("silent", "def fit_files(files, parameters): ...")
    with pytest.raises(InvalidRequest, match=r"'silent' \(tripcast_silent\) does not say whose predictor .* loads_as"):
        train_from_files("silent", months, tmp_path / "model", taxi="green", data=DATA, trials=1)


def test_what_tripcast_could_not_load_is_refused_when_it_was_trained(bring, months, tmp_path):
    bring("wrong", MONTHLY.replace('loads_as = "lightgbm"', 'loads_as = "linear"'))
    with pytest.raises(InvalidRequest, match=r"'wrong' fitted what 'linear' cannot load \('coefficients.csv'\)"):
        train_from_files("wrong", months, tmp_path / "model", taxi="green", data=DATA, trials=1)
    assert not (tmp_path / "model").exists()


def test_a_model_of_a_loader_that_tripcast_does_not_know_is_refused(bring, months, tmp_path):
    bring("monthly", MONTHLY)
    folder = tmp_path / "model"
    train_from_files("monthly", months, folder, taxi="green", data=DATA, trials=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "loads_as": "forest"}))
    with pytest.raises(StorageError, match="names the candidate 'forest', and this tripcast knows linear, lightgbm"):
        Model.load(folder)


def test_too_few_trips_are_refused_before_any_are_read(bring, tmp_path):
    bring("monthly", MONTHLY)
    folder = tmp_path / "few"
    folder.mkdir()
    pq.write_table(trips_schema().empty_table(), folder / "2021-01.parquet")
    with pytest.raises(InvalidRequest, match="0 good trips are too few"):
        train_from_files("monthly", folder, tmp_path / "model", taxi="green", data=DATA, trials=1)


def test_a_whole_run_trains_judges_and_registers_it_and_others_load_it_without_the_package(tmp_path, settings):
    install(tmp_path / "site", "monthly", MONTHLY)
    command = [Path(sys.executable).parent / "tripcast", "train", "--json", "--source", "simulated?trips=3000"]
    ended = subprocess.run(
        [*command, "--candidates", "linear,monthly"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    registry = Registry("tripcast-green", settings)
    model = registry.load(registry.version(summary["version"]))

    assert summary["winner"] == "monthly"
    assert summary["candidates"].keys() == {"linear", "monthly"}
    assert (model.manifest.candidate, model.manifest.loads_as) == ("monthly", "lightgbm")
