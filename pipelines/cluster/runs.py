"""A run on a cluster: what a pipeline is called there, what it is given, and how a person follows it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped, unused-ignore]
from kfp.dsl.graph_component import GraphComponent

from pipelines.cluster.compilation import PIPELINES, compile_all, version_name
from pipelines.policy import PARALLELISM, policy_of
from pipelines.progress import StepEvent
from tripcast.errors import ClusterError, ClusterUnreachable, InvalidRequest
from tripcast.kubeflow import Kubeflow, step_names
from tripcast.settings import Settings
from tripcast.taxi import model_name

#: Seconds between two looks at a run.
POLL_SECONDS = 5.0

#: Seconds for which a run is not given up while Kubeflow Pipelines does not answer, and the longest pause meanwhile.
PATIENCE_SECONDS = 600.0
LONGEST_PAUSE_SECONDS = 60.0

#: What kfp's types take from a command line.
_TYPES: dict[str, type] = {"String": str, "Integer": int, "Float": float, "Boolean": bool, "List": list, "Dict": dict}

#: What is told of a task in one of Kubeflow Pipelines' states; of the others, nothing.
_STATES: dict[str, Literal["started", "succeeded", "failed"]] = {
    "RUNNING": "started",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "failed",
}


@dataclass(frozen=True)
class Uploaded:
    """A version of a pipeline on a cluster.

    Attributes:
        pipeline: The pipeline's name there: ``tripcast-training``.
        version: The version's name: the commit, ``dirty`` if the work tree differed from it, and a hash of the
            compiled pipeline. So nothing that differs has one name: not another image, not another work tree.
        ids: The ids of both.
        new: Whether it was uploaded just now.
    """

    pipeline: str
    version: str
    ids: tuple[str, str]
    new: bool


def find_pipeline(name: str) -> GraphComponent:
    """A pipeline of this project.

    Raises:
        InvalidRequest: If it has none of this name.
    """
    if name not in PIPELINES:
        raise InvalidRequest(f"There is no pipeline '{name}'. There are: {', '.join(PIPELINES)}.")
    return PIPELINES[name]


def read_arguments(pipeline: str, given: Sequence[str]) -> dict[str, Any]:
    """A pipeline's parameters as its own types, from what a person writes.

    Args:
        pipeline: The pipeline's name.
        given: ``name=value`` each. A list is ``a,b`` or JSON, a dictionary is JSON.

    Returns:
        All of the pipeline's parameters, those that were not given with their defaults: so that what a run was given
        can be read from the run.

    Raises:
        InvalidRequest: If there is no such parameter, a value is not of its type, or one without a default is missing.
    """
    inputs = find_pipeline(pipeline).component_spec.inputs or {}
    known = ", ".join(f"{name} ({spec.type})" for name, spec in inputs.items())
    arguments = {name: spec.default for name, spec in inputs.items() if spec.optional}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"'{text}' is no parameter: write name=value. '{pipeline}' takes: {known}.")
        if name not in inputs:
            raise InvalidRequest(f"The pipeline '{pipeline}' has no parameter '{name}'. It takes: {known}.")
        arguments[name] = _read(name, value, inputs[name].type)
    missing = [name for name in inputs if name not in arguments]
    if missing:
        raise InvalidRequest(f"The pipeline '{pipeline}' needs {', '.join(missing)}: give --param {missing[0]}=...")
    return arguments


def _read(name: str, value: str, kfp_type: str) -> Any:
    wanted = _TYPES[kfp_type.partition("[")[0]]
    if wanted is str:
        return value
    if wanted is list and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.json.decode(value, type=wanted)
    except msgspec.MsgspecError:
        raise InvalidRequest(f"'{value}' is no value for the parameter '{name}': it is of type {kfp_type}.") from None


def read_cron(cron: str) -> str:
    """A schedule as Kubeflow Pipelines takes it: with the seconds first, and without them it takes minutes for them.

    Args:
        cron: Five fields as cron has them, six with the seconds first, or a word as ``@monthly``.

    Raises:
        InvalidRequest: If it is none of them. What is in the fields is judged by Kubeflow Pipelines.

    Source:
        https://pkg.go.dev/github.com/robfig/cron, which it reads schedules with.
    """
    fields = cron.split()
    if len(fields) == 1 and fields[0].startswith("@"):
        return fields[0]
    if len(fields) not in (5, 6):
        raise InvalidRequest(
            f"'{cron}' is no schedule: write five fields (minute, hour, day, month, weekday), as '0 6 * * 1'."
        )
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def experiment_of(arguments: Mapping[str, Any]) -> str:
    """The experiment that a run belongs to: one for each kind of taxis, as the registered models."""
    return model_name(str(arguments.get("taxi", "green")))


def describe_run(pipeline: str, arguments: Mapping[str, Any]) -> str:
    """A run's name as a person recognises it: ``training green 2021-01..2021-02 -> 2021-03``."""
    months = (arguments.get(name) for name in ("train_months", "months", "month"))
    words = [pipeline, arguments.get("taxi"), *months]
    if arguments.get("test_month"):
        words += ["->", arguments["test_month"]]
    return " ".join(str(word) for word in words if word)


def upload(
    kubeflow: Kubeflow, names: Collection[str], image: str, settings: Settings, parallelism: int = PARALLELISM
) -> list[Uploaded]:
    """Make versions of pipelines on a cluster, from this code, unless they are there.

    Args:
        kubeflow: The cluster.
        names: Which pipelines.
        image: The container image of the steps.
        settings: For the commit.
        parallelism: How many months, or candidates, are worked on at a time.

    Raises:
        ClusterError: If Kubeflow Pipelines does not answer or refuses.
    """
    uploaded = []
    with TemporaryDirectory() as scratch:
        for file in compile_all(Path(scratch), image, parallelism):
            if file.stem not in names:
                continue
            pipeline = f"tripcast-{file.stem}"
            version = version_name(file, settings.commit)
            description = f"Commit {settings.commit}. Steps run in {image}."
            pipeline_id, version_id, new = kubeflow.upload(pipeline, version, file, description)
            uploaded.append(Uploaded(pipeline, version, (pipeline_id, version_id), new))
    return uploaded


def follow(
    kubeflow: Kubeflow,
    run_id: str,
    pipeline: str,
    notify: Callable[[StepEvent], None],
    say: Callable[[str], None],
) -> None:
    """Wait for the end of a run.

    Args:
        kubeflow: The cluster.
        run_id: The run.
        pipeline: The pipeline's name; says which of the workflow's nodes are steps.
        notify: Called with everything that happens to a step.
        say: Called with a sentence when the connection is lost, and when it is back.

    Raises:
        ClusterError: If the run did not succeed, or the cluster refuses to tell.
        ClusterUnreachable: If the connection was lost for ten minutes; the run goes on.
    """
    steps = step_names(MessageToDict(find_pipeline(pipeline).pipeline_spec))
    link = kubeflow.link("runs", "details", run_id)
    told: dict[str, str] = {}
    lost: float | None = None
    pause = POLL_SECONDS
    while True:
        try:
            run = kubeflow.run(run_id)
        except ClusterError as error:
            now = time.monotonic()
            lost = lost or now
            expired = error.status == 401 and kubeflow.renews_token
            if not (isinstance(error, ClusterUnreachable) or error.status == 500 or expired):
                raise ClusterError(f"{error} The run goes on: {link}", error.status) from error
            if now - lost > PATIENCE_SECONDS:
                raise ClusterUnreachable(
                    f"{error} It was asked for {now - lost:.0f} s. The run goes on: {link}"
                ) from error
            say(f"{error} Trying again in {pause:.0f} s; the run goes on.")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            continue
        if lost:
            say("Kubeflow Pipelines answers again.")
            lost, pause = None, POLL_SECONDS
        tasks = (run.run_details and run.run_details.task_details) or []
        for event in _events(tasks, steps):
            if told.get(event.label) != event.state:
                told[event.label] = event.state
                notify(event)
        if run.state == "SUCCEEDED":
            return
        if run.state in ("FAILED", "CANCELED"):
            raise ClusterError(f"{_failure(kubeflow, run, steps)} The run: {link}")
        time.sleep(pause)


def _events(tasks: Sequence[Any], steps: set[str]) -> list[StepEvent]:
    """What is to be told of the steps. A step that fans out has several tasks of one name, which are numbered."""
    seen: defaultdict[str, int] = defaultdict(int)
    events = []
    # Other nodes of the workflow are drivers, loops, and the pods of the steps.
    shown = [task for task in tasks if task.display_name in steps and task.state in _STATES]
    for task in sorted(shown, key=lambda task: (task.start_time, task.task_id)):
        seen[task.display_name] += 1
        number = seen[task.display_name]
        label = task.display_name if number == 1 else f"{task.display_name} {number}"
        # What has not ended ends in 1970.
        seconds = max(0.0, (task.end_time - task.start_time).total_seconds())
        events.append(StepEvent(task.display_name, label, _STATES[task.state], seconds))
    return events


def _failure(kubeflow: Kubeflow, run: Any, steps: set[str]) -> str:
    """Why a run failed, and whether the policy of retries holds there."""
    failure = kubeflow.failure(run, steps)
    if failure.step is None or failure.lasting or failure.tries != 1 or not policy_of(failure.step).retries:
        return str(failure)
    return (
        f"{failure} It was tried once: this Kubeflow overrules the retries of tripcast's steps "
        "(docs/kubernetes.md, 'Retries and lifetimes'). Start the run again: what is finished comes from the cache."
    )
