"""Where the time of a whole training run goes, on this machine.

    python benchmarks/pipeline/measure.py ../shared/data [runs]

Runs `tripcast train` on 2021-01..2021-02 to 2021-03 of a folder of green taxi months, each time in an empty home, and
prints the median of each step; then, beside it, what importing takes the steps, and the bare work of a step.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

TRIPCAST = Path(sys.executable).parent / "tripcast"
MONTHS = ["--train", "2021-01..2021-02", "--test", "2021-03", "--candidates", "linear,lightgbm"]

#: What the heaviest imports of the steps are.
IMPORTS = ("kfp.dsl", "pyarrow.parquet", "lightgbm", "sklearn.linear_model", "matplotlib.figure", "mlflow")


def main(folder: str, runs: int = 3) -> None:
    """Measure and print a Markdown table."""
    command = [TRIPCAST, "train", "--source", folder, *MONTHS, "--json"]
    seconds: list[dict[str, float]] = []
    for _ in range(runs + 1):  # the first one warms the caches of the file system
        with TemporaryDirectory() as home:
            result = subprocess.run([*command, "--home", home], capture_output=True, text=True, check=True)
        seconds.append(json.loads(result.stdout)["seconds"])
    print(f"Median of {runs} runs, seconds\n\n| step | seconds |\n|---|--:|")
    for step in seconds[-1]:
        print(f"| {step} | {statistics.median(run[step] for run in seconds[1:]):.1f} |")

    print("\n| import | seconds |\n|---|--:|")
    for module in IMPORTS:
        took = []
        for _ in range(runs + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            took.append(time.perf_counter() - started)
        print(f"| {module} | {statistics.median(took[1:]):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
