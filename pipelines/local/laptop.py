"""A run on this machine, with everything where the settings say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp.dsl.graph_component import GraphComponent

from pipelines.local.containers import Containers
from pipelines.local.processes import Processes
from pipelines.local.runner import LocalRun, run_locally
from pipelines.progress import StepEvent
from tripcast.settings import Settings
from tripcast.storage.store import open_store


def run_here(
    pipeline: GraphComponent,
    arguments: dict[str, Any],
    settings: Settings,
    notify: Callable[[StepEvent], None],
    runner: str = "process",
) -> LocalRun:
    """Run a pipeline on this machine and wait for its end.

    Args:
        pipeline: The pipeline.
        arguments: Its parameters, by name.
        settings: Where everything is kept.
        notify: Called with everything that happens, from several threads.
        runner: What a step is: ``process`` or ``docker``.

    Returns:
        The run, to read its outputs from.

    Raises:
        TripcastError: As ``pipelines.local.run_locally``.
        KeyboardInterrupt: If interrupted; no step is left running.
    """
    source = str(arguments.get("source", ""))
    folders = [Path(source)] if source.startswith("/") else []
    # The home is the runs' own place; anywhere else gets copies.
    store = open_store(settings.artifacts) if settings.artifacts != str(settings.home) else None
    carried_out = Containers(settings, folders) if runner == "docker" else Processes()
    return run_locally(pipeline, arguments, settings.runs, notify, carried_out, store)


def summarise_training(run: LocalRun) -> dict[str, Any]:
    """What came of a run of the training pipeline, ready for JSON: the decision, the figures behind it, what serves.

    Args:
        run: The run, which has ended.
    """
    evaluated = run.output("evaluate")
    document: dict[str, Any] = json.loads(Path(evaluated["decision"]).read_text(encoding="utf-8"))
    if evaluated["Output"]:
        document["version"] = int(run.output("register")["Output"])
        document["serves"] = run.output("deploy")["Output"]
    return document
