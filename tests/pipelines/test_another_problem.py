"""Another problem takes the place of the taxis: a copy of the packages predicts how many hours a parcel takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAIN = "from tripcast.cli import main; main()"
PARCELS = Path(__file__).parent / "another_problem"


def write_month(folder: Path, month: str, seed: int) -> None:
    """Parcels whose hours follow from the depot, the distance and the weight, with half an hour of chance."""
    random = np.random.default_rng(seed)
    depot, kilometres, kilograms = random.integers(0, 3, 800), random.gamma(2, 4, 800), random.gamma(2, 3, 800)
    hours = 2 + depot + 0.8 * kilometres + 0.1 * kilograms + random.normal(0, 0.5, 800)
    start = np.datetime64(month, "s") + np.sort(random.integers(0, 28 * 86_400, 800)).astype("timedelta64[s]")
    columns = {"pickup_datetime": start, "depot": depot, "kilometres": kilometres, "kilograms": kilograms}
    pd.DataFrame(columns | {"duration_minutes": hours}).to_csv(folder / f"{month}.csv", index=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository's packages with parcels in place of ``tripcast/taxi``, and two months of them."""
    folder = tmp_path_factory.mktemp("parcels")
    for package in ("components", "pipelines", "tripcast"):
        leave = shutil.ignore_patterns("__pycache__", "taxi")
        shutil.copytree(REPOSITORY / package, folder / package, ignore=leave)
    shutil.copytree(PARCELS, folder / "tripcast" / "taxi", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "months").mkdir()
    for seed, month in enumerate(("2021-01", "2021-02")):
        write_month(folder / "months", month, seed)
    return folder


def test_the_training_pipeline_of_another_problem_runs_to_a_registered_model(copy):
    home = copy / "home"
    # MLflow leaves in this process's environment where other tests have tracked.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = ["train", "--source", str(copy / "months"), "--train", "2021-01", "--test", "2021-02", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", MAIN, *command, "--candidates", "linear", "--home", str(home)],
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout)
    assert (summary["model"], summary["decision"], summary["version"]) == ("parcels-green", "promoted", 1)
    assert summary["candidates"]["linear"]["rmse"] == pytest.approx(0.5, abs=0.05)

    store = f"sqlite:///{home / 'mlflow.db'}"
    client = mlflow.MlflowClient(store, registry_uri=store)
    assert client.get_model_version_by_alias("parcels-green", "champion").version == 1


def test_another_problem_costs_fewer_than_three_hundred_lines():
    lines = [line for file in PARCELS.rglob("*.py") for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) < 300
