"""A stand-in for the API server of Kubeflow Pipelines 2.17: its REST API (v2beta1) over HTTP, and nothing behind it.

It is here because the real one needs a Kubernetes cluster. What it accepts and answers follows the server's source at
2.17.0 (backend/src/apiserver, backend/api/v2beta1), odd as some of it is:

* A field that a message does not have is refused; a field without a value is left out of an answer.
* A filter is decoded twice, so '+' and '%' in it have to be encoded twice. A page token belongs to its filter.
* Names of experiments and pipelines are unique; those of runs and recurring runs are not.
* A run that somebody terminates is CANCELING for a while, and then FAILED; only its workflow's deadline, which the
  older API (v1beta1) shows, tells that it was.
* Times are whole seconds, and what has not happened yet happened in 1970.
* A run's task details are the nodes of its Argo workflow: drivers, loops and pods beside the steps. They never have an
  error or a pod's name; the nodes that a node has below it are named in ``child_tasks``. (kubeflow/pipelines #14007)

Runs do not run: each look at a run shows the next frame of a script that a test may set.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import kfp_server_api as api
import yaml

from tripcast.kubeflow.failures import POD_KINDS

Json = dict[str, Any]

NEVER = "1970-01-01T00:00:00Z"
STATES = {"PENDING", "RUNNING", "SUCCEEDED", "SKIPPED", "FAILED", "CANCELING", "CANCELED", "PAUSED"}
#: gRPC's codes, by the HTTP status that its gateway makes of them.
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}
#: Fields that a filter may ask for, and that a list may be sorted by.
FIELDS = {"display_name", "name", "created_at", "description", "storage_state", "state"}


@dataclass(frozen=True)
class Frame:
    """A moment in a run: its state, and those of its tasks, by name; a name that occurs again is a loop's next task."""

    state: str
    tasks: tuple[tuple[str, str], ...] = ()


SUCCEEDS = (
    Frame("PENDING"),
    Frame("RUNNING", (("plan", "RUNNING"),)),
    Frame("RUNNING", (("plan", "SUCCEEDED"), ("ingest", "SUCCEEDED"), ("ingest", "RUNNING"))),
    Frame("SUCCEEDED", (("plan", "SUCCEEDED"), ("ingest", "SUCCEEDED"), ("ingest", "SUCCEEDED"))),
)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Fault:
    """What goes wrong with the next requests that match.

    Attributes:
        matching: A pattern for ``METHOD /path``.
        times: With how many of them.
        answer: A status, a content type and a body instead of the real ones; None closes the connection.
        after: Whether the request is carried out first.
    """

    matching: str
    times: int
    answer: tuple[int, str, str] | None = None
    after: bool = False


@dataclass
class KubeflowApi:
    """The server's state, and what a test does to it.

    Attributes:
        url: Where it answers.
        script: What a run that is started from now on shows, look by look; the last frame stays.
        logs: Logs by pod; a step's pod is named by ``pod_of``.
        token: If set, the token that every request has to have.
        multi_user: Whether namespaces have to be named.
        seen: The requests so far: method, path, headers, body.
    """

    url: str = ""
    script: tuple[Frame, ...] = SUCCEEDS
    logs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    multi_user: bool = False
    experiments: list[Json] = field(default_factory=list)
    pipelines: list[Json] = field(default_factory=list)
    versions: list[Json] = field(default_factory=list)
    runs: list[Json] = field(default_factory=list)
    recurring_runs: list[Json] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deleted_with: list[str] = field(default_factory=list)
    _frames: dict[str, list[Frame]] = field(default_factory=dict)
    _stopped: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, matching: str, times: int = 1, answer: Any = None, after: bool = False) -> None:
        """Let the next requests that match go wrong; see ``Fault``."""
        self.faults.append(Fault(matching, times, answer, after))

    def requests(self, matching: str) -> list[str]:
        """``METHOD /path`` of the requests so far that match."""
        return [f"{method} {path}" for method, path, _, _ in self.seen if re.search(matching, f"{method} {path}")]

    def handle(self, method: str, path: str, query: dict[str, str], body: bytes, headers: dict[str, str]) -> Json:
        """Answer a request, as the API server would.

        Raises:
            Refused: If it would refuse.
        """
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "Request header error: there is no user identity header")
        with self._lock:
            for verb, pattern, answer, kind in self._routes():
                found = re.fullmatch(pattern, path)
                if found and verb == method:
                    said = _without_empty(answer(*found.groups(), query=query, body=body, headers=headers))
                    _check_type(said, kind)
                    return said
        raise Refused(404, "Not Found")

    def _routes(self) -> Iterator[tuple[str, str, Callable[..., Json], str]]:
        base = "/apis/v2beta1"
        yield "GET", f"{base}/experiments", self._list_of("experiments"), "V2beta1ListExperimentsResponse"
        yield "POST", f"{base}/experiments", self._create_experiment, "V2beta1Experiment"
        yield "GET", f"{base}/pipelines", self._list_of("pipelines"), "V2beta1ListPipelinesResponse"
        yield "POST", f"{base}/pipelines", self._create_pipeline, "V2beta1Pipeline"
        yield "POST", f"{base}/pipelines/upload_version", self._upload_version, "V2beta1PipelineVersion"
        yield "GET", f"{base}/pipelines/([^/]+)/versions", self._list_versions, "V2beta1ListPipelineVersionsResponse"
        yield "GET", f"{base}/pipelines/([^/]+)/versions/([^/]+)", self._get_version, "V2beta1PipelineVersion"
        yield "GET", f"{base}/runs", self._list_of("runs"), "V2beta1ListRunsResponse"
        yield "POST", f"{base}/runs", self._create_run, "V2beta1Run"
        yield "GET", f"{base}/runs/([^/:]+)", self._get_run, "V2beta1Run"
        yield "GET", "/apis/v1beta1/runs/([^/:]+)", self._get_workflow, "object"
        yield "POST", f"{base}/runs/([^/:]+):terminate", self._terminate_run, "object"
        yield "GET", f"{base}/recurringruns", self._list_of("recurring_runs"), "V2beta1ListRecurringRunsResponse"
        yield "POST", f"{base}/recurringruns", self._create_recurring_run, "V2beta1RecurringRun"
        yield "DELETE", f"{base}/recurringruns/([^/:]+)", self._delete_recurring_run, "object"

    def _list_of(self, name: str) -> Callable[..., Json]:
        def answer(query: dict[str, str], **_: Any) -> Json:
            self._need_namespace(name, query)
            entries = getattr(self, name)
            if name in ("runs", "recurring_runs"):
                if "experiment_id" in query:
                    self._find(self.experiments, "experiment_id", query["experiment_id"], "Experiment")
                entries = [e for e in entries if e["experiment_id"] == query.get("experiment_id", e["experiment_id"])]
            elif self.multi_user:
                entries = [entry for entry in entries if entry.get("namespace") == query["namespace"]]
            if name == "runs":  # a list does not look at the runs
                entries = [self._shown(run) for run in entries]
            return _page("recurringRuns" if name == "recurring_runs" else name, entries, query)

        return answer

    def _need_namespace(self, name: str, query: dict[str, str]) -> None:
        if self.multi_user and not query.get("namespace") and not query.get("experiment_id"):
            raise Refused(400, f"Failed to list {name}: namespace cannot be empty in multi-user mode.")

    def _create_experiment(self, body: bytes, **_: Any) -> Json:
        asked = _message(body, api.V2beta1Experiment)
        namespace = self._namespace(asked)
        if any(e["display_name"] == asked["display_name"] and e["namespace"] == namespace for e in self.experiments):
            raise Refused(409, f"Failed to create a new experiment. The name {asked['display_name']} already exists.")
        made = {
            "experiment_id": str(uuid.uuid4()),
            "display_name": asked["display_name"],
            "created_at": _now(),
            "namespace": namespace,
            "storage_state": "AVAILABLE",
            "last_run_created_at": NEVER,
        }
        self.experiments.append(made)
        return made

    def _create_pipeline(self, body: bytes, **_: Any) -> Json:
        asked = _message(body, api.V2beta1Pipeline)
        name = asked.get("name") or asked.get("display_name")
        if not name:
            raise Refused(400, "name is required")
        namespace = self._namespace(asked)
        if any(p["name"] == name and p["namespace"] == namespace for p in self.pipelines):
            raise Refused(409, f"Failed to create a new pipeline. The name {name} already exists.")
        made = {
            "pipeline_id": str(uuid.uuid4()),
            "name": name,
            "display_name": asked.get("display_name") or name,
            "created_at": _now(),
            "namespace": namespace,
        }
        self.pipelines.append(made)
        return made

    def _namespace(self, asked: Json) -> str:
        if not self.multi_user:
            return ""
        if not asked.get("namespace"):
            raise Refused(400, "Namespace cannot be empty")
        return str(asked["namespace"])

    def _list_versions(self, pipeline_id: str, query: dict[str, str], **_: Any) -> Json:
        self._find(self.pipelines, "pipeline_id", pipeline_id, "Pipeline")
        versions = [version for version in self.versions if version["pipeline_id"] == pipeline_id]
        return _page("pipeline_versions", versions, query)

    def _get_version(self, pipeline_id: str, version_id: str, **_: Any) -> Json:
        return self._find(self.versions, "pipeline_version_id", version_id, "PipelineVersion")

    def _upload_version(self, query: dict[str, str], body: bytes, headers: dict[str, str], **_: Any) -> Json:
        parts = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
        files = {part.get_param("name", header="content-disposition"): part for part in parts.walk()}
        if "uploadfile" not in files:
            raise Refused(400, "Failed to create a pipeline version")
        self._find(self.pipelines, "pipeline_id", query["pipelineid"], "Pipeline")
        beside = [version for version in self.versions if version["pipeline_id"] == query["pipelineid"]]
        if any(version["name"] == query["name"] for version in beside):
            raise Refused(409, "Failed to create a pipeline version")
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": str(uuid.uuid4()),
            "name": query["name"],
            "display_name": query.get("display_name", query["name"]),
            "description": query.get("description", ""),
            "created_at": _now(),
            "pipeline_spec": next(yaml.safe_load_all(files["uploadfile"].get_payload(decode=True))),
        }
        self.versions.append(made)
        return made

    def _referred(self, asked: Json) -> Json:
        """The version that a run shall be of; its inputs are checked."""
        reference = _checked(asked["pipeline_version_reference"], api.V2beta1PipelineVersionReference)
        versions = [v for v in self.versions if v["pipeline_id"] == reference["pipeline_id"]]
        version = self._find(versions, "pipeline_version_id", reference["pipeline_version_id"], "PipelineVersion")
        inputs = version["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in asked.get("runtime_config", {}).get("parameters", {}):
            if name not in inputs:
                raise Refused(400, f"parameter {name} is not an input of the pipeline")
        return version

    def _create_run(self, body: bytes, **_: Any) -> Json:
        asked = _message(body, api.V2beta1Run)
        if not asked.get("display_name"):
            raise Refused(400, "The run name is empty. Please specify a valid name")
        self._find(self.experiments, "experiment_id", asked["experiment_id"], "Experiment")
        self._referred(asked)
        run = {
            **asked,
            "run_id": str(uuid.uuid4()),
            "storage_state": "AVAILABLE",
            "service_account": "pipeline-runner",
            "created_at": _now(),
            "scheduled_at": _now(),
            "finished_at": NEVER,
        }
        self.runs.append(run)
        self._frames[run["run_id"]] = list(self.script)
        return self._shown(run)

    def _get_run(self, run_id: str, **_: Any) -> Json:
        run = self._find(self.runs, "run_id", run_id, "Run")
        shown = self._shown(run)
        if len(self._frames[run_id]) > 1:
            self._frames[run_id].pop(0)
        return shown

    def _terminate_run(self, run_id: str, **_: Any) -> Json:
        self._find(self.runs, "run_id", run_id, "Run")
        self._frames[run_id] = [Frame("CANCELING"), Frame("FAILED")]
        return {}

    def _get_workflow(self, run_id: str, **_: Any) -> Json:
        """Of the older API's answer, what a run's end is read from."""
        run = self._find(self.runs, "run_id", run_id, "Run")
        spec = {"activeDeadlineSeconds": 0} if run["run_id"] in self._stopped else {}
        return {"pipeline_runtime": {"workflow_manifest": json.dumps({"spec": spec})}}

    def _shown(self, run: Json) -> Json:
        frame = self._frames[run["run_id"]][0]
        assert frame.state in STATES
        if frame.state == "CANCELING":
            self._stopped.add(run["run_id"])
        tasks = list(_nodes(run["run_id"], frame.tasks))
        return {**run, "state": frame.state, **({"run_details": {"task_details": tasks}} if tasks else {})}

    def _create_recurring_run(self, body: bytes, **_: Any) -> Json:
        asked = _message(body, api.V2beta1RecurringRun)
        self._find(self.experiments, "experiment_id", asked["experiment_id"], "Experiment")
        self._referred(asked)
        cron = _checked(asked["trigger"], api.V2beta1Trigger)["cron_schedule"]["cron"]
        if (not cron.startswith("@") and not 5 <= len(cron.split()) <= 6) or re.search(r"[^\d\s*/,?@a-zA-Z-]", cron):
            raise Refused(400, f"Schedule cron is not a supported format. Error: {cron}")
        if asked["mode"] not in ("ENABLE", "DISABLE"):
            raise Refused(400, f"unknown mode {asked['mode']}")
        made = {
            **asked,
            "recurring_run_id": str(uuid.uuid4()),
            "created_at": _now(),
            "updated_at": _now(),
            "status": f"{asked['mode']}D",
            "namespace": "kubeflow",
        }
        self.recurring_runs.append(made)
        return made

    def _delete_recurring_run(self, recurring_run_id: str, query: dict[str, str], **_: Any) -> Json:
        run = self._find(self.recurring_runs, "recurring_run_id", recurring_run_id, "Job")
        self.recurring_runs.remove(run)
        self.deleted_with.append(query.get("propagation_policy", "BACKGROUND"))
        return {}

    def _find(self, entries: list[Json], key: str, value: str, kind: str) -> Json:
        for entry in entries:
            if entry[key] == value:
                return entry
        raise Refused(404, f"{kind} {value} not found")


def pod_of(run_id: str, task: str, number: int = 1) -> str:
    """The pod of a run's task."""
    workflow, unique = _node(run_id, task, number, "executor").rsplit("-", 1)
    return f"{workflow}-{POD_KINDS[0]}-{unique}"


def _node(run_id: str, task: str, number: int, kind: str) -> str:
    return f"workflow-{run_id[:5]}-{uuid.uuid5(uuid.UUID(run_id), f'{task} {number} {kind}').int % 10**9}"


def _nodes(run_id: str, tasks: tuple[tuple[str, str], ...]) -> Iterator[Json]:
    """What a workflow has for some tasks: beside each a driver and a pod, in the order of meaningless ids."""
    if not tasks:
        return
    counted: dict[str, int] = {}
    nodes = [("root-driver", "SUCCEEDED", []), ("root", "RUNNING", [])]
    for name, state in tasks:
        number = counted[name] = counted.get(name, 0) + 1
        executor = _node(run_id, name, number, "executor")
        nodes += [(f"{name}-driver", "SUCCEEDED", []), (name, state, [executor]), ("executor", state, [])]
    began = time.time() - 60
    for place, (name, state, children) in enumerate(nodes):
        ended = state in ("SUCCEEDED", "FAILED")
        yield {
            "run_id": run_id,
            "task_id": str(uuid.uuid5(uuid.UUID(run_id), str(place))),
            "display_name": name,
            "create_time": _now(began),
            "start_time": _now(began + place),
            "end_time": _now(began + place + 7) if ended else NEVER,
            "state": state,
            "state_history": [{"update_time": _now(), "state": state}],
            **({"child_tasks": [{"pod_name": child} for child in children]} if children else {}),
        }


def _now(seconds: float | None = None) -> str:
    return datetime.fromtimestamp(int(seconds or time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked(message: Json, model: Any) -> Json:
    """A message, if it has no field that its type has not."""
    unknown = set(message) - set(model.attribute_map.values())
    if unknown:
        raise Refused(400, f'proto: (line 1:2): unknown field "{unknown.pop()}"')
    return message


def _message(body: bytes, model: Any) -> Json:
    return _checked(json.loads(body), model)


def _check_type(value: Any, kind: str) -> None:
    """Assert that an answer is what the generated client takes it for."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        for entry in value:
            _check_type(entry, listed[1])
    elif mapping := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for entry in value.values():
            _check_type(entry, mapping[1])
    elif kind in ("str", "datetime"):
        assert isinstance(value, str), value
    elif model := getattr(api, kind, None):
        if not model.openapi_types:
            assert value in model.allowable_values, value
            return
        names = {name: attribute for attribute, name in model.attribute_map.items()}
        for name, entry in value.items():
            assert name in names, f"{kind} has no {name}"
            _check_type(entry, model.openapi_types[names[name]])


def _page(name: str, entries: list[Json], query: dict[str, str]) -> Json:
    """A page of a list."""
    token = json.loads(base64.b64decode(query["page_token"])) if query.get("page_token") else None
    if token and query.get("filter") and query["filter"] != token["filter"]:
        raise Refused(400, "page token does not match the supplied sort by and/or filtering criteria")
    wanted = query.get("filter") or (token["filter"] if token else "")
    for predicate in json.loads(unquote_plus(wanted))["predicates"] if wanted else []:
        if predicate["key"] not in FIELDS:
            raise Refused(400, f'no support for filtering on unrecognized field "{predicate["key"]}"')
        if predicate["operation"] not in ("EQUALS", 1):
            raise Refused(400, f"invalid predicate operation: {predicate['operation']}")
        value = predicate.get("string_value", predicate.get("stringValue"))
        # As MySQL compares by default: without regard to case.
        entries = [entry for entry in entries if entry[predicate["key"]].lower() == value.lower()]
    size = min(int(query.get("page_size") or 20), 200)
    start = token["start"] if token else 0
    page: Json = {name: entries[start : start + size], "total_size": len(entries)} if entries else {}
    if start + size < len(entries):
        token = {"start": start + size, "filter": wanted}
        page["next_page_token"] = base64.b64encode(json.dumps(token).encode()).decode()
    return page


def _without_empty(value: Any) -> Any:
    """What protojson makes of a message: fields without a value are left out; a run's parameters are values whole."""
    if isinstance(value, dict):
        return {
            key: entry if key == "parameters" else _without_empty(entry)
            for key, entry in value.items()
            if entry not in ("", None, [], False)
        }
    return [_without_empty(entry) for entry in value] if isinstance(value, list) else value


@contextmanager
def running(state: KubeflowApi, certificate: Path | None = None) -> Iterator[KubeflowApi]:
    """The stand-in, answering on a free port while the body runs.

    Args:
        state: The server's state.
        certificate: A file with a key and a certificate for ``localhost``, to answer over TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            state.seen.append((self.command, url.path, headers, body))
            fault = self._fault(f"{self.command} {url.path}")
            if fault and not fault.after:
                self._go_wrong(fault)
                return
            if url.path.startswith("/apis/v1alpha1"):
                self._log(url.path.split("/")[-2])
                return
            try:
                answer, status = state.handle(self.command, url.path, query, body, headers), 200
            except Refused as refused:
                details = {"@type": "type.googleapis.com/google.rpc.Status", "message": refused.message}
                code = CODES[refused.status]
                answer = {
                    "code": code,
                    "message": f"Failed to do this: {refused}",
                    "details": [details | {"code": code}],
                }
                status = refused.status
            if fault:
                self._go_wrong(fault)
                return
            self._send(status, "application/json", json.dumps(answer))

        do_GET = do_POST = do_DELETE = _any  # noqa: N815 (http.server's names)

        def _fault(self, request: str) -> Fault | None:
            with state._lock:
                for fault in state.faults:
                    if fault.times > 0 and re.search(fault.matching, request):
                        fault.times -= 1
                        return fault
            return None

        def _go_wrong(self, fault: Fault) -> None:
            if fault.answer is None:
                self.close_connection = True
                return
            self._send(*fault.answer)

        def _log(self, pod: str) -> None:
            if pod in state.logs:
                self._send(200, "text/plain", state.logs[pod])
            else:
                self._send(200, "text/plain", json.dumps({"error_message": f"Failed to read logs from pod {pod}"}))

        def _send(self, status: int, kind: str, body: str) -> None:
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/dex/auth")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        state.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
