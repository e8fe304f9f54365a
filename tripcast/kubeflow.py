"""Kubeflow Pipelines on a cluster, through its REST API (v2beta1): what is uploaded, what runs, what is scheduled.

This is for steps as much as for a command line: kfp hides its own client from a running step, so it is the client that
lies below that one, ``kfp_server_api``.

Who asks is read from the environment, as kfp's own client does where it has a name for it:

* ``KF_PIPELINES_SA_TOKEN_PATH``: a file with a token. It is read again for every request, since Kubernetes renews it.
* ``KF_PIPELINES_TOKEN``, ``KF_PIPELINES_COOKIE``: a token, or the cookie of a session (``name=value``), as they are.
* ``SSL_CERT_FILE``: certificates to trust instead of the usual ones.
* ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``: the way out of a network that has one.
* ``KF_PIPELINES_UI_ENDPOINT``: where people see the pages, if that is not where the API is.

None of them is ever part of a message, a run or a parameter.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import kfp_server_api  # type: ignore[import-untyped, unused-ignore]
import urllib3
from kfp_server_api import rest
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from tripcast import errors
from tripcast.errors import ClusterError, ClusterUnreachable, InvalidRequest, TripcastError
from tripcast.settings import Settings

#: States in which a run has ended without having done its work, or is about to.
FAILED_STATES = ("FAILED", "CANCELING", "CANCELED")

#: Answers of a server, or of a gateway before it, that is not there at the moment.
_NOT_NOW = (429, 502, 503, 504)

#: Seconds to connect, and to wait for an answer.
_TIMEOUT = (5, 60)

#: Seconds to wait between attempts to start a run while Kubeflow Pipelines does not answer.
_PAUSES = (2.0, 5.0, 10.0, 30.0)

#: Seconds after which a run that is made by someone else has another creation time: it is kept in whole seconds.
_CLOCK_TICK = 1.1

#: What KFP 2.17 puts into the name of a step's pod, in a workflow whose node is ``workflow-hash``: how many annotations
#: and labels the step has, by policy, and that it is tried again (backend/src/v2/compiler/argocompiler/container.go).
POD_KINDS = ("metadata-0-3-retry-system-container-impl", "metadata-0-4-retry-system-container-impl")

#: The last line of a traceback that ends in one of tripcast's own errors.
_EXPECTED_ERROR = re.compile(r"^tripcast\.errors\.(\w+): (.+)$", re.MULTILINE)

#: What Argo Workflows calls the tries of a step.
_TRY = re.compile(r"executor\(\d+\)")


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        step: The step that failed; None if the run failed before any of its steps.
        reason: What the step said last, or Kubeflow Pipelines of the run; None if neither is known.
        lasting: Whether another try of the step would end alike; None if its reason is not known.
        tries: How often the step was tried; 0 if that is not known.
        stopped: Whether somebody stopped the run: then nothing else is known.
    """

    step: str | None
    reason: str | None
    lasting: bool | None = None
    tries: int = 0
    stopped: bool = False

    def __str__(self) -> str:
        if self.stopped:
            return "Somebody stopped it."
        if self.step is None:
            return f"The run failed before any of its steps{f' ({self.reason})' if self.reason else ''}."
        return f"The step '{self.step}' failed: {self.reason or 'its log says why.'}"


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
        client = _Client(self.endpoint)
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
        live = [run for run in runs if run.state not in FAILED_STATES]
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

    def failure(self, run: Any, steps: AbstractSet[str]) -> Failure:
        """Why a run failed.

        Args:
            run: The run, with its tasks.
            steps: The names of its steps: a workflow has other nodes, too.
        """
        if run.state == "CANCELED" or self._was_stopped(run.run_id):
            return Failure(None, None, stopped=True)
        tasks = (run.run_details and run.run_details.task_details) or []
        failed = {task.display_name.removesuffix("-driver"): task for task in tasks if task.state == "FAILED"}
        name = next((name for name in failed if name in steps), None)
        if name is None:
            return Failure(None, run.error.message if run.error and run.error.message else None)
        pods = [failed[name], *(task for node, task in failed.items() if node.startswith("executor"))]
        children = [child.pod_name for node in pods for child in node.child_tasks or [] if child.pod_name]
        tries = sum(1 for node in failed if _TRY.fullmatch(node))
        error = failed[name].error
        if error and error.message:
            return Failure(name, str(error.message), tries=tries)
        said = self._last_words(run.run_id, children)
        if said is None:
            return Failure(name, None, tries=tries)
        kind, reason = said
        return Failure(name, reason, getattr(errors, kind, TripcastError).lasting, tries)

    def _was_stopped(self, run_id: str) -> bool:
        """Whether somebody stopped a run, of which KFP 2.17 says that it failed.

        It stops a run by a deadline of zero seconds for its workflow (backend/src/common/util/execution_spec.go), and
        only its older API shows workflows.
        """
        try:
            shown = json.loads(self._client.text(f"/apis/v1beta1/runs/{run_id}", {}))
            workflow = json.loads(shown["pipeline_runtime"]["workflow_manifest"])
        except (ClusterError, ValueError, KeyError):  # an API without the older one
            return False
        return bool(workflow["spec"].get("activeDeadlineSeconds") == 0)

    def _last_words(self, run_id: str, nodes: list[str]) -> tuple[str, str] | None:
        """What a failed step said last, read from its log.

        KFP 2.17 tells of a failed task no more than that it failed (kubeflow/pipelines #14007).

        Args:
            run_id: Of which run.
            nodes: The workflow's nodes that may be its pod, as ``child_tasks`` name them.

        Returns:
            The error's class and its sentence, or None if no log is to be had or none ends in an error of tripcast.
        """
        for node in nodes:
            workflow, _, unique = node.rpartition("-")
            for kind in POD_KINDS:
                pod = f"{workflow}-{kind}-{unique}"
                for place, query in (
                    (f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}),  # the API itself
                    ("/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": self.namespace or "kubeflow"}),
                ):
                    try:
                        log = self._client.text(place, query)
                    except ClusterError:
                        continue
                    if said := _EXPECTED_ERROR.findall(log):
                        kind, sentence = said[-1]
                        return str(kind), str(sentence)
        return None

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


def start_run(
    pipeline: str,
    name: str,
    experiment: str,
    arguments: Mapping[str, Any],
    *,
    endpoint: str,
    namespace: str | None,
) -> str:
    """Start a run of an uploaded pipeline, exactly once.

    If the experiment has a run of this name that runs or has succeeded, that is the one, and nothing is started.
    Kubeflow Pipelines itself lets any number of runs have one name. So a run whose start got no answer is looked for
    before it is started again; and where two callers start the same at the same time, the later one is stopped.

    Args:
        pipeline: The pipeline's name, as ``tripcast-training``. Its version is that of this commit, or else the newest.
        name: The run's name.
        experiment: The experiment's name; made if it is not there.
        arguments: The pipeline's parameters.
        endpoint: Where Kubeflow Pipelines answers.
        namespace: The namespace to work in, where Kubeflow has several users.

    Returns:
        The run's id.

    Raises:
        ClusterError: If the pipeline is not uploaded, or Kubeflow Pipelines refuses.
        ClusterUnreachable: If it does not answer for about a minute.
    """
    kubeflow = Kubeflow(endpoint, namespace)
    pauses = iter(_PAUSES)
    while True:
        try:
            return _start_unless_there(kubeflow, pipeline, name, experiment, arguments)
        except ClusterUnreachable:
            pause = next(pauses, None)
            if pause is None:
                raise
            time.sleep(pause)


def _start_unless_there(
    kubeflow: Kubeflow, pipeline: str, name: str, experiment: str, arguments: Mapping[str, Any]
) -> str:
    """See ``start_run``; an answer that is lost on the way ends this, and the next attempt finds what it did."""
    experiment_id = kubeflow.experiment(experiment)
    if live := kubeflow.live_runs(name, experiment_id):
        return str(live[0].run_id)
    pipeline_id = kubeflow.pipeline(pipeline)
    version_id = kubeflow.version(pipeline_id, Settings.load().commit)
    ours = kubeflow.create_run(name, experiment_id, (pipeline_id, version_id), arguments)
    # Whoever saw none of this name either has made his run by now, or will find this one.
    time.sleep(_CLOCK_TICK)
    first = next((str(run.run_id) for run in kubeflow.live_runs(name, experiment_id)), ours)
    if first != ours:
        kubeflow.stop_run(ours)
    return first


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


class _Client(kfp_server_api.ApiClient):  # type: ignore[misc, unused-ignore]
    """The generated client, with what it lacks: time limits, and errors that say what to do.

    It would follow a redirect to a login page, and take that page for an empty answer.
    """

    def __init__(self, endpoint: str) -> None:
        self.token_file = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or None
        configuration = kfp_server_api.Configuration(host=endpoint)
        configuration.retries = urllib3.Retry(0, redirect=False)
        configuration.ssl_ca_cert = os.environ.get("SSL_CERT_FILE") or None
        if proxy := select_proxy(endpoint, get_environ_proxies(endpoint)):
            configuration.proxy, configuration.proxy_headers = proxy, HTTPAdapter().proxy_headers(proxy)
        token = _header("KF_PIPELINES_TOKEN", os.environ.get("KF_PIPELINES_TOKEN", ""))
        if self.token_file:
            configuration.refresh_api_key_hook = self._read_token
        if self.token_file or token:
            configuration.api_key["authorization"] = token
            configuration.api_key_prefix["authorization"] = "Bearer"
        cookie = _header("KF_PIPELINES_COOKIE", os.environ.get("KF_PIPELINES_COOKIE", ""))
        super().__init__(configuration, cookie=cookie or None)

    def _read_token(self, configuration: Any) -> None:
        assert self.token_file is not None
        try:
            token = Path(self.token_file).read_text()
        except OSError as trouble:
            raise ClusterError(
                f"The token for Kubeflow Pipelines cannot be read from {self.token_file} ({trouble.strerror}). "
                "Correct KF_PIPELINES_SA_TOKEN_PATH."
            ) from trouble
        except UnicodeDecodeError:
            raise _no_header("KF_PIPELINES_SA_TOKEN_PATH") from None
        configuration.api_key["authorization"] = _header("KF_PIPELINES_SA_TOKEN_PATH", token)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """See ``kfp_server_api.ApiClient``."""
        response = self._ask(method, url, **options)
        if "json" not in (response.getheader("content-type") or ""):
            raise self._no_api(200)
        return response

    def text(self, path: str, query: Mapping[str, str]) -> str:
        """A text that the server has, a log."""
        headers: dict[str, str] = dict(self.default_headers)
        if self.cookie:
            headers["Cookie"] = self.cookie
        self.update_params_for_auth(headers, [], ["Bearer"])
        response = self._ask("GET", self.configuration.host + path, headers=headers, query_params=list(query.items()))
        return str(response.data.decode(errors="replace"))

    def _ask(self, method: str, url: str, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or _TIMEOUT
        try:
            return super().request(method, url, **options)
        except rest.ApiException as answer:
            if answer.status:
                raise self._refusal(answer) from None
            raise self._not_trusted(answer.reason) from None
        except urllib3.exceptions.MaxRetryError as trouble:
            if isinstance(trouble.reason, urllib3.exceptions.SSLError):
                raise self._not_trusted(trouble.reason) from None
            raise self._no_answer(trouble.reason) from None
        except urllib3.exceptions.HTTPError as trouble:
            raise self._no_answer(trouble) from None

    def _no_answer(self, trouble: object) -> ClusterUnreachable:
        return ClusterUnreachable(
            f"Kubeflow Pipelines at {self.configuration.host} does not answer ({_brief(trouble)}). Check the address "
            "and that the cluster is up; for one without an address of its own: "
            "kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8888:80."
        )

    def _not_trusted(self, trouble: object) -> ClusterError:
        return ClusterError(
            f"The certificate of {self.configuration.host} is not trusted ({_brief(trouble)}). Name the file of the "
            "authority that signed it in SSL_CERT_FILE."
        )

    def _no_api(self, status: int) -> ClusterError:
        return ClusterError(
            f"{self.configuration.host} answers with a page instead of Kubeflow Pipelines' API: a login page, or "
            "another service. Give a token or your session (KF_PIPELINES_TOKEN, KF_PIPELINES_COOKIE), or go past the "
            "login: kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8888:80.",
            status,
        )

    def _refusal(self, answer: Any) -> ClusterError:
        """What an answer that is no success means."""
        status, host, said = answer.status, self.configuration.host, _message(answer.body)
        if status in _NOT_NOW:
            return ClusterUnreachable(
                f"Kubeflow Pipelines at {host} cannot answer now (HTTP {status}). Check its pods: "
                "kubectl get pods --namespace kubeflow.",
                status,
            )
        if status == 401:
            return ClusterError(
                f"Kubeflow Pipelines at {host} does not accept who asks (HTTP 401): the token or session is missing, "
                "wrong or has expired. Set KF_PIPELINES_SA_TOKEN_PATH, KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIE.",
                status,
            )
        if status == 403:
            return ClusterError(
                f"Kubeflow Pipelines at {host} does not permit this (HTTP 403): {said or 'it gives no reason'}. Check "
                "the namespace, and the rights of your account in it.",
                status,
            )
        if 300 <= status < 400 or said is None:
            return self._no_api(status)
        return ClusterError(f"Kubeflow Pipelines at {host} refuses (HTTP {status}): {said}.", status)


def _header(variable: str, value: str) -> str:
    """A secret as it goes into a header: without the line break that files and clipboards add.

    Raises:
        InvalidRequest: If something that no header may have is in the middle of it. It is not shown.
    """
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise _no_header(variable)
    return value


def _no_header(variable: str) -> InvalidRequest:
    return InvalidRequest(
        f"What {variable} holds or names is no token or cookie: it has line breaks or odd signs in it."
    )


def _message(body: str | bytes | None) -> str | None:
    """The server's own words in an answer; None if they are not those of its API."""
    text = (body.decode(errors="replace") if isinstance(body, bytes) else body or "").strip()
    try:
        answer = json.loads(text)
    except ValueError:
        # An authorization proxy says 'RBAC: access denied', and nothing else.
        return None if not text or text.startswith("<") else text.rstrip(".")
    if not isinstance(answer, dict):
        return None
    # The details have the words that are meant for people, without the calls that led there.
    said = [detail.get("message") for detail in answer.get("details") or [] if isinstance(detail, dict)]
    said += [answer.get("message"), answer.get("error_message"), answer.get("error")]
    # Some answers have the server's stack below the first line.
    return next((str(words).splitlines()[0].rstrip(".") for words in said if words and str(words).strip()), None)


def _brief(trouble: object) -> str:
    """The gist of urllib3's nested messages."""
    return str(trouble).rpartition("): ")[2].partition(" (_ssl.c")[0] or type(trouble).__name__
