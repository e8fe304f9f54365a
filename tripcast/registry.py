"""The model registry: versions, the aliases that say which one serves, and the record of every promotion.

The promotion record is the truth and the aliases are its projection: a move is written down first, then the aliases
are set from the record, so a process that dies in between leaves nothing that the next one does not put right.

``champion`` serves, ``challenger`` stands beside it on a share of the traffic, and ``previous`` is what a rollback
restores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from tripcast.errors import InvalidRequest
from tripcast.models import Model
from tripcast.settings import Settings
from tripcast.tracking import Tracker, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

#: Tag of a version: the digest of its model folder, which is the identity of a model.
DIGEST = "tripcast.digest"

#: Tags of the registered model that hold the promotion record, numbered in order.
_MOVE = "tripcast.move.{:06d}"
_MOVE_PATTERN = re.compile(r"tripcast\.move\.\d{6}")


@dataclass(frozen=True)
class Version:
    """A registered model version.

    Attributes:
        number: The registry's number, from 1.
        aliases: Those of champion, challenger and previous that point here.
        created: When it was registered.
        run_id: The MLflow run it came from, if any.
        tags: What was said of it when it was registered.
    """

    number: int
    aliases: tuple[str, ...]
    created: datetime
    run_id: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Move:
    """A line of the promotion record.

    Attributes:
        at: When, as ISO 8601 in UTC.
        action: ``promote`` or ``rollback``.
        version: The version that became champion.
        replaced: The champion before it; None for the first.
        reason: Why, as a sentence.
    """

    at: str
    action: Literal["promote", "rollback"]
    version: int
    replaced: int | None
    reason: str


class Registry:
    """The registered model of one taxi type, named ``tripcast-<taxi>``.

    Args:
        taxi: ``green`` or ``yellow``.
        settings: Where MLflow's store is.

    Raises:
        TrackingError: If the store cannot be reached.
    """

    def __init__(self, taxi: str, settings: Settings) -> None:
        self.name = f"tripcast-{taxi}"
        self._taxi = taxi
        self._uri = settings.tracking_uri
        self._tracker = Tracker(taxi, settings)
        self._client = self._tracker.client

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with tracking_errors(self._uri, f"listing the versions of {self.name}"):
            # A search says nothing of aliases; the registered model does.
            models = self._client.search_registered_models(f"name = '{self.name}'")
            aliases: dict[int, list[str]] = {}
            for model in models:
                for alias, number in model.aliases.items():
                    aliases.setdefault(int(number), []).append(alias)
            found = self._client.search_model_versions(f"name = '{self.name}'")
        versions = [_version(entity, aliases.get(int(entity.version), [])) for entity in found]
        return sorted(versions, key=lambda version: version.number, reverse=True)

    def version(self, number: int) -> Version:
        """One version.

        Raises:
            InvalidRequest: If there is none of that number.
        """
        versions = self.versions()
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(str(version.number) for version in reversed(versions)) or "none yet"
        raise InvalidRequest(f"{self.name} has no version {number}; its versions: {known}.")

    def alias(self, alias: str) -> Version | None:
        """The version that an alias points to, or None."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def load(self, version: Version) -> Model:
        """Load a version's model from the artifact store.

        Raises:
            TrackingError: If its files cannot be had.
        """
        import mlflow

        with TemporaryDirectory() as folder:
            with tracking_errors(self._uri, f"loading {self.name} version {version.number}"):
                path = mlflow.artifacts.download_artifacts(f"models:/{self.name}/{version.number}", dst_path=folder)
            return Model.load(Path(path) / "data" / "model")

    def register(self, folder: Path, *, run_id: str, tags: Mapping[str, str]) -> Version:
        """Make a version of a model, or return the one that holds this very model already.

        Args:
            folder: The model folder.
            run_id: The MLflow run that trained it.
            tags: What to say of the version.

        Raises:
            TrackingError: If the store cannot be reached or refuses.
        """
        digest = Model.load(folder).digest
        for version in self.versions():
            if version.tags.get(DIGEST) == digest:
                return version
        with tracking_errors(self._uri, f"registering a version of {self.name}"):
            source, model_id = self._log_model(folder, run_id)
            self._make_registered_model()
            # With its tags in the same call: a version is never there without its digest.
            created = self._client.create_model_version(
                self.name, source, run_id, tags={DIGEST: digest, **tags}, model_id=model_id
            )
        return _version(created, [])

    def _log_model(self, folder: Path, run_id: str) -> tuple[str, str]:
        """Store a model folder in MLflow's own format; gives its URI and id."""
        import shutil

        import mlflow

        import tripcast
        from tripcast import pyfunc

        with TemporaryDirectory() as scratch:
            data = Path(shutil.copytree(folder, Path(scratch) / "model"))
            code = Path(scratch) / "tripcast"
            shutil.copytree(Path(tripcast.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    loader_module="tripcast.pyfunc",
                    data_path=str(data),
                    code_paths=[str(code)],
                    signature=pyfunc.signature(self._taxi),
                    input_example=pyfunc.input_example(self._taxi),
                    pip_requirements=pyfunc.requirements(),
                )
        return info.model_uri, info.model_id

    def _make_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name, description="Taxi trip duration in minutes")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def moves(self) -> list[Move]:
        """The promotion record, oldest first."""
        with tracking_errors(self._uri, f"reading the promotion record of {self.name}"):
            models = self._client.search_registered_models(f"name = '{self.name}'")
        tags = dict(models[0].tags) if models else {}
        return [Move(**json.loads(tags[key])) for key in sorted(tags) if _MOVE_PATTERN.fullmatch(key)]

    def promote(self, number: int, reason: str) -> Move | None:
        """Make a version the champion.

        Args:
            number: The version.
            reason: Why, as a sentence; goes into the record.

        Returns:
            The line of the record, or None if that version is the champion already.

        Raises:
            InvalidRequest: If there is no such version.
        """
        self.version(number)
        moves = self.moves()
        reign = _reign(moves)
        move = None
        if not reign or reign[-1] != number:
            move = Move(_now(), "promote", number, reign[-1] if reign else None, reason)
            self._write(moves, move)
        self._set_aliases()
        return move

    def rollback(self, reason: str) -> Move:
        """Undo the last promotion that has not been undone: the champion before it serves again.

        Args:
            reason: Why, as a sentence; goes into the record.

        Raises:
            InvalidRequest: If there is no earlier champion to go back to.
        """
        moves = self.moves()
        reign = _reign(moves)
        if len(reign) < 2:
            state = f"version {reign[-1]} is the first champion" if reign else "no version was ever promoted"
            raise InvalidRequest(f"{self.name} has nothing to roll back to: {state}.")
        move = Move(_now(), "rollback", reign[-2], reign[-1], reason)
        self._write(moves, move)
        self._set_aliases()
        return move

    def _write(self, moves: list[Move], move: Move) -> None:
        with tracking_errors(self._uri, f"writing the promotion record of {self.name}"):
            self._client.set_registered_model_tag(self.name, _MOVE.format(len(moves) + 1), json.dumps(asdict(move)))

    def _set_aliases(self) -> None:
        """Point the aliases at what the record says."""
        reign = _reign(self.moves())
        wanted = {"champion": reign[-1], **({"previous": reign[-2]} if len(reign) > 1 else {})}
        with tracking_errors(self._uri, f"setting the aliases of {self.name}"):
            present = dict(self._client.get_registered_model(self.name).aliases)
            for alias in {"champion", "previous"} & set(present) - set(wanted):
                self._client.delete_registered_model_alias(self.name, alias)
            if int(present.get("challenger", 0)) == wanted["champion"]:
                self._client.delete_registered_model_alias(self.name, "challenger")
            for alias, number in wanted.items():
                if int(present.get(alias, 0)) != number:
                    self._client.set_registered_model_alias(self.name, alias, str(number))


def _reign(moves: list[Move]) -> list[int]:
    """The line of champions that led to the one in service: promotions, less those that were rolled back."""
    reign: list[int] = []
    for move in moves:
        if move.action == "promote":
            reign.append(move.version)
        else:
            reign.pop()
    return reign


def _version(entity: ModelVersion, aliases: list[str]) -> Version:
    return Version(
        number=int(entity.version),
        aliases=tuple(sorted(aliases)),
        created=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
        run_id=entity.run_id,
        tags=dict(entity.tags),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
