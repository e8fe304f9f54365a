"""Why a run on Kubeflow failed: which step, what it said last, and whether another try would end alike."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from tripcast import errors
from tripcast.errors import ClusterError, TripcastError
from tripcast.kubeflow.client import Client

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


def failure_of(client: Client, namespace: str | None, run: Any, steps: Set[str]) -> Failure:
    """Why a run failed.

    Args:
        client: Asks Kubeflow Pipelines.
        namespace: Where its pods run; None where Kubeflow has not several users.
        run: The run, with its tasks: a ``kfp_server_api.V2beta1Run``.
        steps: The names of its steps: a workflow has other nodes, too.
    """
    if run.state == "CANCELED" or _was_stopped(client, run.run_id):
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
    said = _last_words(client, namespace or "kubeflow", run.run_id, children)
    if said is None:
        return Failure(name, None, tries=tries)
    kind, reason = said
    return Failure(name, reason, getattr(errors, kind, TripcastError).lasting, tries)


def _was_stopped(client: Client, run_id: str) -> bool:
    """Whether somebody stopped a run, of which KFP 2.17 says that it failed.

    It stops a run by a deadline of zero seconds for its workflow (backend/src/common/util/execution_spec.go), and
    only its older API shows workflows.
    """
    try:
        shown = json.loads(client.text(f"/apis/v1beta1/runs/{run_id}", {}))
        workflow = json.loads(shown["pipeline_runtime"]["workflow_manifest"])
    except (ClusterError, ValueError, KeyError):  # an API without the older one
        return False
    return bool(workflow["spec"].get("activeDeadlineSeconds") == 0)


def _last_words(client: Client, namespace: str, run_id: str, nodes: list[str]) -> tuple[str, str] | None:
    """What a failed step said last, read from its log.

    KFP 2.17 tells of a failed task no more than that it failed (kubeflow/pipelines #14007).

    Args:
        client: Asks Kubeflow Pipelines.
        namespace: Where its pods run.
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
                ("/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": namespace}),
            ):
                try:
                    log = client.text(place, query)
                except ClusterError:
                    continue
                if said := _EXPECTED_ERROR.findall(log):
                    kind, sentence = said[-1]
                    return str(kind), str(sentence)
    return None
