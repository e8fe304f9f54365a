"""Every command of the compiled pipelines, run in the image as a cluster runs it, without a cluster or kfp's runner.

Kubeflow Pipelines has a driver, which gives a task its inputs, and a launcher, which is the first process of the step's
container: it fetches the input artifacts, replaces ``{{$}}`` by the executor input, runs the command, and keeps what
the step left. Both are played here, from the compiled files alone (backend/src/v2/driver/driver.go and
backend/src/v2/component/launcher_v2.go of Kubeflow Pipelines 2.17); pods, and the API that starts them, are not.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import yaml

from components.step import IMAGE
from pipelines.cluster.compilation import PIPELINES, compile_all
from pipelines.local.backend import as_protojson_writes, check_metadata

CITY = "simulated?trips=4000&seed=7"
TAXI = "yellow"  # nobody else's here: its registry is empty
REQUESTS = {
    "training": {"train_months": "2021-01", "test_month": "2021-02"},
    "scoring": {"months": "2021-02..2021-03"},
    "monitoring": {"month": "2021-03"},
}

#: Where the launcher puts the objects of a bucket named `minio://`.
MOUNT = "/minio"
ROOT = "minio://mlpipeline/v2/artifacts"


@dataclass
class Task:
    """A task that ran: of which step, and what it left."""

    step: str
    parameters: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]
    log: str


@dataclass
class Cluster:
    """What stands in for Kubeflow Pipelines: a bucket of artifacts, and a container for each task."""

    engine: Any
    folder: Path
    config_maps: dict[str, dict[str, str]]
    secrets: dict[str, dict[str, str]]
    ran: dict[str, list[Task]] = field(default_factory=dict)

    def run(self, file: Path, arguments: dict[str, Any], follow_every_branch: bool = False) -> list[Task]:
        """Run a compiled pipeline; gives its tasks in the order in which they ran."""
        self._specification, platform = yaml.safe_load_all(file.read_text())
        self._configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self._run_id, self._follow_every_branch = str(uuid.uuid4()), follow_every_branch
        self._tasks: list[Task] = []
        root = self._specification["root"]
        inputs = root["inputDefinitions"]["parameters"]
        defaults = {name: definition["defaultValue"] for name, definition in inputs.items()}
        self._run_dag(root, {**defaults, **arguments}, {})
        self.ran[file.stem] = self._tasks
        return self._tasks

    def object(self, artifact: dict[str, Any]) -> Path:
        """Where the file or folder of an artifact is kept."""
        return self.folder / "bucket" / artifact["uri"].removeprefix("minio://")

    # The driver: which tasks, in which order, with which inputs.

    def _run_dag(self, component: dict, parameters: dict[str, Any], artifacts: dict[str, list]) -> dict[str, Any]:
        """Run the tasks of a graph; gives its outputs by name."""
        dag, done, waiting = component["dag"], {}, dict(component["dag"]["tasks"])
        while waiting:
            ready = [name for name, task in waiting.items() if not set(task.get("dependentTasks", ())) & waiting.keys()]
            assert ready, f"These tasks wait for each other: {sorted(waiting)}"
            for name in ready:
                done[name] = self._run_task(name, waiting.pop(name), parameters, artifacts, done)
        selectors = dag.get("outputs", {}).get("artifacts", {})
        return {
            output: done[chosen["producerSubtask"]][chosen["outputArtifactKey"]]
            for output, selector in selectors.items()
            for chosen in selector["artifactSelectors"]
        }

    def _run_task(
        self, name: str, task: dict, parameters: dict[str, Any], artifacts: dict[str, list], done: dict[str, Any]
    ) -> dict[str, Any]:
        component = self._specification["components"][task["componentRef"]["name"]]
        sources = task.get("inputs", {})
        given = {
            key: self._parameter(source, parameters, done) for key, source in sources.get("parameters", {}).items()
        }
        files = {key: _artifacts(source, artifacts, done) for key, source in sources.get("artifacts", {}).items()}
        if "dag" not in component:
            return self._run_container(name, component, given, files)
        if "parameterIterator" in task:
            iterator = task["parameterIterator"]
            items = given[iterator["items"]["inputParameter"]]
            runs = [self._run_dag(component, {**given, iterator["itemInput"]: item}, files) for item in items]
            return {key: [one for run in runs for one in run[key]] for key in (runs[0] if runs else ())}
        if self._follow_every_branch or _holds(task["triggerPolicy"]["condition"], given):
            return self._run_dag(component, given, files)
        return {}

    def _parameter(self, source: dict, parameters: dict[str, Any], done: dict[str, Any]) -> Any:
        if "runtimeValue" in source:
            constant = source["runtimeValue"]["constant"]
            return self._run_id if constant == "{{$.pipeline_job_uuid}}" else constant
        if "taskOutputParameter" in source:
            produced = source["taskOutputParameter"]
            return done[produced["producerTask"]][produced["outputParameterKey"]]
        value = parameters[source["componentInputParameter"]]
        if selector := source.get("parameterExpressionSelector"):
            (name,) = re.findall(r'^parseJson\(string_value\)\["(\w+)"\]$', selector)
            return value[name]
        return value

    # The launcher: one container.

    def _run_container(self, name: str, component: dict, parameters: dict, artifacts: dict) -> dict[str, Any]:
        label = component["executorLabel"]
        container = self._specification["deploymentSpec"]["executors"][label]["container"]
        place = f"{ROOT}/{self._specification['pipelineInfo']['name']}/{self._run_id}/{name}/{uuid.uuid4()}"
        outputs = component.get("outputDefinitions", {})
        kinds = {"executor-logs": {"schemaTitle": "system.Artifact"}} | {
            key: definition["artifactType"] for key, definition in outputs.get("artifacts", {}).items()
        }
        made = {
            key: {"name": key, "type": kind, "uri": f"{place}/{key}", "metadata": {}} for key, kind in kinds.items()
        }
        executor_input = {
            "inputs": {
                "parameterValues": as_protojson_writes(parameters),
                "artifacts": {key: {"artifacts": as_protojson_writes(entries)} for key, entries in artifacts.items()},
            },
            "outputs": {
                "parameters": {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": {key: {"artifacts": [entry]} for key, entry in made.items()},
                "outputFile": f"{_local(place)}/output_metadata.json",
            },
        }
        scratch = self.folder / "scratch" / name / uuid.uuid4().hex
        for entry in (one for entries in artifacts.values() for one in entries):
            _copy_files(self.object(entry), scratch / entry["uri"].removeprefix("minio://"))
        task_root = scratch / place.removeprefix("minio://")
        task_root.mkdir(parents=True)
        for path in (scratch, *scratch.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o444)  # as the launcher, who is the step's user, may write there

        log = self._execute(label, container, json.dumps(executor_input), scratch)

        written = json.loads((task_root / "output_metadata.json").read_text())
        check_metadata(written)
        for key, produced in written.get("artifacts", {}).items():
            made[key] |= {
                part: value for part, value in produced["artifacts"][0].items() if part in ("uri", "metadata")
            }
        for key in kinds.keys() - {"executor-logs"}:
            _copy_files(task_root / key, self.object(made[key]))
        values = written.get("parameterValues", {})
        step = component["executorLabel"].removeprefix("exec-")
        self._tasks.append(Task(step, values, made, log))
        return {**values, **{key: [entry] for key, entry in made.items()}}

    def _execute(self, label: str, container: dict, executor_input: str, scratch: Path) -> str:
        """Run a task's command as the pod that its platform configuration describes; gives its log."""
        config = self._configs[label]
        command = [part.replace("{{$}}", executor_input) for part in [*container["command"], *container["args"]]]
        environment = {
            "KFP_POD_NAME": f"{label}-pod",
            "KFP_POD_UID": str(uuid.uuid4()),
            **{entry["name"]: entry["value"] for entry in container["env"]},
            **_from_objects(config["configMapAsEnv"], "configMap", self.config_maps),
            **_from_objects(config["secretAsEnv"], "secret", self.secrets),
        }
        user = config["securityContext"]
        limits = container["resources"]
        running = self.engine.containers.create(
            container["image"],
            command[1:],
            entrypoint=command[0],
            environment=environment,
            user=f"{user['runAsUser']}:{user['runAsGroup']}",
            volumes={str(scratch): {"bind": MOUNT, "mode": "rw"}},
            tmpfs={"/tmp": "mode=1777", "/tmp/kfp/outputs": "mode=1777"},
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="host",
            mem_limit=limits["resourceMemoryLimit"].lower().removesuffix("i"),
            nano_cpus=int(min(float(limits["resourceCpuLimit"]), os.cpu_count() or 1) * 1e9),
            log_config={"type": "json-file"},
        )
        try:
            running.start()
            code = running.wait(timeout=int(config["activeDeadlineSeconds"]))["StatusCode"]
            log = running.logs().decode()
        finally:
            running.remove(force=True, v=True)
        assert code == 0, f"{label} ended with {code}:\n{log[-4000:]}"
        return log


def _artifacts(source: dict, artifacts: dict[str, list], done: dict[str, Any]) -> list[dict[str, Any]]:
    if "taskOutputArtifact" in source:
        produced = source["taskOutputArtifact"]
        return done[produced["producerTask"]][produced["outputArtifactKey"]]
    return artifacts[source["componentInputArtifact"]]


def _holds(condition: str, parameters: dict[str, Any]) -> bool:
    (name, operator, value) = re.findall(r"^inputs\.parameter_values\['(.+)'\]\s+(==|!=)\s+(.+)$", condition)[0]
    expected = {"true": True, "false": False}.get(value, value.strip("'"))
    return (parameters[name] == expected) is (operator == "==")


def _local(uri: str) -> str:
    return uri.replace("minio:/", MOUNT, 1)


def _copy_files(source: Path, target: Path) -> None:
    """Copy as an object store does, which knows files and no empty folders."""
    for file in [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]:
        place = target / file.relative_to(source) if file != source else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


def _from_objects(entries: list[dict], kind: str, objects: dict[str, dict[str, str]]) -> dict[str, str]:
    """Environment variables from ConfigMaps or Secrets. Without one that has to be there a pod would not start."""
    variables = {}
    for entry in entries:
        name = entry[f"{kind}NameParameter"]["runtimeValue"]["constant"]
        for pair in entry["keyToEnv"]:
            value = objects.get(name, {}).get(pair[f"{kind}Key"])
            assert value or entry["optional"], f"{kind} {name} has no {pair}"
            if value:
                variables[pair["envVar"]] = value
    return variables


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder, IMAGE)
    return folder


@pytest.fixture(scope="module")
def cluster(compiled, engine, running_stack, tmp_path_factory) -> Iterator[Cluster]:
    """Every pipeline has run: training, then those that need a model that serves."""
    environment = running_stack.environment()
    secret = {name: environment.pop(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    pages = {"TRIPCAST_KFP_UI": "http://localhost:8888", "TRIPCAST_MLFLOW_UI": "http://localhost:5000"}
    cluster = Cluster(
        engine,
        tmp_path_factory.mktemp("cluster"),
        config_maps={"tripcast": {**environment, **pages}},
        secrets={"tripcast-s3": secret},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running_stack.environment().items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        for name in [name for name in REQUESTS if name in PIPELINES]:
            request = {"source": CITY, "taxi": TAXI, **REQUESTS[name]}
            cluster.run(compiled / f"{name}.yaml", request, follow_every_branch=name != "training")
        yield cluster


def tasks(cluster: Cluster, pipeline: str, step: str) -> list[Task]:
    return [task for task in cluster.ran[pipeline] if task.step == step]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_command_of_every_pipeline_runs_in_the_image(cluster, compiled, name):
    executors = next(yaml.safe_load_all((compiled / f"{name}.yaml").read_text()))["deploymentSpec"]["executors"]

    assert {f"exec-{task.step}" for task in cluster.ran[name]} == set(executors)
    assert not [task.log for task in cluster.ran[name] if "Read-only file system" in task.log]


def test_each_step_is_given_what_the_one_before_left(cluster):
    assert [task.step for task in cluster.ran["training"]] == [
        "plan",
        "specify",
        "ingest",
        "ingest",
        "validate",
        "train",
        "train",
        "evaluate",
        "register",
        "deploy",
    ]
    (planned,) = tasks(cluster, "training", "plan")
    assert [item["month"] for item in planned.parameters["Output"]] == ["2021-01", "2021-02"]
    (evaluated,) = tasks(cluster, "training", "evaluate")
    assert evaluated.parameters["Output"] is True
    assert "lightgbm" in cluster.object(evaluated.artifacts["report"]).read_text()
    assert (cluster.object(evaluated.artifacts["winner"]) / "manifest.json").is_file()


def test_what_the_commands_made_is_in_the_registry(cluster):
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (registered,) = tasks(cluster, "training", "register")

    champion = client.get_model_version_by_alias(f"tripcast-{TAXI}", "champion")

    assert int(champion.version) == registered.parameters["Output"]
    assert champion.tags["tripcast.image"] == IMAGE
    assert champion.tags["tripcast.digest"]


def test_the_mlflow_run_and_the_pipeline_run_lead_to_each_other(cluster):
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (evaluated,) = tasks(cluster, "training", "evaluate")
    decision = json.loads(cluster.object(evaluated.artifacts["decision"]).read_text())
    run = client.get_run(decision["run_id"])
    pipeline_run = evaluated.artifacts["decision"]["uri"].removeprefix(f"{ROOT}/training/").partition("/")[0]
    page = f"http://localhost:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    assert run.data.tags["kfp.pipeline_run_id"] == pipeline_run
    assert run.data.tags["kfp.pipeline_run_url"] == f"http://localhost:8888/#/runs/details/{pipeline_run}"
    assert page in cluster.object(evaluated.artifacts["report"]).read_text()
    assert page in cluster.object(evaluated.artifacts["summary"]).read_text()
    assert evaluated.artifacts["winner"]["metadata"]["mlflow_run"].startswith("http://localhost:5000/#/experiments/")
