"""One turn of the loop on this machine: watch a month, carry out what it decides, train anew if it asks for that.

On a cluster the monitoring pipeline starts the training itself, as a run of its own. Here it is run in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.local.laptop import run_here, summarise_training
from pipelines.monitoring import monitoring
from pipelines.progress import StepEvent
from pipelines.training import training
from tripcast.jobs.respond import LoopOptions
from tripcast.monitoring.history import History, Window
from tripcast.settings import Settings
from tripcast.storage.store import open_store


@dataclass(frozen=True)
class Turn:
    """What a turn did.

    Attributes:
        window: The record of the month that was watched.
        response: What was done about it, as sentences.
        trained: What came of the retraining, see ``summarise_training``; None if there was none.
        report: The monitoring report.
        runs: Folders of the runs that the turn was made of.
    """

    window: Window
    response: str
    trained: Mapping[str, Any] | None
    report: Path
    runs: Sequence[Path]


def turn(
    options: LoopOptions,
    month: str,
    *,
    settings: Settings,
    notify: Callable[[StepEvent], None],
    runner: str = "process",
) -> Turn | None:
    """Take one turn. Doing it again does nothing twice; one that was cut short is finished.

    Args:
        options: How the loop decides and learns.
        month: The month to watch, or ``next``.
        settings: Where everything is kept.
        notify: Called with everything that happens, from several threads.
        runner: What a step is: ``process`` or ``docker``.

    Returns:
        What was done; None if the next month is not published yet.

    Raises:
        TripcastError: If a step fails.
        KeyboardInterrupt: If interrupted.
    """
    asked = {**asdict(options), "candidates": list(options.candidates), "month": month}  # kfp takes no tuple
    watched = run_here(monitoring, asked, settings, notify, runner)
    outputs = watched.output("monitor")
    if not outputs["Output"]:
        return None
    # A browser shows a page only under a page's name; the artifact has none.
    report = watched.folder / "report.html"
    report.hardlink_to(outputs["report"])
    history = History(open_store(settings.artifacts), options.taxi)
    window = history.window(outputs["Output"])
    assert window is not None
    trained, runs = history.get_retraining(window), [watched.folder]
    if window.retraining and trained is None:
        run = run_here(training, options.training_arguments(window), settings, notify, runner)
        trained = summarise_training(run)
        history.save_retraining(window, trained)
        runs.append(run.folder)
    responded = history.get_response(window)
    assert responded is not None
    return Turn(window, responded["what"], trained, report, runs)
