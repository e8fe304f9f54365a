"""What a pipeline run left in MLflow, as a whole: its run, those of its candidates and trials, and their models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from mlflow.entities import LoggedModel, Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tripcast.registry.connection import open_client, tracking_errors
from tripcast.registry.tracking import KEY
from tripcast.settings import Settings

#: Entries of one answer of MLflow's.
_PAGE = 500


@dataclass(frozen=True)
class RunTree:
    """A run and all those below it.

    Attributes:
        root: The run at the top.
        below: The others, each before the one that it is below.
        models: Those that the runs logged, by which versions were registered or not.
    """

    root: Run
    below: list[Run] = field(default_factory=list)
    models: list[LoggedModel] = field(default_factory=list)

    @property
    def run_ids(self) -> set[str]:
        """The ids of all its runs."""
        return {run.info.run_id for run in (self.root, *self.below)}

    @property
    def last_change(self) -> datetime:
        """When the last of its runs ended, or began if that has not ended."""
        moments = (run.info.end_time or run.info.start_time for run in (self.root, *self.below))
        return datetime.fromtimestamp(max(moments) / 1000, UTC)

    @property
    def is_series(self) -> bool:
        """Whether it holds a time series, which has no end."""
        return str(self.root.data.tags.get(KEY, "")).startswith("series/")

    @property
    def data(self) -> set[str]:
        """The SHA-256 of the months that its report names."""
        found = set()
        for used in self.root.inputs.dataset_inputs if self.root.inputs else ():
            with suppress(msgspec.MsgspecError):
                found.add(msgspec.json.decode(used.dataset.profile or "{}", type=dict[str, Any]).get("sha256", ""))
        return found


class RunTrees:
    """The run trees of one model's experiment that tripcast has made.

    Args:
        model: The registered model's name, which is the experiment's, too.
        settings: Where the store is.

    Raises:
        TrackingError: If the store cannot be reached.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        self._uri, self._model = settings.tracking_uri, model
        self._client = open_client(settings)
        with tracking_errors(self._uri, f"looking for the runs of {model}"):
            experiment = self._client.get_experiment_by_name(model)
        self._experiment = experiment.experiment_id if experiment else None

    @property
    def exist(self) -> bool:
        """Whether there is such an experiment."""
        return self._experiment is not None

    def __iter__(self) -> Iterator[RunTree]:
        """The trees, in no order; none where there is no such experiment.

        Raises:
            TrackingError: If the store cannot be reached.
        """
        if self._experiment is None:
            return
        client, here = self._client, [self._experiment]
        with tracking_errors(self._uri, f"listing the runs of {self._model}"):
            found = _all(lambda token: client.search_runs(here, max_results=_PAGE, page_token=token))
            runs: dict[str, Run] = {run.info.run_id: run for run in found if KEY in run.data.tags}
            logged = _all(lambda token: client.search_logged_models(here, max_results=_PAGE, page_token=token))
            models: list[LoggedModel] = list(logged)
        path = {run_id: _path(run_id, runs) for run_id in runs}
        trees = {run_id: RunTree(run) for run_id, run in runs.items() if len(path[run_id]) == 1}
        for run_id in sorted(runs, key=lambda run_id: -len(path[run_id])):
            if len(path[run_id]) > 1:
                trees[path[run_id][-1]].below.append(runs[run_id])
        for model in models:
            if model.source_run_id in path:
                trees[path[model.source_run_id][-1]].models.append(model)
        yield from trees.values()

    def remove(self, tree: RunTree) -> None:
        """Delete a tree's models and runs in MLflow, and their files; the one at the top last, by which it is found.

        MLflow keeps the rows of what was deleted until ``mlflow gc``.

        Raises:
            TrackingError: If the store cannot be reached or refuses.
        """
        with tracking_errors(self._uri, f"deleting the run {tree.root.info.run_name} of {self._model}"):
            for model in tree.models:
                _remove_files(model.artifact_location)
                self._client.delete_logged_model(model.model_id)
            for run in (*tree.below, tree.root):
                _remove_files(run.info.artifact_uri)
                self._client.delete_run(run.info.run_id)


def _path(run_id: str, runs: Mapping[str, Run]) -> list[str]:
    """A run, the one above it, and so on to the top."""
    path = [run_id]
    while (above := runs[path[-1]].data.tags.get(MLFLOW_PARENT_RUN_ID, "")) in runs and above not in path:
        path.append(above)
    return path


def _all(page_of: Callable[[str | None], Any]) -> Iterator[Any]:
    """The entries of all pages."""
    token: str | None = None
    while True:
        page = page_of(token)
        yield from page
        token = page.token
        if not token:
            return


def _remove_files(uri: str) -> None:
    repository: Any = get_artifact_repository(uri)
    if repository.list_artifacts():
        repository.delete_artifacts()
