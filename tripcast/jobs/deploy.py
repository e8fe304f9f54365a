"""Deployment: a version is rolled out in the registry, and the service is watched until it serves it, or not."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import requests

from tripcast.errors import DeploymentError
from tripcast.jobs.canary import trouble_with
from tripcast.monitoring.alerts import Alert, send, webhook_address
from tripcast.registry.registry import Registry
from tripcast.settings import Settings
from tripcast.storage.files import storage_errors
from tripcast.storage.store import open_store
from tripcast.taxi import taxi_of

#: Share of the riders that a canary answers.
_CANARY_SHARE = 0.05

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


def deploy(
    registry: Registry,
    number: int,
    share: float,
    service_url: str | None,
    patience: float = _PATIENCE,
    *,
    canary_minutes: float = 0.0,
) -> str:
    """Roll a version out, and wait until the prediction service says that it serves it.

    Doing it again changes nothing. One that was killed while it waited, and is tried again, knows what served before
    both.

    Args:
        registry: The registered model.
        number: The version.
        share: Of the riders, 0 to 1. The whole makes it the champion, and so does being the first version of all; less
            makes it the challenger.
        service_url: Where the service answers; None where there is none, then nothing is waited for.
        patience: Seconds to wait.
        canary_minutes: How long a version that replaces a champion answers a few riders first, while the health of the
            service is watched; 0 for no canary.

    Returns:
        What serves now, as a sentence.

    Raises:
        DeploymentError: If the service never says so, or is not well with the version; what served before is restored,
            and the reason is in the record. A version that served before stays.
        InvalidRequest: If there is no such version, it was judged against another champion, or the share is out of
            range.
    """
    tags = registry.version(number).tags
    now = _standing(registry)
    before = _began_with(tags.get(BEGAN_WITH), now, number)
    registry.tag(number, BEGAN_WITH, msgspec.json.encode(before).decode())
    reason = tags.get("tripcast.decision", "Deployed by a pipeline.")
    url = service_url.rstrip("/") if service_url else None
    trouble = None
    if url and canary_minutes and share == 1 and now.champion not in (None, number):
        trouble = _canary(registry, number, url, reason, patience, canary_minutes)
    if trouble is None:
        if share == 1 or now.champion is None or now.champion == number:
            arm, share = "champion", 0.0
            registry.promote(number, reason, judged=True)
            sentence = f"Version {number} answers every rider."
        else:
            arm = "challenger"
            if (now.challenger, now.share) != (number, share):
                registry.challenger(number, share, reason, judged=True)
            sentence = f"Version {number} answers {share:.0%} of the riders, version {now.champion} the others."
        if url and (late := _wait(url, registry.name, arm, number, share, patience)):
            trouble = f"did not take up {registry.name} version {number} within {patience:.0f} seconds: {late}"
    if trouble is not None:
        _restore(registry, before, f"Version {number} was never served: the service {trouble}")
    registry.tag(number, BEGAN_WITH, "")
    if trouble is None:
        return sentence
    serves = "It stays the champion, as it was." if before.champion == number else "What served before does so again."
    raise DeploymentError(
        f"The service at {service_url} {trouble} {serves} Check the service and its log, then deploy the version again."
    )


def _canary(
    registry: Registry, number: int, url: str, reason: str, patience: float, canary_minutes: float
) -> str | None:
    """Let a version answer a few riders for minutes; returns what is wrong with the service then."""
    registry.challenger(number, _CANARY_SHARE, f"A canary before it becomes the champion. {reason}")
    trouble = _wait(url, registry.name, "challenger", number, _CANARY_SHARE, patience)
    trouble = trouble or trouble_with(url, registry.name, number, canary_minutes)
    return f"was not well with {registry.name} version {number} as a canary: {trouble}" if trouble else None


def roll_out(
    registry: Registry, number: int, decision: Path, *, share: float, trial_share: float, canary_minutes: float
) -> str:
    """Deploy what a training run decided, and tell people of a promotion.

    Args:
        registry: The registered model.
        number: The version that the run registered.
        decision: The run's decision, see ``tripcast.jobs.evaluate.Selection.to_dict``.
            Where it asks for approval, the version waits for a person, see ``approve``.
        share: Of the riders, 0 to 1, for a winner whose gain is proven.
        trial_share: The same, where the gain may be chance. Another version's trial is not cut short for it.
        canary_minutes: As ``deploy``.

    Returns:
        What serves now, as a sentence.

    Raises:
        DeploymentError: As ``deploy``.
        StorageError: If the decision cannot be read, or an alert not be kept.
    """
    settings = Settings.load()
    with storage_errors(decision):
        decided = json.loads(decision.read_text(encoding="utf-8"))
    on_trial = decided["decision"] == "trial"
    share = trial_share if on_trial else share
    challenger = registry.traffic().challenger
    if on_trial and challenger and challenger.number != number:
        return f"Version {number} waits: version {challenger.number} is on trial."
    if decided["approval"] and (waits := _ask_for_approval(registry, number, share, settings)):
        return waits
    return _roll_out(registry, number, share, canary_minutes, settings)


def approve(registry: Registry, number: int, *, by: str, reason: str, canary_minutes: float) -> str:
    """Roll out a version that waits for a person.

    Args:
        registry: The registered model.
        number: The version.
        by: Who approves.
        reason: Why, as a sentence; goes into the record.
        canary_minutes: As ``deploy``.

    Returns:
        What serves now, as a sentence.

    Raises:
        DeploymentError: As ``deploy``.
        InvalidRequest: If there is no such version, or it does not wait.
        StorageError: If an alert cannot be kept.
    """
    held = registry.approve(number, by, reason)
    if held is None or held.share is None:
        return f"Version {number} was approved before: nothing changed."
    return _roll_out(registry, number, held.share, canary_minutes, Settings.load())


def _roll_out(registry: Registry, number: int, share: float, canary_minutes: float, settings: Settings) -> str:
    sentence = deploy(registry, number, share, settings.service_url, canary_minutes=canary_minutes)
    announce_promotion(registry, number, settings)
    return sentence


def _ask_for_approval(registry: Registry, number: int, share: float, settings: Settings) -> str | None:
    """Let a version wait for a person and tell people so; returns None if it may serve."""
    now, approval = _standing(registry), registry.approval()
    approved = approval.approved
    if number == now.champion or (number, share) == (now.challenger, now.share):
        return None
    if approved and (number, share) == (approved.version, approved.share):
        return None
    if number in approval.rejected:
        return f"Version {number} was rejected before, see 'tripcast models': what served serves on."
    reason = registry.version(number).tags.get("tripcast.decision", "A pipeline is to deploy it.")
    held = registry.hold(number, share, reason)
    answers = f"tripcast approve {number} --by NAME --why WHY; or tripcast reject {number} --by NAME --why WHY."
    what = f"{registry.name}: version {number} waits for a person's approval."
    superseded = f" It takes the place of version {held.replaced}, which waited until now." if held.replaced else ""
    alert = Alert(f"{registry.name}/hold/v{number}/{held.at}", what, held.at[:10], f"{reason}{superseded} {answers}")
    send([alert], webhook_address(), open_store(settings.artifacts))
    return f"Version {number} waits for a person's approval: {answers}"


def announce_promotion(registry: Registry, number: int, settings: Settings) -> None:
    """Tell people that a version has taken another's place; once, and not of the first version of all."""
    promotions = [move for move in registry.moves() if (move.action, move.version) == ("promote", number)]
    if promotions and promotions[-1].replaced is not None:
        move = promotions[-1]
        key = f"{registry.name}/promote/v{number}/{move.at}"
        what = f"{registry.name}: version {number} has taken the place of version {move.replaced}."
        undo = "To undo it: tripcast rollback."
        send(
            [Alert(key, what, move.at[:10], f"{move.reason} {undo}")], webhook_address(), open_store(settings.artifacts)
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
    """Wait until an arm of a model is a version; returns what is wrong if that does not come to pass."""
    deadline = time.monotonic() + patience
    while True:
        state, trouble = _ask(service_url, model)
        served = state.get(arm)
        if served and served["version"] == number and (arm == "champion" or state["share"] == share):
            return None
        if time.monotonic() > deadline:
            return trouble or " ".join(state.get("problems") or ["It serves another version."])
        time.sleep(_PAUSE)


def _ask(service_url: str, model: str) -> tuple[dict[str, Any], str | None]:
    """What the service says that it serves of a model, and what is wrong if it says nothing."""
    try:
        answer = requests.get(f"{service_url}/model", params={"taxi": taxi_of(model)}, timeout=5)
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
