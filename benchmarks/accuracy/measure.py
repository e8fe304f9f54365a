"""How good the candidates are on published months: train on earlier ones, judge on a later one, whole months.

    python benchmarks/accuracy/measure.py ../shared/data [candidates] [trials]

Runs `tripcast train` for each split below in an empty home, and prints two Markdown tables: with the meter's distance,
as the notebook has it, and without it, as riders ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

TRIPCAST = Path(sys.executable).parent / "tripcast"

#: Training months and test month.
SPLITS = (
    ("2021-01", "2021-02"),
    ("2021-01..2021-02", "2021-03"),
    ("2022-01", "2022-02"),
    ("2022-01..2022-02", "2022-03"),
)


def main(folder: str, candidates: str = "linear,lightgbm", trials: str = "20") -> None:
    """Measure and print."""
    metered = ["| trained on | judged on | trips | candidate | RMSE | MAE | R² | in 10-90 % interval |"]
    metered.append("|---|---|--:|---|--:|--:|--:|--:|")
    asked = ["| trained on | judged on | candidate | zones only | in interval | planned, 20 % off | in interval |"]
    asked.append("|---|---|---|--:|--:|--:|--:|")
    for train, test in SPLITS:
        command = [TRIPCAST, "train", "--source", folder, "--train", train, "--test", test, "--json"]
        with TemporaryDirectory() as home:
            options = ["--home", home, "--candidates", candidates, "--trials", trials]
            result = subprocess.run([*command, *options], capture_output=True, text=True)
        summary = json.loads(result.stdout)
        for name, of in summary["candidates"].items():
            figures = f"{of['rmse']:.3f} | {of['mae']:.3f} | {of['r2']:.3f} | {of['interval_coverage']:.1%}"
            metered.append(f"| {train} | {test} | {summary['trips']:,} | {name} | {figures} |")
            ways = (of["zones_only"], of["planned"])
            figures = " | ".join(
                f"{way['rmse']:.3f} / {way['mae']:.3f} | {way['interval_coverage']:.1%}" for way in ways
            )
            asked.append(f"| {train} | {test} | {name} | {figures} |")
    print(*metered, "", *asked, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
