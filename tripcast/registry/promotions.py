"""The promotion record: every move of champion and challenger, and what serves because of them.

The record is a list of events in tags of the registered model, which MLflow has on every kind of store. A tag's name is
a number, one more than the greatest there was, and a random part: two that write at once never overwrite each other,
and everybody reads their events in the same order. Where two such moves contradict each other, the later one in that
order is *void*: it was decided on a state that was no longer so.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import msgspec

from tripcast.errors import TrackingError
from tripcast.registry.connection import tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "tripcast.move.{:06d}.{}"
#: Those of before tripcast 0.2 have no random part.
_TAG_PATTERN = re.compile(r"tripcast\.move\.(\d{6})(\.[0-9a-f]{8})?")

Action = Literal["promote", "rollback", "depose", "challenge", "share", "withdraw", "hold", "approve", "reject"]


@dataclass(frozen=True)
class PromotionEvent:
    """A line of the promotion record.

    Attributes:
        at: When, as ISO 8601 in UTC.
        action: ``promote``, ``rollback`` and ``depose`` change the champion; ``challenge`` sets a challenger beside it,
            ``share`` changes that one's share and ``withdraw`` takes it away. ``hold`` lets a winner wait for a
            person, who answers by ``approve`` or ``reject``.
        version: The version that became champion or challenger, or whose share it is, or that was withdrawn, or waits.
        replaced: The champion or challenger before it; None if there was none, or none was replaced. Of ``hold``, the
            version that waited until then.
        reason: Why, as a sentence.
        share: The challenger's share of the traffic from then on, 0 to 1; None where the champion changed. Of ``hold``,
            the share that an approved version is to have.
        cause: What a move was made for that may be asked for again, and is to be made once; None for any other.
        judged: Whether a promotion rests on a judgement against ``replaced``, so that it is void if that is not the
            champion.
        by: Who approved or rejected; None for any other action.
    """

    at: str
    action: Action
    version: int
    replaced: int | None
    reason: str
    share: float | None = None
    cause: str | None = None
    judged: bool = False
    by: str | None = None


class PromotionLog:
    """The promotion record of one registered model.

    Args:
        client: MLflow's.
        model: The registered model's name.
        uri: Where MLflow's store is, for errors.
    """

    def __init__(self, client: MlflowClient, model: str, uri: str) -> None:
        self._client = client
        self._model = model
        self._uri = uri

    def read(self) -> Standing:
        """What the record comes to, now.

        Raises:
            TrackingError: If the store cannot be reached, or a tag of the record holds something else.
        """
        return _replay([self._event(key, text) for key, text in sorted(self._tags().items())])

    def _event(self, key: str, text: str) -> PromotionEvent:
        try:
            return msgspec.json.decode(text, type=PromotionEvent)
        except msgspec.DecodeError as trouble:
            raise TrackingError(
                f"The tag {key} of the registered model {self._model} in MLflow at {self._uri} holds no move of the "
                f"promotion record ({trouble}). Correct it there; or delete it, and that move counts as never made."
            ) from trouble

    def append(
        self,
        action: Action,
        version: int,
        replaced: int | None,
        reason: str,
        *,
        share: float | None = None,
        cause: str | None = None,
        judged: bool = False,
        by: str | None = None,
    ) -> PromotionEvent:
        """Write an event down; arguments as ``PromotionEvent``.

        Raises:
            TrackingError: If the store cannot be reached.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = PromotionEvent(now, action, version, replaced, reason, share, cause, judged, by)
        last = max((int(key.split(".")[2]) for key in self._tags()), default=0)
        key = _TAG.format(last + 1, uuid4().hex[:8])
        with tracking_errors(self._uri, f"writing the promotion record of {self._model}"):
            self._client.set_registered_model_tag(self._model, key, json.dumps(asdict(event)))
        return event

    def _tags(self) -> dict[str, str]:
        with tracking_errors(self._uri, f"reading the promotion record of {self._model}"):
            models = self._client.search_registered_models(f"name = '{self._model}'")
        tags = dict(models[0].tags) if models else {}
        return {key: value for key, value in tags.items() if _TAG_PATTERN.fullmatch(key)}


@dataclass
class Approval:
    """How the winners stand that a person is asked about.

    They were judged against the champion of then, so whatever changes the champion ends it all.

    Attributes:
        waiting: The ``hold`` of the version that waits; None if none does.
        approved: The ``hold`` of the version that was approved last, until its rollout has come to an end.
        rejected: The versions that were rejected.
    """

    waiting: PromotionEvent | None = None
    approved: PromotionEvent | None = None
    rejected: set[int] = field(default_factory=set)


@dataclass
class Standing:
    """What a record comes to.

    Attributes:
        events: The whole record, oldest first, void events among them.
        valid: Those that are not void.
        champions: The line of champions that led to the one in service: promotions, less those that were undone.
        challenger: The challenger and its share of the traffic; None if there is none.
        approval: How the winners stand that a person is asked about, under the champion of now.
    """

    events: list[PromotionEvent]
    valid: list[PromotionEvent] = field(default_factory=list)
    champions: list[int] = field(default_factory=list)
    challenger: tuple[int, float] | None = None
    approval: Approval = field(default_factory=Approval)

    @property
    def champion(self) -> int | None:
        """The version in service."""
        return self.champions[-1] if self.champions else None


def _replay(events: list[PromotionEvent]) -> Standing:
    standing = Standing(events)
    for event in events:
        if _apply(event, standing):
            standing.valid.append(event)
            moved = event.action in ("promote", "rollback", "depose")
            if moved:
                standing.approval = Approval()
            approved = standing.approval.approved
            # Repeating an approval must not undo what became of its version since.
            if event.action in ("share", "withdraw") and approved and approved.version == event.version:
                standing.approval.approved = None
            # A challenger that becomes champion has ceased to be one.
            if moved and standing.challenger and standing.challenger[0] == event.version:
                standing.challenger = None
    return standing


def _apply(event: PromotionEvent, standing: Standing) -> bool:
    """Let an event change what stands; whether it is not void."""
    challenger = standing.challenger[0] if standing.challenger else None
    approval = standing.approval
    waiting = approval.waiting.version if approval.waiting else None
    match event.action:
        case "promote" if not event.judged or event.replaced == standing.champion:
            standing.champions.append(event.version)
        case "rollback" if event.replaced == standing.champion and event.version in standing.champions[:-1]:
            standing.champions.pop()
            while standing.champions[-1] != event.version:
                standing.champions.pop()
        case "depose" if standing.champions == [event.version]:
            standing.champions.clear()
        case "challenge":
            standing.challenger = (event.version, event.share or 0.0)
        case "share" if event.version == challenger:
            standing.challenger = (event.version, event.share or 0.0)
        case "withdraw" if challenger in (None, event.version):
            standing.challenger = None
        case "hold":
            approval.waiting, approval.approved = event, None
        case "approve" if event.version == waiting:
            approval.waiting, approval.approved = None, approval.waiting
        case "reject" if event.version == waiting:
            approval.waiting = None
            approval.rejected.add(event.version)
        case _:
            return False
    return True
