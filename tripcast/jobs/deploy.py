"""Deployment: a version is rolled out in the registry, and the service is watched until it serves it, or not."""

from __future__ import annotations

import time
from typing import Any

from tripcast.errors import DeploymentError
from tripcast.registry.registry import Registry, Traffic

#: Seconds that the service has to take a version up. It asks the registry every five, and a model is a few megabytes.
_PATIENCE = 120.0

#: Seconds between two looks at the service.
_PAUSE = 0.5


def deploy(registry: Registry, number: int, share: float, service_url: str | None, patience: float = _PATIENCE) -> str:
    """Roll a version out, and wait until the prediction service says that it serves it.

    Doing it again changes nothing.

    Args:
        registry: The registered model.
        number: The version.
        share: Of the riders, 0 to 1. The whole makes it the champion, and so does being the first version of all; less
            makes it the challenger.
        service_url: Where the service answers; None where there is none, then nothing is waited for. Nor is one waited
            for that serves the other taxi's model.
        patience: Seconds to wait.

    Returns:
        What serves now, as a sentence.

    Raises:
        DeploymentError: If the service never says so; what served before is restored, and the reason is in the record.
        InvalidRequest: If there is no such version, or the share is out of range.
    """
    before = registry.traffic()
    reason = registry.version(number).tags.get("tripcast.decision", "Deployed by a pipeline.")
    if share == 1 or before.champion is None or before.champion.number == number:
        arm, share = "champion", 0.0
        registry.promote(number, reason)
        sentence = f"Version {number} answers every rider."
    else:
        arm = "challenger"
        if before.challenger is None or (before.challenger.number, before.share) != (number, share):
            registry.challenger(number, share, reason)
        sentence = f"Version {number} answers {share:.0%} of the riders, version {before.champion.number} the others."
    if service_url is None:
        return sentence
    trouble = _wait(service_url.rstrip("/"), registry.name, arm, number, share, patience)
    if trouble is None:
        return sentence
    _restore(registry, before, f"Version {number} was never served: {trouble}")
    raise DeploymentError(
        f"The service at {service_url} did not take up {registry.name} version {number} within {patience:.0f} seconds: "
        f"{trouble} What served before does so again. Check the service and its log, then deploy the version again."
    )


def _wait(service_url: str, model: str, arm: str, number: int, share: float, patience: float) -> str | None:
    """Wait until an arm of the service is a version; gives what is wrong if that does not come to pass.

    A service serves the model of one taxi. One of another taxi's has nothing to take up.
    """
    deadline = time.monotonic() + patience
    while True:
        state, trouble = _ask(service_url)
        served = state.get(arm)
        if state.get("model", model) != model:
            return None
        if served and served["version"] == number and (arm == "champion" or state["share"] == share):
            return None
        if time.monotonic() > deadline:
            return trouble or " ".join(state.get("problems") or ["It serves another version."])
        time.sleep(_PAUSE)


def _ask(service_url: str) -> tuple[dict[str, Any], str | None]:
    """What the service says that it serves, and what is wrong if it says nothing."""
    import requests

    try:
        answer = requests.get(f"{service_url}/model", timeout=5)
        body = answer.json()
    except requests.RequestException as error:  # also of a body that is no JSON
        return {}, f"it does not answer ({error})."
    return (body, None) if answer.ok else ({}, str(body.get("error", answer.reason)))


def _restore(registry: Registry, before: Traffic, reason: str) -> None:
    """Let serve what served before."""
    now = registry.traffic()
    if before.champion is None:
        registry.remove_champion(reason)
    elif now.champion and now.champion.number != before.champion.number:
        registry.rollback(reason)
    if before.challenger:
        registry.challenger(before.challenger.number, before.share, reason)
    elif registry.traffic().challenger:
        registry.withdraw(reason)
