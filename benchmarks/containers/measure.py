"""What a container costs a step, beside a process: a step that does nothing, and the steps of a training run.

    python benchmarks/containers/measure.py [runs]

Needs Docker and the image ('make images'). Processes and containers take turns, so that both meet the same machine.
"""

import os
import statistics
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.step import step
from pipelines.local.containers import Containers
from pipelines.local.processes import Processes
from pipelines.local.runner import Runner, run_locally
from pipelines.progress import Progress
from pipelines.training import training
from tripcast.settings import Settings


@step
def nothing() -> None:
    """Does nothing."""


@dsl.pipeline(name="idle")
def idle() -> None:
    """A step that does nothing."""
    nothing()


def main(runs: int = 5) -> None:
    """Measure and print Markdown tables."""
    arguments = {"source": "simulated", "train_months": "2021-01..2021-02", "test_month": "2021-03"}
    for pipeline, given, times in ((idle, {}, 4 * runs), (training, arguments, runs)):
        seconds: dict[str, list[dict[str, float]]] = {"process": [], "container": []}
        for _ in range(times + 1):  # the first one warms the caches of the file system
            for kind, runner in (("process", Processes), ("container", lambda: Containers(Settings.load()))):
                seconds[kind].append(_run(pipeline, given, runner))
        print("\n| step | process | container | more |\n|---|--:|--:|--:|")
        for name in seconds["process"][0]:
            process, container = (statistics.median(run[name] for run in seconds[kind][1:]) for kind in seconds)
            print(f"| {name} | {process:.2f} | {container:.2f} | {container - process:+.2f} |")


def _run(pipeline: GraphComponent, arguments: dict[str, object], runner: Callable[[], Runner]) -> dict[str, float]:
    with TemporaryDirectory() as home:
        os.environ["TRIPCAST_HOME"] = home
        progress = Progress()  # on standard error
        run_locally(pipeline, arguments, Settings.load().runs, progress, runner())
        return progress.seconds


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
