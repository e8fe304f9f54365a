"""Deployment: a version is rolled out in the registry, and the service is watched until it serves it, or not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from tripcast.errors import DeploymentError
from tripcast.registry.registry import Registry

#: Seconds that the service has to take a version up. It asks the registry every five, and a model is a few megabytes.
_PATIENCE = 120.0

#: Seconds between two looks at the service.
_PAUSE = 0.5

#: The tag of a version that says what served when its deployment began; empty once that has ended. One that was killed
#: while it waited is taken up by the next one.
BEGAN_WITH = "tripcast.deployment_began_with"


@dataclass(frozen=True)
class Standing:
    """What serves.

    Attributes:
        champion: The champion's version; None if there is none.
        challenger: The challenger's version; None if there is none.
        share: The challenger's, of the riders, 0 to 1.
    """

    champion: int | None
    challenger: int | None
    share: float


def deploy(registry: Registry, number: int, share: float, service_url: str | None, patience: float = _PATIENCE) -> str:
    """Roll a version out, and wait until the prediction service says that it serves it.

    Doing it again changes nothing. One that was killed while it waited, and is tried again, knows what served before
    both.

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
            A version that served before stays.
        InvalidRequest: If there is no such version, it was judged against another champion, or the share is out of
            range.
    """
    tags = registry.version(number).tags
    now = _standing(registry)
    before = _began_with(tags.get(BEGAN_WITH), now, number)
    registry.tag(number, BEGAN_WITH, msgspec.json.encode(before).decode())
    reason = tags.get("tripcast.decision", "Deployed by a pipeline.")
    if share == 1 or now.champion is None or now.champion == number:
        arm, share = "champion", 0.0
        registry.promote(number, reason, judged=True)
        sentence = f"Version {number} answers every rider."
    else:
        arm = "challenger"
        if (now.challenger, now.share) != (number, share):
            registry.challenger(number, share, reason, judged=True)
        sentence = f"Version {number} answers {share:.0%} of the riders, version {now.champion} the others."
    trouble = None
    if service_url is not None:
        trouble = _wait(service_url.rstrip("/"), registry.name, arm, number, share, patience)
    if trouble is not None:
        _restore(registry, before, f"Version {number} was never served: {trouble}")
    registry.tag(number, BEGAN_WITH, "")
    if trouble is None:
        return sentence
    serves = "It stays the champion, as it was." if before.champion == number else "What served before does so again."
    raise DeploymentError(
        f"The service at {service_url} did not take up {registry.name} version {number} within {patience:.0f} seconds: "
        f"{trouble} {serves} Check the service and its log, then deploy the version again."
    )


def _standing(registry: Registry) -> Standing:
    traffic = registry.traffic()
    champion, challenger = traffic.champion, traffic.challenger
    return Standing(champion.number if champion else None, challenger.number if challenger else None, traffic.share)


def _began_with(noted: str | None, now: Standing, number: int) -> Standing:
    """What served when the version's deployment began: as an unfinished one noted it, or else what serves now.

    Not that of one whose promotion somebody has undone or replaced since.
    """
    if not noted:
        return now
    began = msgspec.json.decode(noted, type=Standing)
    goes_on = now.champion == number or (now.challenger == number and now.champion == began.champion)
    return began if goes_on else now


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


def _restore(registry: Registry, before: Standing, reason: str) -> None:
    """Let serve what served before."""
    if before.champion is None:
        registry.remove_champion(reason)
    elif _standing(registry).champion != before.champion:
        registry.rollback(reason)
    now = _standing(registry)
    if before.challenger is None and now.challenger is not None:
        registry.withdraw(reason)
    elif before.challenger is not None and before != now:
        registry.challenger(before.challenger, before.share, reason)
