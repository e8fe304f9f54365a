"""What became of the runs on Kubeflow: people are told of each that failed, once, and a failed retraining starts anew.

An exit handler would not do: it sees neither a run that somebody terminates nor one whose pods are lost, and a loop in
it does not run (kubeflow/pipelines #12390). So the next monitoring run looks back at all runs of the same experiment.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tripcast.jobs.respond import retraining_name
from tripcast.kubeflow import Kubeflow, start_run
from tripcast.monitoring.alerts import Alert, send, was_raised, webhook_address
from tripcast.monitoring.history import History, Window
from tripcast.settings import Settings
from tripcast.storage.store import Store, open_store
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS

#: How often a month's retraining is started, at most.
MOST_STARTS = 3

#: How far back it looks: longer than from one month's monitoring to the next.
_LOOK_BACK = timedelta(days=40)

#: A run that was stopped because another of its name was started at the same time has not failed.
_AT_ONCE = timedelta(seconds=60)

#: What Kubeflow Pipelines says of a run that has not done its work; one that somebody terminates ends as the first.
_FAILED = ("FAILED", "CANCELED")


def follow_up(taxi: str) -> str:
    """Tell people of runs that failed since, and start the latest month's retraining anew if that failed.

    Doing it again does nothing twice.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.

    Returns:
        What was done, as sentences.

    Raises:
        ClusterError: If Kubeflow Pipelines refuses, or does not answer.
        StorageError: If the store cannot be reached. A webhook that does not answer fails nothing.
    """
    settings = Settings.load()
    if settings.kfp_endpoint is None:
        return "Runs on this machine tell of their failures themselves."
    store = open_store(settings.artifacts)
    kubeflow = Kubeflow(settings.kfp_endpoint, settings.kfp_namespace)
    pages = settings.kfp_ui or settings.kfp_endpoint
    runs = kubeflow.runs(kubeflow.experiment(model_name(taxi)))
    alerts = list(_failed_runs(taxi, kubeflow, runs, pages, store))
    sentences = [alert.what for alert in alerts]
    windows = History(store, taxi).windows()
    if windows and windows[-1].retraining:
        window, month = windows[-1], windows[-1].month
        tries = [run for run in runs if run.display_name == retraining_name(taxi, month)]
        failed = [run for run in tries if run.state in _FAILED and not _is_double(run, runs)]
        if failed and all(run in failed or _is_double(run, runs) for run in tries):
            if len(failed) < MOST_STARTS:
                sentences.append(_start_anew(taxi, window, failed, settings, store))
            else:
                alerts.append(_given_up(taxi, month, failed[-1], pages))
    delivery = send(alerts, webhook_address(), store)
    if delivery.sent:
        sentences.append(f"Alerts sent: {len(delivery.sent)}.")
    return " ".join(sentences) or "No run has failed since."


def _failed_runs(taxi: str, kubeflow: Kubeflow, runs: list[Any], pages: str, store: Store) -> Iterator[Alert]:
    """An alert for each run that failed and that people have not been told of."""
    since = datetime.now(UTC) - _LOOK_BACK
    for run in runs:
        key = f"{taxi}/run/{run.run_id}"
        if run.state not in _FAILED or run.created_at < since or _is_double(run, runs) or was_raised(key, store):
            continue
        detailed = kubeflow.run(run.run_id)
        failure = kubeflow.failure(detailed, kubeflow.steps(detailed))
        end = "was stopped" if failure.stopped else "failed"
        what = f"{FEEDS[taxi].plural}: the run '{run.display_name}' {end}."
        yield Alert(key, what, f"{run.created_at:%Y-%m-%d %H:%M} UTC", str(failure), _page(pages, run))


def _is_double(run: Any, runs: list[Any]) -> bool:
    """Whether a run was stopped because another of its name was there, see ``tripcast.kubeflow.start_run``."""
    return run.state not in ("SUCCEEDED", "RUNNING", "PENDING") and any(
        other.display_name == run.display_name
        and other.run_id != run.run_id
        and other.created_at <= run.created_at < other.created_at + _AT_ONCE
        for other in runs
    )


def _start_anew(taxi: str, window: Window, failed: list[Any], settings: Settings, store: Store) -> str:
    """Start a month's retraining with the parameters of the run that failed."""
    assert settings.kfp_endpoint is not None
    run_id = start_run(
        "tripcast-training",
        retraining_name(taxi, window.month),
        model_name(taxi),
        failed[-1].runtime_config.parameters,
        endpoint=settings.kfp_endpoint,
        namespace=settings.kfp_namespace,
    )
    History(store, taxi).save_retraining(window, {"run": run_id, "failed": [run.run_id for run in failed]})
    return f"The retraining of {window.month} is started for the {len(failed) + 1}. time, as run {run_id}."


def _given_up(taxi: str, month: str, run: Any, pages: str) -> Alert:
    return Alert(
        f"{taxi}/retraining-given-up/{month}",
        f"{FEEDS[taxi].plural}: the retraining that {month} calls for has failed {MOST_STARTS} times.",
        month,
        "It is not started again. What serves stays. Mend what the last run says, then start that run again.",
        _page(pages, run),
    )


def _page(pages: str, run: Any) -> str:
    return f"{pages.rstrip('/')}/#/runs/details/{run.run_id}"
