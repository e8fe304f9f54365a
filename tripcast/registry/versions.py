"""Registered versions: a trained model becomes one, is signed, and is loaded again by its number.

The identity of a model is the digest of its folder: the same model registered again is the same version.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import tripcast
from tripcast.errors import InvalidRequest, SignatureError
from tripcast.models import Model
from tripcast.models.signature import SIGNATURE, sign, verify
from tripcast.registry.connection import open_client, passing_over, tracking_errors
from tripcast.settings import Settings

# MLflow is imported where files are moved, see ``tripcast.registry.connection``.
if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

#: Tag of a version: the digest of its model folder, which is the identity of a model.
DIGEST = "tripcast.digest"

#: Tags of a version: the error to expect of it, and the month on which that was learned.
EXPECTATION = "tripcast.expectation"
EXPECTED_FROM = "tripcast.expected_from"

#: Tag of a version: the SHA-256 of the months that it learned from and was judged on, JSON by month.
DATA = "tripcast.data_sha256"

#: Tag of a version, ``true`` if it learned from a simulated city.
SIMULATED = "tripcast.simulated"

#: Tag of a version: the number of the champion that it was judged against, or ``NOBODY``.
JUDGED_AGAINST = "tripcast.judged_against"
NOBODY = "nobody"


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

    @classmethod
    def of(cls, entity: ModelVersion, aliases: Sequence[str]) -> Version:
        """The version that an entity of MLflow's is, which does not know its aliases."""
        return cls(
            number=int(entity.version),
            aliases=tuple(sorted(aliases)),
            created=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
            run_id=entity.run_id,
            tags=dict(entity.tags),
        )


@dataclass(frozen=True)
class Flavour:
    """How MLflow is to load a model folder without anything of tripcast's own around it, as a ``pyfunc``.

    Attributes:
        description: What the registered model predicts, for people.
        loader_module: The module whose ``_load_pyfunc`` opens the folder.
        signature: The columns that the model takes and returns.
        input_example: A row of these.
        requirements: What an environment needs to load the model, as pip has it.
    """

    description: str
    loader_module: str
    signature: ModelSignature
    input_example: pd.DataFrame
    requirements: Sequence[str]


class Versions:
    """The versions of one registered model.

    Args:
        model: Its name, for example ``tripcast-green``.
        settings: Where MLflow's store is.

    Raises:
        TrackingError: If the store cannot be opened.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        self.name = model
        self._uri = settings.tracking_uri
        self._signing_key, self._verify_keys = settings.signing_key, settings.verify_keys
        self._client = open_client(settings)

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
        versions = [Version.of(entity, aliases.get(int(entity.version), [])) for entity in found]
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
            SignatureError: If it has to be signed, and no trusted key has signed it as it is.
            TrackingError: If its files cannot be had.
        """
        with TemporaryDirectory() as folder:
            return Model.load(self.download(version, Path(folder)))

    def download(self, version: Version, folder: Path) -> Path:
        """Fetch a version's files from the artifact store.

        Args:
            version: Which.
            folder: Where to; made if missing.

        Returns:
            The model folder, somewhere below.

        Raises:
            SignatureError: If it has to be signed, and no trusted key has signed it as it is.
            TrackingError: If its files cannot be had.
        """
        fetched = self._fetch(version, folder)
        self.verify(version, fetched)
        return fetched

    def verify(self, version: Version, folder: Path) -> None:
        """Refuse a version's model folder that no trusted key has signed as it is, where one has to.

        Raises:
            SignatureError: If so.
        """
        if self._verify_keys is None:
            return
        try:
            verify(folder, self.name, version.tags.get(SIGNATURE), self._verify_keys)
        except SignatureError as error:
            raise SignatureError(
                f"{self.name} version {version.number} is not loaded: {error} If it is to be trusted, sign it anew: "
                f"tripcast sign {version.number}; else let another version serve."
            ) from error

    def sign(self, number: int) -> None:
        """Sign the files of a version as the registry has them, in place of any earlier signature.

        Raises:
            InvalidRequest: If there is no such version, or no key to sign with.
            SignatureError: If it does not hold the model that was registered.
            TrackingError: If its files cannot be had.
        """
        version = self._registered_here(number)
        if self._signing_key is None:
            raise InvalidRequest("There is no key to sign with: TRIPCAST_SIGNING_KEY is not set, see docs/signing.md.")
        with TemporaryDirectory() as scratch:
            folder = self._fetch(version, Path(scratch))
            if Model.load(folder).digest != version.tags[DIGEST]:
                raise SignatureError(
                    f"{self.name} version {number} is not signed: its files are not the model that was registered."
                )
            self.tag(number, SIGNATURE, sign(folder, self.name, self._signing_key))

    def _fetch(self, version: Version, folder: Path) -> Path:
        import mlflow

        with tracking_errors(self._uri, f"loading {self.name} version {version.number}"):
            # The model alone: beside it MLflow keeps the code that made it, a hundred files.
            uri = f"models:/{self.name}/{version.number}/data/model"
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))

    def register(self, folder: Path, *, flavour: Flavour, run_id: str, tags: Mapping[str, str]) -> Version:
        """Make a version of a model, or return the one that holds this very model already, with these tags.

        It is signed, where there is a key to sign with.

        Args:
            folder: The model folder.
            flavour: How MLflow is to load it.
            run_id: The MLflow run that trained it.
            tags: What to say of the version.

        Raises:
            TrackingError: If the store cannot be reached or refuses.
        """
        digest = Model.load(folder).digest
        for version in self.versions():
            if version.tags.get(DIGEST) == digest:
                for tag, value in tags.items():
                    if version.tags.get(tag) != value:
                        self.tag(version.number, tag, value)
                if self._signing_key and SIGNATURE not in version.tags:
                    self.sign(version.number)
                return replace(version, tags={**version.tags, **tags})
        if self._signing_key:
            tags = {**tags, SIGNATURE: sign(folder, self.name, self._signing_key)}
        with tracking_errors(self._uri, f"registering a version of {self.name}"):
            source, model_id = self._log_model(folder, flavour, run_id)
            with passing_over("RESOURCE_ALREADY_EXISTS"):
                self._client.create_registered_model(self.name, description=flavour.description)
            # With its tags in the same call: a version is never there without its digest.
            created = self._client.create_model_version(
                self.name, source, run_id, tags={DIGEST: digest, **tags}, model_id=model_id
            )
        return Version.of(created, [])

    def _log_model(self, folder: Path, flavour: Flavour, run_id: str) -> tuple[str, str]:
        """Store a model folder in MLflow's own format; returns its URI and id."""
        import mlflow

        with TemporaryDirectory() as scratch:
            data = Path(shutil.copytree(folder, Path(scratch) / "model"))
            code = Path(scratch) / "tripcast"
            shutil.copytree(Path(tripcast.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    loader_module=flavour.loader_module,
                    data_path=str(data),
                    code_paths=[str(code)],
                    signature=flavour.signature,
                    input_example=flavour.input_example,
                    pip_requirements=list(flavour.requirements),
                )
        return info.model_uri, info.model_id

    def expect(self, number: int, expectation: str, test_month: str) -> None:
        """Say anew what error is to be expected of a version.

        Args:
            number: The version.
            expectation: As ``tripcast.monitoring.quality.write_expectations`` writes it.
            test_month: The month on whose trips that was learned.
        """
        self.tag(number, EXPECTATION, expectation)
        self.tag(number, EXPECTED_FROM, test_month)

    def tag(self, number: int, name: str, value: str) -> None:
        """Say something of a version, in place of what was said under this name.

        Args:
            number: The version.
            name: The tag's name.
            value: The tag's value.
        """
        with tracking_errors(self._uri, f"writing the tag {name} of {self.name} version {number}"):
            self._client.set_model_version_tag(self.name, str(number), name, value)

    def _registered_here(self, number: int) -> Version:
        version = self.version(number)
        if DIGEST not in version.tags:
            raise InvalidRequest(
                f"{self.name} version {number} was not registered by tripcast (it has no tag {DIGEST}), so nothing "
                "here can load it. Register the model with tripcast."
            )
        return version
