"""Pipelines in Kubeflow: uploaded in versions, started as runs of an experiment, scheduled as recurring runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import kfp_server_api  # type: ignore[import-untyped, unused-ignore]

from tripcast.errors import ClusterError, InvalidRequest
from tripcast.kubeflow.client import Client
from tripcast.kubeflow.failures import Failure, failure_of

#: States in which a run has ended without having done its work, or is about to.
_FAILED_STATES = ("FAILED", "CANCELING", "CANCELED")


class Kubeflow:
    """A connection to Kubeflow Pipelines, which asks nothing before it is used.

    Args:
        endpoint: Where it answers, as ``http://ml-pipeline.kubeflow.svc:8888`` or ``https://kubeflow.example/pipeline``.
        namespace: The namespace to work in, where Kubeflow has several users; None where it has not.

    Attributes:
        endpoint: See above.
        namespace: See above.
        renews_token: Whether the token is read from a file, so that an expired one may be replaced by the next request.

    Raises:
        InvalidRequest: If the endpoint is no such address.
    """

    def __init__(self, endpoint: str, namespace: str | None = None) -> None:
        try:
            address = urlsplit(endpoint)
            right = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # half an IPv6 address, or a port that is none
            right = False
        if not right:
            raise InvalidRequest(
                f"'{endpoint}' is no address of Kubeflow Pipelines: write http:// or https:// and a host."
            )
        if address.username is not None:  # it would be part of every link and message
            raise InvalidRequest(
                "The address of Kubeflow Pipelines holds a user's name: give credentials as KF_PIPELINES_TOKEN or "
                "KF_PIPELINES_COOKIE instead."
            )
        # A person may have copied the address of a page. Where Kubeflow has several users, that is of the dashboard
        # around it (/_/pipeline), and names the namespace.
        self.endpoint = f"{address.scheme}://{address.netloc}{address.path.removeprefix('/_')}".rstrip("/")
        self.namespace = namespace or next(iter(parse_qs(address.query).get("ns", ())), None)
        client = Client(self.endpoint)
        self.renews_token = client.token_file is not None
        self._client = client
        self._experiments = kfp_server_api.ExperimentServiceApi(client)
        self._pipelines = kfp_server_api.PipelineServiceApi(client)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(client)
        self._runs = kfp_server_api.RunServiceApi(client)
        self._recurring_runs = kfp_server_api.RecurringRunServiceApi(client)

    def link(self, *place: str) -> str:
        """The address of a page: ``link("runs", "details", run_id)``."""
        pages = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or self.endpoint
        return "/".join([f"{pages.rstrip('/')}/#", *place])

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        if found := self._find_experiment(name):
            return found
        try:
            body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=self.namespace)
            made = self._experiments.experiment_service_create_experiment(body)
        except ClusterError as error:
            # Somebody else was faster.
            if error.status == 409 and (found := self._find_experiment(name)):
                return found
            raise
        return str(made.experiment_id)

    def _find_experiment(self, name: str) -> str | None:
        listed = self._experiments.experiment_service_list_experiments
        found = self._named(name, listed, "experiments", namespace=self.namespace)
        return str(found[0].experiment_id) if found else None

    def pipeline(self, name: str) -> str:
        """The id of an uploaded pipeline.

        Raises:
            ClusterError: If it is not there, or Kubeflow Pipelines refuses.
            ClusterUnreachable: If it does not answer; so do all of these methods.
        """
        found = self._named(
            name, self._pipelines.pipeline_service_list_pipelines, "pipelines", namespace=self.namespace
        )
        if not found:
            raise ClusterError(
                f"Kubeflow Pipelines at {self.endpoint} has no pipeline '{name}'. Upload it: tripcast upload.", 404
            )
        return str(found[0].pipeline_id)

    def version(self, pipeline_id: str, commit: str) -> str:
        """The id of the version that was uploaded from a commit, or else of the newest one.

        Versions of work trees that differed from their commit come last in both.

        Args:
            pipeline_id: Of which pipeline.
            commit: As in ``Settings``.
        """
        versions = list(
            _pages(
                self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id
            )
        )
        if not versions:
            raise ClusterError(f"The pipeline {pipeline_id} has no version. Upload one: tripcast upload.", 404)
        best = max(
            versions,
            key=lambda version: (
                version.display_name.rpartition("-")[0] == version_stem(commit),
                "-dirty-" not in version.display_name,
                version.created_at,
            ),
        )
        return str(best.pipeline_version_id)

    def upload(self, name: str, version: str, file: Path, description: str) -> tuple[str, str, bool]:
        """Upload a version of a pipeline, unless it is there.

        Args:
            name: The pipeline's name. The pipeline is made with its first version.
            version: The version's name.
            file: The compiled pipeline.
            description: What the version is; people see it.

        Returns:
            The pipeline's id, the version's id, and whether anything was uploaded.
        """
        try:
            pipeline_id = self.pipeline(name)
        except ClusterError as error:
            if error.status != 404:
                raise
            body = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
            pipeline_id = str(self._pipelines.pipeline_service_create_pipeline(body).pipeline_id)
        listed = self._pipelines.pipeline_service_list_pipeline_versions
        if found := self._named(version, listed, "pipeline_versions", pipeline_id=pipeline_id):
            return pipeline_id, str(found[0].pipeline_version_id), False
        made = self._uploads.upload_pipeline_version(
            str(file), name=version, pipelineid=pipeline_id, description=description
        )
        return pipeline_id, str(made.pipeline_version_id), True

    def run(self, run_id: str) -> Any:
        """A run as it is now: a ``kfp_server_api.V2beta1Run``."""
        return self._runs.run_service_get_run(run_id)

    def create_run(
        self,
        name: str,
        experiment_id: str,
        version: tuple[str, str],
        arguments: Mapping[str, Any],
        description: str | None = None,
    ) -> str:
        """Start a run.

        Args:
            name: Its name; names need not be unique.
            experiment_id: The experiment that it belongs to.
            version: The ids of the pipeline and of its version.
            arguments: The pipeline's parameters.
            description: What the run is; people see it.

        Returns:
            The run's id.
        """
        body = kfp_server_api.V2beta1Run(
            display_name=name,
            description=description,
            experiment_id=experiment_id,
            pipeline_version_reference=_reference(version),
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(arguments)),
        )
        return str(self._runs.run_service_create_run(body).run_id)

    def live_runs(self, name: str, experiment_id: str) -> list[Any]:
        """The runs of a name that run or have succeeded, the first one first."""
        runs = self._named(name, self._runs.run_service_list_runs, "runs", experiment_id=experiment_id)
        live = [run for run in runs if run.state not in _FAILED_STATES]
        return sorted(live, key=lambda run: (run.created_at, run.run_id))

    def stop_run(self, run_id: str) -> None:
        """Have a run end where it is."""
        self._runs.run_service_terminate_run(run_id)

    def runs(self, experiment_id: str) -> list[Any]:
        """All runs of an experiment, the first one first: without their tasks, which ``run`` has."""
        found = _pages(self._runs.run_service_list_runs, "runs", experiment_id=experiment_id)
        return sorted(found, key=lambda run: (run.created_at, run.run_id))

    def steps(self, run: Any) -> set[str]:
        """The names of a run's steps, those within loops and conditions included; empty if its pipeline is gone."""
        reference = run.pipeline_version_reference
        if reference is None:
            return set()
        try:
            version = self._pipelines.pipeline_service_get_pipeline_version(
                reference.pipeline_id, reference.pipeline_version_id
            )
        except ClusterError as error:
            if error.status == 404:
                return set()
            raise
        return step_names(version.pipeline_spec.get("pipeline_spec", version.pipeline_spec))

    def failure(self, run: Any, steps: Set[str]) -> Failure:
        """Why a run failed, see ``failure_of``."""
        return failure_of(self._client, self.namespace, run, steps)

    def recurring_runs(self, name: str, experiment_id: str) -> list[Any]:
        """The recurring runs of a name: ``kfp_server_api.V2beta1RecurringRun``."""
        listed = self._recurring_runs.recurring_run_service_list_recurring_runs
        return self._named(name, listed, "recurring_runs", experiment_id=experiment_id)

    def schedule(
        self,
        name: str,
        experiment_id: str,
        version: tuple[str, str],
        cron: str,
        arguments: Mapping[str, Any],
        description: str,
    ) -> bool:
        """Have a pipeline run again and again: one recurring run of this name, whatever there was before.

        Never two of its runs at once, and after an outage only the latest one that was missed.

        Args:
            name: The recurring run's name.
            experiment_id: The experiment that its runs belong to.
            version: The ids of the pipeline and of its version.
            cron: When, in UTC: six fields, the first of them the seconds.
            arguments: The pipeline's parameters.
            description: What it is; people see it.

        Returns:
            False if it was there like this already.
        """
        before = self.recurring_runs(name, experiment_id)
        same = [run for run in before if _is_scheduled_like(run, version, cron, arguments)]
        if not same:
            self._recurring_runs.recurring_run_service_create_recurring_run(
                kfp_server_api.V2beta1RecurringRun(
                    display_name=name,
                    description=description,
                    experiment_id=experiment_id,
                    pipeline_version_reference=_reference(version),
                    runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(arguments)),
                    trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
                    mode="ENABLE",
                    max_concurrency="1",
                    no_catchup=True,
                )
            )
        # The API has no way to change one. The new one comes first, so that a failure here leaves no gap.
        for run in before:
            if run not in same[:1]:
                self.unschedule(run.recurring_run_id)
        return not same or len(before) > 1

    def unschedule(self, recurring_run_id: str) -> None:
        """Remove a recurring run. Its runs stay, and one that is under way goes on."""
        self._recurring_runs.recurring_run_service_delete_recurring_run(recurring_run_id, propagation_policy="ORPHAN")

    def _named(self, name: str, listed: Callable[..., Any], field: str, **query: Any) -> list[Any]:
        """What a list has under a name."""
        predicates = [{"operation": "EQUALS", "key": "display_name", "string_value": name}]
        # The server decodes it once more than HTTP asks for: '+' and '%' have to be protected.
        found = _pages(listed, field, filter=quote(json.dumps({"predicates": predicates})), **query)
        # Its databases may take 'A' for 'a'.
        return [entry for entry in found if entry.display_name == name]


def step_names(spec: Mapping[str, Any]) -> set[str]:
    """The names of a pipeline's steps, those within loops and conditions included.

    Args:
        spec: The compiled pipeline, as JSON has it.
    """
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return {
        name
        for dag in dags
        for name, task in dag["tasks"].items()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    }


def version_stem(commit: str) -> str:
    """What the names of all versions from a commit begin with: ``b919295d0f1e``, or ``b919295d0f1e-dirty``.

    Args:
        commit: As in ``Settings``: the hash, ``+dirty`` behind it if the work tree differed from it.
    """
    bare, plus, _ = commit.partition("+dirty")
    return bare[:12] + ("-dirty" if plus else "")


def _reference(version: tuple[str, str]) -> Any:
    return kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=version[0], pipeline_version_id=version[1])


def _is_scheduled_like(run: Any, version: tuple[str, str], cron: str, arguments: Mapping[str, Any]) -> bool:
    return (
        run.status == "ENABLED"
        and run.pipeline_version_reference == _reference(version)
        and run.trigger.cron_schedule is not None
        and run.trigger.cron_schedule.cron == cron
        and ((run.runtime_config and run.runtime_config.parameters) or {}) == dict(arguments)
    )


def _pages(listed: Callable[..., Any], field: str, **query: Any) -> Iterator[Any]:
    """All entries of a list, page by page."""
    token = ""
    while True:
        page = listed(page_size=100, page_token=token, **query)
        yield from getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return
