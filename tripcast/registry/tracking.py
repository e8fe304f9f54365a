"""Experiment tracking: what a pipeline run leaves in MLflow.

One parent run for a pipeline run, one nested run for a candidate, one nested run below it for each trial of a search.
A step that is tried again finds the runs of its first try and continues them: each run is found by its key, a tag.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
)

from tripcast.errors import TrackingError
from tripcast.registry.connection import open_client, tracking_errors
from tripcast.settings import Settings

#: Tag that makes a run findable by the step that continues it.
KEY = "tripcast.key"

#: MLflow stores at most this many characters of a dataset's digest.
_DIGEST_LENGTH = 36


class Tracker:
    """The MLflow experiment of one model.

    Args:
        model: The registered model's name, which is the experiment's, too: for example ``tripcast-green``.
        settings: Where the store is.

    Raises:
        TrackingError: If the store cannot be reached.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        self.uri = settings.tracking_uri
        self._settings = settings
        #: A run that was given can be in another experiment than the model's: what is below it belongs there, too.
        self._experiments: dict[str, str] = {}
        self.client = open_client(settings)
        with tracking_errors(self.uri, "opening the experiment"):
            self.experiment_id: str = self._experiment(model)

    def _experiment(self, name: str) -> str:
        # Without a server nobody says where artifacts belong, and MLflow would put them beside the caller.
        location = (self._settings.home / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another step made it meanwhile
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(
                f"The experiment {name} was deleted in MLflow at {self.uri}. Restore it: "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}, with MLFLOW_TRACKING_URI set "
                "to that address; or remove it for good: mlflow gc."
            )
        return str(experiment.experiment_id)

    @contextmanager
    def pipeline_run(self, key: str, name: str) -> Iterator[str]:
        """The parent run of a pipeline run: the one named by ``MLFLOW_RUN_ID`` where that is set, else found or made.

        Kubeflow Pipelines can be set up to make an MLflow run for each step, which it names so, and ends.

        Args:
            key: Identity of the pipeline run; the same key gives the same MLflow run. On a cluster, Kubeflow's.
            name: What a person sees.

        Yields:
            The MLflow run's id. The run ends FINISHED, or FAILED if the body raises; one that was named by the
            environment is left to whoever named it.
        """
        given = os.environ.get("MLFLOW_RUN_ID")
        with self._given_run(given, key) if given else self._run(key, name, parent=None) as run_id:
            self.log(run_id, tags=_kubeflow_tags(key, self._settings.kfp_ui))
            yield run_id

    @contextmanager
    def _given_run(self, run_id: str, key: str) -> Iterator[str]:
        with tracking_errors(self.uri, f"looking for the run {run_id}, which MLFLOW_RUN_ID names"):
            self._experiments[run_id] = self.client.get_run(run_id).info.experiment_id
        self.log(run_id, tags={KEY: key, **self._origin})
        yield run_id

    @property
    def _origin(self) -> dict[str, str]:
        """Tags that say what code a run is of."""
        return {MLFLOW_GIT_COMMIT: self._settings.commit, MLFLOW_SOURCE_NAME: "tripcast"}

    @contextmanager
    def series(self, name: str) -> Iterator[str]:
        """The run that holds a time series, the same one for every point: found by its name, or made.

        Args:
            name: What a person sees, for example ``monitoring green``.

        Yields:
            The MLflow run's id.
        """
        with self._run(f"series/{name}", name, parent=None) as run_id:
            yield run_id

    @contextmanager
    def nested_run(self, parent: str, name: str) -> Iterator[str]:
        """A run below another one; the same parent and name give the same run.

        Args:
            parent: Id of the run above.
            name: What a person sees; unique below the parent.

        Yields:
            The MLflow run's id.
        """
        with self._run(f"{parent}/{name}", name, parent=parent) as run_id:
            yield run_id

    @contextmanager
    def _run(self, key: str, name: str, parent: str | None) -> Iterator[str]:
        experiment = self._experiments.get(parent, self.experiment_id) if parent else self.experiment_id
        tags = {KEY: key, MLFLOW_RUN_NAME: name, **self._origin}
        if parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        with tracking_errors(self.uri, f"logging the run '{name}'"):
            run = self._find(key, experiment) or self.client.create_run(experiment, tags=tags)
            run_id: str = run.info.run_id
            self._experiments[run_id] = experiment
            self.client.update_run(run_id, status="RUNNING")
        status = "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        finally:
            with tracking_errors(self.uri, f"closing the run '{name}'"):
                self.client.set_terminated(run_id, status)

    def _find(self, key: str, experiment: str) -> Run | None:
        runs = self.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log parameters, metrics and tags in one call.

        Args:
            run_id: Where to.
            params: Inputs of the run.
            metrics: Results of the run, units in the names where they have one.
            tags: What else belongs to it.
        """
        now = int(time.time() * 1000)
        with tracking_errors(self.uri, "logging metrics and parameters"):
            self.client.log_batch(
                run_id,
                metrics=[Metric(name, float(value), now, 0) for name, value in (metrics or {}).items()],
                params=[Param(name, str(value)) for name, value in (params or {}).items()],
                tags=[RunTag(name, value) for name, value in (tags or {}).items()],
            )

    def log_point(self, run_id: str, metrics: Mapping[str, float], *, step: int, at: datetime) -> None:
        """Log a point of a time series. The same point again changes nothing.

        Args:
            run_id: Where to.
            metrics: The values by name.
            step: The place in the series.
            at: The moment that the values are of, with a time zone.
        """
        moment = int(at.timestamp() * 1000)
        with tracking_errors(self.uri, "logging a point of a time series"):
            self.client.log_batch(
                run_id, metrics=[Metric(name, float(value), moment, step) for name, value in metrics.items()]
            )

    def log_dataset(self, run_id: str, *, name: str, sha256: str, location: str, context: str) -> None:
        """Log a month of trips as an input of a run.

        Args:
            run_id: Where to.
            name: What the month is called, for example ``green 2021-01``.
            sha256: Content hash of the month; MLflow's digest is its beginning.
            location: Where the month came from.
            context: ``training`` or ``test``.
        """
        dataset = Dataset(
            name=name,
            digest=sha256[:_DIGEST_LENGTH],
            source_type="local" if "://" not in location else location.partition("://")[0],
            source=_json({"uri": location}),
            profile=_json({"sha256": sha256}),
        )
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])]
        with tracking_errors(self.uri, f"logging the dataset '{name}'"):
            self.client.log_inputs(run_id, datasets=inputs)

    def url(self, run_id: str) -> str | None:
        """Where a person sees a run, if that is on the web: at ``TRIPCAST_MLFLOW_UI``, or at the store's address."""
        base = self._settings.mlflow_ui or self.uri
        if not base.startswith(("http://", "https://")):
            return None
        experiment = self._experiments.get(run_id, self.experiment_id)
        return f"{base.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Log a file as an artifact of a run, under its own name."""
        with tracking_errors(self.uri, f"storing {file.name}"):
            self.client.log_artifact(run_id, str(file), folder)


def _kubeflow_tags(pipeline_run: str, pages: str | None) -> dict[str, str]:
    """Tags that lead from an MLflow run to the run of Kubeflow Pipelines that it is of; none outside of its pods.

    Named as Kubeflow's own plugin names them (backend/src/apiserver/plugins/mlflow/run_start.go, release 2.17).
    """
    if "KFP_POD_NAME" not in os.environ:
        return {}
    tags = {"kfp.pipeline_run_id": pipeline_run}
    if pages:
        tags["kfp.pipeline_run_url"] = f"{pages.rstrip('/')}/#/runs/details/{pipeline_run}"
    return tags


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
