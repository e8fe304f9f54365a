"""The model registry: the aliases that say which version serves, and the record of every promotion.

The promotion record (``tripcast.registry.promotions``) is the truth and the aliases are its projection: a move is
written down first, then the aliases are set from the record, so a process that dies in between leaves nothing that the
next one does not put right. A version that was deleted in MLflow stays in the record, and no alias leads to it.

``champion`` serves, ``challenger`` stands beside it on a share of the traffic, and ``previous`` is what a rollback
restores. The share is a tag of the registered model, projected from the record like the aliases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from tripcast.errors import InvalidRequest, TrackingError
from tripcast.registry.connection import passing_over, tracking_errors
from tripcast.registry.promotions import Approval, PromotionEvent, PromotionLog, Standing
from tripcast.registry.versions import JUDGED_AGAINST, NOBODY, Version, Versions
from tripcast.settings import Settings

#: Tag of the registered model: the challenger's share of the traffic, 0 to 1.
SHARE = "tripcast.share"

#: Tags of the registered model: what was last measured of it, JSON of figures by name; one tag for each that measures.
_FIGURES = "tripcast.figures."

#: How often the aliases are set, at most, while others write to the same record.
_ATTEMPTS = 10


@dataclass(frozen=True)
class Traffic:
    """Which versions are to answer, as the aliases say.

    Attributes:
        champion: Answers; None where there is none yet.
        challenger: Answers a share of the riders in its place.
        share: That share, 0 to 1.
        figures: What was last measured of the model, see ``Registry.publish``.
    """

    champion: Version | None
    challenger: Version | None
    share: float
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Registry(Versions):
    """One registered model: its versions, and which of them serve. Made as ``Versions`` are."""

    def __init__(self, model: str, settings: Settings) -> None:
        super().__init__(model, settings)
        self._log = PromotionLog(self._client, model, self._uri)

    def moves(self) -> list[PromotionEvent]:
        """The promotion record, oldest first."""
        return self._log.read().events

    def promote(self, number: int, reason: str, *, judged: bool = False) -> PromotionEvent | None:
        """Make a version the champion.

        Args:
            number: The version.
            reason: Why, as a sentence; goes into the record.
            judged: Whether because it was judged better than the champion: then it has to be this one still.

        Returns:
            The line of the record, or None if that version is the champion already.

        Raises:
            InvalidRequest: If there is no such version, tripcast did not make it, or it was judged against another
                champion.
        """
        version = self._servable(number)
        champion = self._log.read().champion
        move = None
        if champion != number:
            if judged:
                self._check_judged(version, champion)
            move = self._log.append("promote", number, champion, reason, judged=judged)
        now = self._settle()
        if move and move not in now.valid:
            raise self._judged_otherwise(version, str(champion), now.champion)
        return move

    def rollback(self, reason: str) -> PromotionEvent:
        """Undo the last promotion that has not been undone: the champion before it serves again.

        Versions that were deleted since are passed over.

        Args:
            reason: Why, as a sentence; goes into the record.

        Raises:
            InvalidRequest: If there is no earlier champion to go back to, or somebody else moved at the same time.
        """
        champions = self._log.read().champions
        earlier = _earlier(champions, {version.number for version in self.versions()})
        if not earlier:
            state = "no version was ever promoted"
            if champions:
                state = f"version {champions[-1]} is the first champion"
            if champions[:-1]:
                state = f"every champion before version {champions[-1]} is deleted"
            raise InvalidRequest(f"{self.name} has nothing to roll back to: {state}.")
        move = self._log.append("rollback", earlier[-1], champions[-1], reason)
        now = self._settle()
        if move not in now.valid:
            raise InvalidRequest(
                f"{self.name} was moved by somebody else at the same time: version {now.champion} is the champion "
                "now. Look at 'tripcast models', and roll back again if that is still wanted."
            )
        return move

    def traffic(self) -> Traffic:
        """Which versions are to answer: what the aliases and the share say, whoever set them.

        Raises:
            TrackingError: If the store cannot be reached.
        """
        with tracking_errors(self._uri, f"reading which version of {self.name} serves"):
            found = self._client.search_registered_models(f"name = '{self.name}'")
            if not found:
                return Traffic(None, None, 0.0)
            model = found[0]
            aliased = {
                alias: Version.of(self._client.get_model_version(self.name, number), [alias])
                for alias, number in model.aliases.items()
                if alias in ("champion", "challenger")
            }
        champion, challenger = aliased.get("champion"), aliased.get("challenger")
        if champion and challenger and champion.number == challenger.number:
            challenger = None
        share = _read_share(model.tags) if challenger else 0.0
        return Traffic(champion, challenger, share, _read_figures(model.tags))

    def publish(self, source: str, figures: Mapping[str, float]) -> None:
        """Hand figures to the prediction service, which has them in its metrics: jobs live too short to be asked.

        Args:
            source: What measured; its figures replace those of its last time.
            figures: By name.
        """
        with tracking_errors(self._uri, f"writing the figures of {source} of {self.name}"):
            self._client.set_registered_model_tag(self.name, _FIGURES + source, msgspec.json.encode(figures).decode())

    def challenger(self, number: int, share: float, reason: str, *, judged: bool = False) -> PromotionEvent:
        """Set a version beside the champion, on a share of the traffic; it takes the place of another challenger.

        Args:
            number: The version.
            share: Of the riders, 0 to 1.
            reason: Why, as a sentence; goes into the record.
            judged: Whether because it was judged against the champion: then it has to be this one still.

        Raises:
            InvalidRequest: If there is no such version or champion, it is the champion, tripcast did not make it, it
                was judged against another champion, or the share is out of range.
        """
        _check_share(share)
        version = self._servable(number)
        traffic = self.traffic()
        if traffic.champion is None:
            raise InvalidRequest(
                f"{self.name} has no champion for version {number} to challenge: promote a version first."
            )
        if traffic.champion.number == number:
            raise InvalidRequest(f"{self.name} version {number} is the champion: challenge it with another version.")
        if judged:
            self._check_judged(version, traffic.champion.number)
        replaced = traffic.challenger.number if traffic.challenger else None
        move = self._log.append(
            "challenge", number, replaced if replaced != number else None, reason, share=float(share)
        )
        self._settle(champions=False)
        return move

    def set_share(self, share: float, reason: str) -> PromotionEvent:
        """Change the challenger's share of the traffic.

        Args:
            share: Of the riders, 0 to 1.
            reason: Why, as a sentence; goes into the record.

        Raises:
            InvalidRequest: If there is no challenger, or the share is out of range.
        """
        _check_share(share)
        number = self._current_challenger()
        recorded = self._log.read().challenger
        # A challenger that a person made with MLflow's own means enters the record here.
        action: Literal["share", "challenge"] = "share" if recorded and recorded[0] == number else "challenge"
        move = self._log.append(action, number, None, reason, share=float(share))
        self._settle(champions=False)
        return move

    def withdraw(self, reason: str) -> PromotionEvent:
        """Take the challenger away: the champion answers everyone.

        Args:
            reason: Why, as a sentence; goes into the record.

        Raises:
            InvalidRequest: If there is no challenger.
        """
        move = self._log.append("withdraw", self._current_challenger(), None, reason, share=0.0)
        self._settle(champions=False)
        return move

    def approval(self) -> Approval:
        """How the winners stand that a person is asked about."""
        return self._log.read().approval

    def hold(self, number: int, share: float, reason: str) -> PromotionEvent:
        """Let a version wait for a person before it serves, in place of another one that waits; once.

        Args:
            number: The version.
            share: Of the riders, 0 to 1, that it is to answer once it is approved.
            reason: Why it is to serve, as a sentence; goes into the record.

        Returns:
            The line of the record by which it waits.

        Raises:
            InvalidRequest: If there is no such version, tripcast did not make it, it was judged against another
                champion, or the share is out of range.
        """
        _check_share(share)
        standing = self._log.read()
        self._check_judged(self._servable(number), standing.champion)
        waiting = standing.approval.waiting
        if waiting and (waiting.version, waiting.share) == (number, share):
            return waiting
        replaced = waiting.version if waiting and waiting.version != number else None
        return self._log.append("hold", number, replaced, reason, share=float(share))

    def approve(self, number: int, by: str, reason: str) -> PromotionEvent | None:
        """Let a version that waits be rolled out; again, as long as that has not come to an end.

        Args:
            number: The version.
            by: Who approves.
            reason: Why, as a sentence; goes into the record.

        Returns:
            The line of the record by which it waited; None if it was approved and rolled out before.

        Raises:
            InvalidRequest: If there is no such version, or it does not wait.
        """
        approved = self.approval().approved
        if approved is None or approved.version != number:
            if not self._answer("approve", number, by, reason):
                return None
            approved = self.approval().approved
        return approved

    def reject(self, number: int, by: str, reason: str) -> bool:
        """Let a version that waits never serve under this champion, unless it is promoted by hand.

        Args:
            number: The version.
            by: Who rejects.
            reason: Why, as a sentence; goes into the record.

        Returns:
            Whether that is new.

        Raises:
            InvalidRequest: If there is no such version, or it does not wait.
        """
        return self._answer("reject", number, by, reason)

    def _answer(self, action: Literal["approve", "reject"], number: int, by: str, reason: str) -> bool:
        """Write down what a person says of a version that waits; whether it was not said before."""
        self.version(number)
        waiting = self.approval().waiting
        if waiting and waiting.version == number:
            move = self._log.append(action, number, None, reason, by=by)
            if move in self._log.read().valid:
                return True
        standing = self._log.read()
        asked = [
            move for move in standing.events if move.version == number and move.action in ("hold", "approve", "reject")
        ]
        if not asked:
            raise InvalidRequest(f"{self.name} version {number} waits for nobody: no run asked for its approval.")
        answers = [move for move in asked if move.by and move in standing.valid]
        if answers and answers[-1].action == action:
            return False
        if answers and answers[-1].at > max(move.at for move in asked if move.action == "hold"):
            said, past = answers[-1], {"approve": "approved", "reject": "rejected"}
            raise InvalidRequest(
                f"{self.name} version {number} was {past[said.action]} by {said.by} on {said.at[:10]}: {said.reason} "
                "To undo a promotion: tripcast rollback; to let a version serve all the same: tripcast promote."
            )
        raise InvalidRequest(
            f"{self.name} version {number} waits no more: another winner, or another champion, came after it. Look at "
            f"'tripcast models'; to let it serve all the same: tripcast promote {number}."
        )

    def end_trial(self, number: int, champion: int, *, better: bool, reason: str, cause: str) -> PromotionEvent | None:
        """End a challenger's trial: it becomes the champion, or it is withdrawn; once for the same cause.

        Args:
            number: The version that was on trial.
            champion: The version that it was compared with.
            better: Whether it becomes the champion.
            reason: Why, as a sentence; goes into the record.
            cause: What the trial was ended for, for example ``monitoring/2021-06``.

        Returns:
            The line of the record; None if it is there already, or another version is on trial or champion by now:
            somebody else has decided.
        """
        traffic = self.traffic()
        standing = tuple(version and version.number for version in (traffic.challenger, traffic.champion))
        move = None
        if standing == (number, champion) and not any(move.cause == cause for move in self.moves()):
            if better:
                move = self._log.append("promote", number, champion, reason, cause=cause, judged=True)
            else:
                move = self._log.append("withdraw", number, None, reason, share=0.0, cause=cause)
        # Also where there is nothing to write: one that died after writing left the aliases as they were.
        return move if move in self._settle().valid else None

    def relapse(self, number: int, previous: int, *, reason: str, cause: str) -> PromotionEvent | None:
        """Let the champion before this one serve again, for this one has turned out worse; once for the same cause.

        Args:
            number: The champion that goes.
            previous: The version that serves again.
            reason: Why, as a sentence; goes into the record.
            cause: What it goes for, for example ``monitoring/2021-06/relapse``.

        Returns:
            The line of the record; None if it is there already, or other versions stand there by now: somebody else
            has decided.
        """
        move, standing = None, self._log.read()
        if standing.champions[-2:] == [previous, number] and not any(move.cause == cause for move in standing.events):
            move = self._log.append("rollback", previous, number, reason, cause=cause)
        # Also where there is nothing to write: one that died after writing left the aliases as they were.
        return move if move in self._settle().valid else None

    def delete(self, number: int) -> bool:
        """Delete a version that nothing leads to; the promotion record keeps its moves.

        Args:
            number: The version.

        Returns:
            Whether it is gone: not where it serves, is tried, could serve again or waits for a person by now.
        """
        if number in self.in_use():
            return False
        with (
            tracking_errors(self._uri, f"deleting version {number} of {self.name}"),
            passing_over("RESOURCE_DOES_NOT_EXIST"),
        ):
            self._client.delete_model_version(self.name, str(number))
        return True

    def in_use(self) -> set[int]:
        """The versions that an alias leads to, or of which a person is asked, or whose rollout is under way."""
        approval = self.approval()
        asked = {move.version for move in (approval.waiting, approval.approved) if move}
        return asked | {version.number for version in self.versions() if version.aliases}

    def _current_challenger(self) -> int:
        challenger = self.traffic().challenger
        if challenger is None:
            raise InvalidRequest(f"{self.name} has no challenger: set one beside the champion first.")
        return challenger.number

    def _servable(self, number: int) -> Version:
        """A version that the service can load."""
        version = self._registered_here(number)
        if self._verify_keys:
            with TemporaryDirectory() as scratch:
                self.download(version, Path(scratch))
        return version

    def _check_judged(self, version: Version, champion: int | None) -> None:
        """Refuse a version that was judged against another champion, as far as it says against which."""
        against = version.tags.get(JUDGED_AGAINST)
        if against is not None and against != str(champion or NOBODY):
            raise self._judged_otherwise(version, against, champion)

    def _judged_otherwise(self, version: Version, against: str, champion: int | None) -> InvalidRequest:
        judged = "when there was no champion" if against == NOBODY else f"against version {against}"
        now = f"version {champion} is" if champion else "none is"
        return InvalidRequest(
            f"{self.name} version {version.number} was judged {judged}, and {now} the champion by now: whether it is "
            f"better than that is not known. Train again, or promote it all the same: tripcast promote "
            f"{version.number}."
        )

    def remove_champion(self, reason: str) -> PromotionEvent:
        """Undo the first promotion of all: there is no champion, as before it.

        Args:
            reason: Why, as a sentence; goes into the record.

        Raises:
            InvalidRequest: If another champion came before: roll back to that one.
        """
        champions = self._log.read().champions
        if len(champions) != 1:
            raise InvalidRequest(
                f"{self.name} has had {len(champions)} champions: only the first of all can be deposed."
            )
        move = self._log.append("depose", champions[0], None, reason)
        self._settle()
        return move

    def _settle(self, *, champions: bool = True) -> Standing:
        """Point the aliases at what the record says; again, if somebody else writes meanwhile.

        Args:
            champions: Whether the champion's, too; where only the challenger moved, a champion that a person made with
                MLflow's own means stays.

        Returns:
            What the record comes to.
        """
        standing = self._log.read()
        for attempt in range(1, _ATTEMPTS + 1):
            there, done = {version.number for version in self.versions()}, False
            try:
                if champions:
                    self._set_champions(standing.champions, there)
                self._set_challenger(standing, there)
                done = True
            except TrackingError:  # perhaps because another one sets the same alias at this moment
                if attempt == _ATTEMPTS:
                    raise
            before, standing = standing, self._log.read()
            if done and standing.events == before.events:
                break
        return standing

    def _set_champions(self, champions: Sequence[int], there: Set[int]) -> None:
        wanted = {"champion": champions[-1]} if champions and champions[-1] in there else {}
        if earlier := _earlier(champions, there):
            wanted["previous"] = earlier[-1]
        with tracking_errors(self._uri, f"setting the aliases of {self.name}"):
            present = dict(self._client.get_registered_model(self.name).aliases)
            for alias in {"champion", "previous"} & set(present) - set(wanted):
                self._client.delete_registered_model_alias(self.name, alias)
            for alias, number in wanted.items():
                if int(present.get(alias, 0)) != number:
                    self._client.set_registered_model_alias(self.name, alias, str(number))

    def _set_challenger(self, standing: Standing, there: Set[int]) -> None:
        """Set the challenger and its share to what the record says.

        One that a person made with MLflow's own means stays until it becomes champion, is replaced or is withdrawn.
        """
        challenge = standing.challenger
        if challenge and challenge[0] not in there:
            challenge = None
        with tracking_errors(self._uri, f"setting the challenger of {self.name}"):
            model = self._client.get_registered_model(self.name)
            present = model.aliases.get("challenger")
            if challenge:
                # The share first: a new challenger must not begin with the share of the one before it.
                self._client.set_registered_model_tag(self.name, SHARE, str(challenge[1]))
                if int(present or 0) != challenge[0]:
                    self._client.set_registered_model_alias(self.name, "challenger", str(challenge[0]))
            elif present is not None and (
                standing.events[-1].action == "withdraw" or present == model.aliases.get("champion")
            ):
                self._client.delete_registered_model_alias(self.name, "challenger")
                if SHARE in model.tags:
                    self._client.delete_registered_model_tag(self.name, SHARE)


def _earlier(champions: Sequence[int], there: Set[int]) -> list[int]:
    """The versions of a line of champions that could serve again: not the last one, and none that was deleted."""
    return [number for number in champions[:-1] if number in there and number != champions[-1]]


def _check_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise InvalidRequest(f"A share of {share} is not possible: name one between 0 and 1, for example 0.1.")


def _read_share(tags: Mapping[str, str]) -> float:
    """The share that the tag says; what is no number between 0 and 1 is no share."""
    try:
        share = float(tags.get(SHARE, 0.0))
    except ValueError:
        return 0.0
    return share if 0.0 <= share <= 1.0 else 0.0


def _read_figures(tags: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The figures that the tags hold, by source; without what is no figure: anybody may write tags in MLflow."""
    found = {}
    for tag, text in tags.items():
        if tag.startswith(_FIGURES):
            with suppress(msgspec.MsgspecError):
                found[tag.removeprefix(_FIGURES)] = msgspec.json.decode(text, type=dict[str, float])
    return found
