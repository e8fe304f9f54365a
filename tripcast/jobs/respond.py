"""The response to a watched window: what its decision asks for is carried out, once, however often it is asked for.

Each act has a key of its own: an alert its incident, the end of a trial its window, a retraining its run's name. So a
response that was cut short is simply given again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tripcast.errors import InvalidRequest
from tripcast.monitoring.alerts import Alert, send, webhook_address
from tripcast.monitoring.history import History, Window
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS

_WHAT_IS_WRONG = {
    "data": "the data of {month} is broken",
    "error": "the predictions of version {version} have become worse",
    "drift": "the trips have changed",
    "coverage": "the intervals of version {version} are off",
    "volume": "there are too few trips",
}


@dataclass(frozen=True)
class LoopOptions:
    """How the loop decides and learns.

    Attributes:
        source: Where months come from.
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        rule: Thresholds of the rule that differ from its own, by name.
        training_months: On how many months, at most, a candidate is trained.
        candidates: Which models are trained.
        trials: How many parameter sets a search tries.
        rollout: Share of the riders, 0 to 1, on whom a winner is tried whose gain may be chance.
        canary_minutes: How long a winner whose gain is proven answers a few riders first.
        approval: Whether a winner waits for a person before it serves.
    """

    source: str
    taxi: str
    rule: Mapping[str, float] = field(default_factory=dict)
    training_months: int = 3
    candidates: Sequence[str] = ("linear", "lightgbm")
    trials: int = 20
    rollout: float = 0.1
    canary_minutes: float = 2.0
    approval: bool = False

    def training_arguments(self, window: Window) -> dict[str, object]:
        """The training pipeline's parameters for the training that a window calls for.

        Raises:
            InvalidRequest: If it calls for none.
        """
        if window.retraining is None:
            raise InvalidRequest(f"{window.month} calls for no training.")
        return {
            "source": self.source,
            "taxi": self.taxi,
            "train_months": window.retraining.train,
            "test_month": window.retraining.test,
            "candidates": list(self.candidates),
            "trials": self.trials,
            "rollout": 1.0,
            "trial_rollout": self.rollout,
            "proven_gain": window.retraining.min_gain,
            "refit": True,
            "canary_minutes": self.canary_minutes,
            "approval": self.approval,
        }


@dataclass(frozen=True)
class Response:
    """What was done about a window.

    Attributes:
        what: In a sentence or a few.
        retrain: Whether a retraining is still to be started.
    """

    what: str
    retrain: bool


def respond(taxi: str, month: str) -> Response:
    """Tell people about a window's incidents, and end the challenger's trial if the window decided it.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        month: A month that was watched.

    Raises:
        InvalidRequest: If the month was not watched.
        TrackingError: If the registry cannot be reached.
        StorageError: If the store cannot be. A webhook that does not answer fails nothing.
    """
    settings = Settings.load()
    store = open_store(settings.artifacts)
    history = History(store, taxi)
    window = _recorded(history, month)
    done = history.get_response(window)
    # Alerts that a dead webhook left waiting go out with the next response, whatever that is about.
    delivery = send(list(_alerts(taxi, window, history.report_uri(month))), webhook_address(), store)
    retrain = window.retraining is not None and history.get_retraining(window) is None
    if done is not None:
        return Response(f"{month} was responded to before: {done['what']}", retrain)
    sentences = [window.reason]
    registry, cause = Registry(model_name(taxi), settings), f"monitoring/{month}"
    comparison, trial = window.comparison, window.trial
    if comparison and comparison.relapse:
        sentences.append(comparison.relapse)
        registry.relapse(comparison.champion, comparison.previous, reason=comparison.relapse, cause=f"{cause}/relapse")
    if trial:
        sentences.append(trial.reason)
        if trial.verdict != "wait":
            better = trial.verdict == "promote"
            registry.end_trial(trial.challenger, trial.champion, better=better, reason=trial.reason, cause=cause)
    if delivery.sent:
        sentences.append(f"Alerts sent: {len(delivery.sent)}.")
    if delivery.waiting:
        sentences.append(f"Alerts that wait for a webhook: {len(delivery.waiting)}.")
    what = " ".join(sentences)
    history.save_response(window, {"what": what})
    return Response(what, retrain)


def retraining_name(taxi: str, month: str) -> str:
    """The name of the runs that train what a month calls for."""
    return f"retraining {taxi} {month}"


def start_retraining(options: LoopOptions, month: str) -> str:
    """Start the training that a window calls for, where Kubeflow Pipelines is there to run it.

    Args:
        options: How the loop learns.
        month: The window.

    Returns:
        What was started, as a sentence. Without Kubeflow Pipelines, nothing: whoever runs the loop trains in place.

    Raises:
        InvalidRequest: If the month was not watched.
        ClusterError: If the run cannot be started.
        StorageError: If the store cannot be reached.
    """
    from tripcast.kubeflow import start_run

    settings, taxi = Settings.load(), options.taxi
    history = History(open_store(settings.artifacts), taxi)
    window = _recorded(history, month)
    done = history.get_retraining(window)
    if done is not None:
        return f"Run {done['run']} was started before."
    if window.retraining is None:
        return f"{month} calls for no training."
    if settings.kfp_endpoint is None:
        return f"Left to whoever runs the loop: train on {window.retraining.train}, test on {window.retraining.test}."
    run = start_run(
        "tripcast-training",
        retraining_name(taxi, month),
        model_name(taxi),
        options.training_arguments(window),
        endpoint=settings.kfp_endpoint,
        namespace=settings.kfp_namespace,
    )
    history.save_retraining(window, {"run": run})
    return f"Run {run} of tripcast-training was started."


def _recorded(history: History, month: str) -> Window:
    window = history.window(month)
    if window is None:
        raise InvalidRequest(f"{month} was not watched yet: run the monitoring pipeline on it first.")
    return window


def _alerts(taxi: str, window: Window, link: str) -> Iterator[Alert]:
    version = window.result.version
    for incident in window.incidents:
        what = _WHAT_IS_WRONG[incident.kind].format(month=window.month, version=version)
        key = f"{taxi}/{incident.kind}/v{version}/{incident.since}"
        yield Alert(key, f"{FEEDS[taxi].plural}: {what}.", incident.since, incident.sentence, link)
    trial, comparison = window.trial, window.comparison
    if comparison and comparison.relapse:
        key = f"{taxi}/relapse/v{comparison.champion}/{window.month}"
        what = f"{FEEDS[taxi].plural}: version {comparison.champion} goes back to version {comparison.previous}."
        yield Alert(key, what, window.month, comparison.relapse, link)
    if trial and trial.verdict != "wait":
        fate = "becomes the champion" if trial.verdict == "promote" else "is withdrawn"
        key = f"{taxi}/{trial.verdict}/v{trial.challenger}/{window.month}"
        what = f"{FEEDS[taxi].plural}: the challenger, version {trial.challenger}, {fate}."
        yield Alert(key, what, window.month, trial.reason, link)
