"""A run on this machine, with everything where the settings say."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfp.dsl.graph_component import GraphComponent

from pipelines.local.containers import Containers
from pipelines.local.processes import Processes
from pipelines.local.runner import LocalRun, run_locally
from pipelines.progress import StepEvent
from tripcast.errors import TripcastError
from tripcast.monitoring.alerts import Alert, send, webhook_address
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi.feeds import FEEDS


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
        TripcastError: As ``pipelines.local.run_locally``; people are told of it, where a webhook is set.
        KeyboardInterrupt: If interrupted; no step is left running.
    """
    source = str(arguments.get("source", ""))
    folders = [Path(source)] if source.startswith("/") else []
    store = open_store(settings.artifacts)
    # The home is the runs' own place; anywhere else gets copies.
    copies = store if settings.artifacts != str(settings.home) else None
    carried_out = Containers(settings, folders) if runner == "docker" else Processes()
    failed: list[str] = []

    def watch(event: StepEvent) -> None:
        if event.state == "failed":
            failed.append(event.label)
        notify(event)

    try:
        return run_locally(pipeline, arguments, settings.runs, watch, carried_out, copies)
    except TripcastError as error:
        if failed and (webhook := webhook_address()):
            send([_failed_run(str(pipeline.name), arguments, failed[0], str(error))], webhook, store)
        raise


def _failed_run(pipeline: str, arguments: Mapping[str, Any], step: str, sentence: str) -> Alert:
    """What people are told of a run that failed here, if there is a webhook to tell them by."""
    now = datetime.now(UTC)
    taxi = str(arguments["taxi"])
    what = f"{FEEDS[taxi].plural}: the run of '{pipeline}' on {platform.node()} failed at the step '{step}'."
    return Alert(f"{taxi}/run/{pipeline}-{now:%Y-%m-%dT%H-%M-%S.%f}", what, f"{now:%Y-%m-%d %H:%M} UTC", sentence)


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
    elif document["champion"]:
        document["serves"] = f"Version {document['champion']['version']} serves as before."
    else:
        document["serves"] = "No version serves."
    return document
