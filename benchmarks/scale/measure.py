"""What each step costs as months grow: processor seconds and peak memory, on simulated yellow trips.

    python benchmarks/scale/measure.py [--months 1] [--trips 1000000] [--workers 1,2] [--score]

The months are made first and written as the publisher would write them. `tripcast train` then runs on them, whole, once
for each number of workers, and the processes of its steps are watched. Seconds are of the processor (user and system),
which other work on the machine disturbs less than the clock; memory is the most that the kernel counted. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tripcast.months import Month, parse_months

TAXI = "yellow"
FIRST = Month.parse("2021-01")

#: Between two looks at the processes, in seconds; what one does in its last moment is not seen.
PAUSE = 0.1

#: What a process's command says of it: the step and the candidate that it trains; a worker of a training.
STEP = re.compile(r"--function_to_execute (\w+)")
CANDIDATE = re.compile(r'"candidate": "(\w+)"')
WORKER = "tripcast.taxi.candidates.distributed"


def months(count: int) -> list[Month]:
    """That many training months and the month to judge on, in time order."""
    ordinal = FIRST.year * 12 + FIRST.month - 1 + count
    return parse_months(f"{FIRST}..{ordinal // 12:04d}-{ordinal % 12 + 1:02d}")


def simulate(source: Path, trips: int, count: int) -> None:
    """Write the months as the publisher would: parquet with all of its columns."""
    import pyarrow.parquet as pq

    from tripcast.taxi.simulation import SCHEMAS, City

    for month in months(count):
        with pq.ParquetWriter(source / f"{TAXI}_tripdata_{month}.parquet", SCHEMAS[TAXI], compression="zstd") as writer:
            for batch in City(trips=trips).month(TAXI, month):
                writer.write_batch(batch)


def name_of(command: str) -> str | None:
    """What a process is called in the table; None for one that does no work of a step, such as a shell."""
    step, candidate = STEP.search(command), CANDIDATE.search(command)
    if WORKER in command:
        return "a worker"
    if not step or command.startswith("sh "):
        return None
    return f"train `{candidate[1]}`" if candidate and step[1] == "train" else step[1]


def watch(command: list[str], home: Path) -> dict[str, list[tuple[float, float]]]:
    """Run a command of tripcast, and watch the processes below it.

    Returns:
        Processor seconds and peak MB of every process that did the work of a step, by its name.
    """
    running = psutil.Popen([*command, "--home", str(home)], stdout=subprocess.DEVNULL)
    names: dict[int, str | None] = {}
    used: dict[int, tuple[float, float]] = {}
    while running.poll() is None:
        for process in running.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, KeyError):
                if names.setdefault(process.pid, name_of(" ".join(process.cmdline()))):
                    times, status = process.cpu_times(), Path(f"/proc/{process.pid}/status").read_text()
                    lines = dict(line.split(":", 1) for line in status.splitlines())
                    used[process.pid] = times.user + times.system, int(lines["VmHWM"].split()[0]) / 1024
        time.sleep(PAUSE)
    if running.returncode not in (0, 3):  # 3: refused by the gate
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}")
    found: dict[str, list[tuple[float, float]]] = {}
    for pid, figures in used.items():
        found.setdefault(names[pid] or "", []).append(figures)
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """Markdown: how many processes a step had, the seconds of all of them, the memory of the largest."""
    lines = ["| step | processes | processor s | peak MB |", "|---|---:|---:|---:|"]
    for name, figures in found.items():
        seconds, peak = sum(second for second, _ in figures), max(peak for _, peak in figures)
        lines.append(f"| {name} | {len(figures)} | {seconds:.1f} | {peak:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--months", type=int, default=1, help="training months; one more is judged on")
    parser.add_argument("--trips", type=int, default=1_000_000, help="records of a month")
    parser.add_argument("--workers", default="1", help="how many train together, one number or several")
    parser.add_argument("--score", action="store_true", help="score the last month, too")
    arguments = parser.parse_args()
    known = months(arguments.months)
    tripcast = str(Path(sys.executable).parent / "tripcast")
    with TemporaryDirectory() as folder:
        source, home = Path(folder) / "source", Path(folder) / "home"
        source.mkdir()
        simulate(source, arguments.trips, arguments.months)
        of = ["--source", str(source), "--taxi", TAXI]
        for workers in arguments.workers.split(","):
            command = [tripcast, "train", *of, "--train", f"{known[0]}..{known[-2]}", "--test", str(known[-1])]
            started, before = time.monotonic(), os.times()
            found = watch([*command, "--workers", workers], home / workers)
            minutes, after = (time.monotonic() - started) / 60, os.times()
            spent = sum(after[2:4]) - sum(before[2:4])
            print(
                f"\n{arguments.months} x {arguments.trips:,} records, {workers} workers: "
                f"{minutes:.1f} minutes, {spent:,.0f} s of processor\n\n{table(found)}",
                flush=True,
            )
        if arguments.score:
            found = watch([tripcast, "score", *of, "--months", str(known[-1])], home / workers)
            print(f"\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
