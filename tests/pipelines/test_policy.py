"""The policy: on every task of every compiled pipeline, on none of those that run on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import List  # noqa: UP035 (kfp knows lists of artifacts only by this name)

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, components, dsl
from kfp.dsl import Artifact, Input, Output
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.step import IMAGE, step
from pipelines.cluster.compilation import PIPELINES, compile_all
from pipelines.local.processes import Processes
from pipelines.local.runner import StepFailed, run_locally
from pipelines.policy import (
    ADDRESSES,
    ALERTS_KEYS,
    ALERTS_SECRET,
    BACKOFF,
    CONFIG_MAP,
    FURTHER_ADDRESSES,
    PARALLELISM,
    POLICIES,
    RETRIES,
    S3_KEYS,
    S3_SECRET,
    SIGNING_KEYS,
    SIGNING_SECRET,
    USER,
    apply_policy,
    policy_of,
)
from tripcast.errors import NO_OTHER_TRY
from tripcast.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder, IMAGE)
    return folder


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def cores(quantity: str) -> float:
    return float(quantity.removesuffix("m")) / 1000 if quantity.endswith("m") else float(quantity)


def mebibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 1024 if quantity.endswith("Gi") else int(quantity.removesuffix("Mi"))


def tasks(specification: dict) -> list[tuple[str, dict]]:
    """Every task of a pipeline, those within loops and conditions among them."""
    dags = [specification["root"]["dag"], *(c["dag"] for c in specification["components"].values() if "dag" in c)]
    return [(name, task) for dag in dags for name, task in dag["tasks"].items()]


def environment(config: dict, kind: str, name: str) -> dict[str, bool]:
    """Environment variables that come from a ConfigMap or a Secret, and whether they may be missing."""
    return {
        entry["envVar"]: source.get("optional", False)
        for source in config.get(f"{kind}AsEnv", ())
        if source[f"{kind}NameParameter"]["runtimeValue"]["constant"] == name
        for entry in source["keyToEnv"]
    }


def lacks(file: Path) -> list[str]:
    """What the tasks of a compiled pipeline lack of their policies, a sentence each."""
    documents = list(yaml.safe_load_all(file.read_text()))
    specification = documents[0]
    platform = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
    configs = platform.get("deploymentSpec", {}).get("executors", {})
    missing = []

    def expect(holds: bool, what: str) -> None:
        if not holds:
            missing.append(f"{file.name}: {name} {what}")

    for name, task in tasks(specification):
        component = specification["components"][task["componentRef"]["name"]]
        if "dag" in component:
            # Loops and conditions are no containers: what is in them has a policy, and they have nothing to cache.
            expect("cachingOptions" not in task, "is no container and states caching")
            expect(
                "iteratorPolicy" not in task or task["iteratorPolicy"] == {"parallelismLimit": PARALLELISM},
                "runs another number of items at a time",
            )
            expect("parameterIterator" not in task or "iteratorPolicy" in task, "does not bound its items at a time")
            continue
        step = task["componentRef"]["name"].removeprefix("comp-").rstrip("-0123456789")
        if step.replace("-", "_") not in POLICIES:
            missing.append(f"{file.name}: {name} has no policy")
            continue
        policy = policy_of(step)
        container = specification["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        config = configs.get(component["executorLabel"], {})
        resources, retry = container.get("resources", {}), task.get("retryPolicy", {})
        variables = {entry["name"]: entry["value"] for entry in container.get("env", ())}
        labels = config.get("podMetadata", {}).get("labels", {})

        expect("cachingOptions" in task, "does not state caching")
        expect(task.get("cachingOptions", {}).get("enableCache", False) is policy.cache, "has another caching")
        expect(resources.get("resourceCpuRequest") == policy.requests.cpu, "requests no CPU")
        expect(resources.get("resourceMemoryRequest") == policy.requests.memory, "requests no memory")
        expect(resources.get("resourceCpuLimit") == policy.limits.cpu, "has no CPU limit")
        expect(resources.get("resourceMemoryLimit") == policy.limits.memory, "has no memory limit")
        expect(retry.get("maxRetryCount", 0) == policy.retries, "is tried another number of times")
        expect(seconds(retry.get("backoffDuration", "0s")) == BACKOFF, "is tried again without a pause")
        timeout = int(config.get("activeDeadlineSeconds", 0))
        expect(timeout == policy.minutes * 60, "has no timeout")
        tries = 1 + policy.retries
        expect(seconds(retry.get("backoffMaxDuration", "0s")) >= tries * timeout, "has no time for its last try")
        expect(config.get("imagePullPolicy") == "IfNotPresent", "has no image pull policy")
        identity = {"runAsUser": str(USER), "runAsGroup": str(USER), "runAsNonRoot": True}
        expect(config.get("securityContext") == identity, "may run as root")
        addresses = dict.fromkeys(ADDRESSES.values(), False) | dict.fromkeys(FURTHER_ADDRESSES.values(), True)
        expect(environment(config, "configMap", CONFIG_MAP) == addresses, "does not know the addresses")
        expect(
            environment(config, "secret", S3_SECRET) == dict.fromkeys(S3_KEYS.values(), True),
            "has no keys of the store",
        )
        webhook = dict.fromkeys(ALERTS_KEYS.values(), True) if policy.alerts else {}
        expect(environment(config, "secret", ALERTS_SECRET) == webhook, "has the webhook, or lacks it")
        key = dict.fromkeys(SIGNING_KEYS.values(), True) if policy.signs else {}
        expect(environment(config, "secret", SIGNING_SECRET) == key, "has the private key, or lacks it")
        expect(variables.get("OMP_NUM_THREADS") == policy.limits.cpu, "starts a thread for each core of the node")
        expect(variables.get("TRIPCAST_IMAGE") == container["image"], "does not know its image")
        expect(labels.get("app.kubernetes.io/part-of") == "tripcast", "is not recognisable")
        expect(labels.get("app.kubernetes.io/name") == step, "does not say which step it is")
        expect(("access-ml-pipeline" in labels) is policy.starts_runs, "may start runs, or may not")
    run = platform.get("pipelineConfig", {})
    if not run.get("activeDeadlineSeconds"):
        missing.append(f"{file.name} lets a run last for ever")
    if not run.get("resourceTtlOnCompletion"):
        missing.append(f"{file.name} keeps what a run left on the cluster for ever")
    return missing


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_carries_its_policy(compiled, name):
    assert lacks(compiled / f"{name}.yaml") == []


def not_opened(file: Path) -> list[str]:
    """Tasks whose lists Kubeflow's launcher cannot download whole, a sentence each.

    It opens the bucket of other runs' artifacts only if the first of an input is one of them. So where a list may have
    its first from this run and another from a cache, an artifact goes beside it from which each of the list is made.

    Source: fetchNonDefaultBuckets in backend/src/v2/component/launcher_v2.go of Kubeflow Pipelines 2.17.
    """
    specification = next(yaml.safe_load_all(file.read_text()))
    components, found = specification["components"], []

    def artifacts(task: dict) -> dict:
        return task.get("inputs", {}).get("artifacts", {})

    for dag in [specification["root"]["dag"], *(c["dag"] for c in components.values() if "dag" in c)]:
        for name, task in dag["tasks"].items():
            inputs = components[task["componentRef"]["name"]].get("inputDefinitions", {}).get("artifacts", {})
            for listed in (key for key, kind in inputs.items() if kind.get("isArtifactList")):
                loop = dag["tasks"][artifacts(task)[listed]["taskOutputArtifact"]["producerTask"]]
                beside = [given for key, given in artifacts(task).items() if key != listed]
                shared = {key for key, given in artifacts(loop).items() if given in beside}
                for made, maker in components[loop["componentRef"]["name"]]["dag"]["tasks"].items():
                    of = {given.get("componentInputArtifact") for given in artifacts(maker).values()}
                    if not of & shared:
                        found.append(f"{name} takes what {made} makes, and nothing that all of it is made from")
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_a_list_of_which_only_the_first_is_new_reaches_its_step(compiled, name):
    assert not_opened(compiled / f"{name}.yaml") == []


@step
def make(item: str, made: Output[Artifact]) -> None: ...


@step
def take(listed: Input[List[Artifact]]) -> None: ...  # noqa: UP006


def test_a_list_of_which_only_the_first_reaches_its_step_is_noticed(tmp_path):
    @dsl.pipeline(name="listing")
    def listing() -> None:
        with dsl.ParallelFor(["a", "b"], name="letters") as letter:
            made = make(item=letter)
        take(listed=dsl.Collected(made.outputs["made"]))

    compiler.Compiler().compile(listing, str(tmp_path / "listing.yaml"))

    assert not_opened(tmp_path / "listing.yaml") == [
        "take takes what make makes, and nothing that all of it is made from"
    ]


@step
def plan(source: str) -> str:
    return source


@step
def hold_a_vote() -> str:
    return "no policy is stated for this step"


def test_a_task_without_its_policy_is_noticed(tmp_path):
    @dsl.pipeline(name="bare")
    def bare() -> None:
        plan(source="tlc")

    compiler.Compiler().compile(bare, str(tmp_path / "bare.yaml"))

    found = lacks(tmp_path / "bare.yaml")
    for sentence in (
        "plan has another caching",
        "plan requests no CPU",
        "plan requests no memory",
        "plan has no CPU limit",
        "plan has no memory limit",
        "plan is tried another number of times",
        "plan is tried again without a pause",
        "plan has no timeout",
        "plan has no image pull policy",
        "plan may run as root",
        "plan does not know the addresses",
        "plan has no keys of the store",
        "plan starts a thread for each core of the node",
        "plan does not know its image",
        "plan is not recognisable",
    ):
        assert f"bare.yaml: {sentence}" in found
    assert "bare.yaml lets a run last for ever" in found
    assert "bare.yaml keeps what a run left on the cluster for ever" in found


def test_one_bare_task_among_others_is_noticed(tmp_path):
    @dsl.pipeline(name="half")
    def half() -> None:
        planned = plan(source="tlc")
        with dsl.ParallelFor(["a", "b"], name="letters") as letter:
            plan(source=letter).after(planned)
        apply_policy(planned)

    compiler.Compiler().compile(half, str(tmp_path / "half.yaml"))

    found = lacks(tmp_path / "half.yaml")
    assert "half.yaml: plan-2 has no timeout" in found
    assert "half.yaml: plan has no timeout" not in found
    assert "half.yaml: for-loop-2 does not bound its items at a time" in found


def test_a_step_without_a_policy_cannot_be_given_one():
    with pytest.raises(KeyError, match="hold_a_vote"):

        @dsl.pipeline(name="voting")
        def voting() -> None:
            apply_policy(hold_a_vote())


def test_only_a_deployment_is_never_tried_again():
    assert [step for step, policy in POLICIES.items() if policy.retries == 0] == ["deploy"]


def test_kubeflow_is_told_which_last_words_end_all_tries():
    patch = yaml.safe_load((DEPLOY / "components" / "workflow-defaults" / "patch.yaml").read_text())
    defaults = yaml.safe_load(patch["data"]["workflowDefaults"])["spec"]["templateDefaults"]

    assert f"!(lastRetry.message contains '{NO_OTHER_TRY}')" in defaults["retryStrategy"]["expression"]


@pytest.mark.parametrize("step", POLICIES)
def test_a_step_is_given_less_than_it_may_use(step):
    policy = POLICIES[step]

    assert cores(policy.requests.cpu) <= cores(policy.limits.cpu)
    assert mebibytes(policy.requests.memory) <= mebibytes(policy.limits.memory)
    assert policy.limits.cpu.isdigit()  # it is a number of threads, too


def test_only_steps_that_start_runs_may_and_only_those_that_alert_know_where():
    assert [step for step, policy in POLICIES.items() if policy.starts_runs] == ["follow_up", "retrain"]
    assert [step for step, policy in POLICIES.items() if policy.alerts] == ["follow_up", "respond"]


def test_the_manifests_give_what_the_steps_ask_for():
    addresses = (DEPLOY / "base" / "config" / "addresses.properties").read_text()
    given = {line.partition("=")[0] for line in addresses.splitlines() if "=" in line and not line.startswith("#")}
    made = subprocess.check_output([sys.executable, DEPLOY / "new_secrets.py", "kubernetes"])
    secrets = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in json.loads(made)["items"]}
    token = yaml.safe_load((DEPLOY / "components" / "run-token" / "pod-default.yaml").read_text())

    assert set(ADDRESSES) <= given
    assert given <= {*ADDRESSES, *FURTHER_ADDRESSES}
    assert ("kubeflow", S3_SECRET) in secrets
    assert token["spec"]["selector"]["matchLabels"] == {"access-ml-pipeline": "true"}


def test_the_addresses_that_steps_are_given_are_those_that_they_read(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for variable in (*ADDRESSES.values(), *FURTHER_ADDRESSES.values()):
        monkeypatch.setenv(variable, f"of {variable}")

    settings = Settings.load()

    assert settings.tracking_uri == "of TRIPCAST_TRACKING_URI"
    assert settings.artifacts == "of TRIPCAST_ARTIFACTS"
    assert settings.service_url == "of TRIPCAST_SERVICE_URL"


def test_no_variable_is_one_that_kubeflow_sets_itself():
    # backend/src/v2/common/plugins/mlflow/handler.go of Kubeflow Pipelines 2.17, RetrieveUserContainerEnvVars.
    plugin = {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_WORKSPACE"}
    given = {
        *ADDRESSES.values(),
        *FURTHER_ADDRESSES.values(),
        *S3_KEYS.values(),
        *ALERTS_KEYS.values(),
        *SIGNING_KEYS.values(),
    }

    assert not given & plugin
    assert not [name for name in given if name.startswith(("KFP_", "MLFLOW_TRACKING_"))]


@pytest.mark.parametrize("name", PIPELINES)
def test_both_documents_are_what_the_schemas_say(compiled, name):
    specification, platform = yaml.safe_load_all((compiled / f"{name}.yaml").read_text())

    parsed = json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    for config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())

    assert parsed.pipeline_info.name == name


@pytest.mark.parametrize("name", PIPELINES)
def test_the_sdk_reads_back_the_platform_that_it_wrote(compiled, name):
    file = compiled / f"{name}.yaml"
    _, platform = yaml.safe_load_all(file.read_text())

    loaded = components.load_component_from_file(str(file))

    assert json_format.MessageToDict(loaded.platform_spec) == platform


@step
def fail_and_count(tries: str) -> str:
    import os
    from pathlib import Path

    with Path(tries).open("a") as file:
        file.write(f"{os.environ.get('TRIPCAST_IMAGE')}\n")
    raise ZeroDivisionError("one by none")


def test_a_failure_on_this_machine_is_reported_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIPCAST_IMAGE", raising=False)

    @dsl.pipeline(name="failing")
    def failing(tries: str) -> None:
        with dsl.If(tries != "", name="given"):
            task = fail_and_count(tries=tries)
        task.set_retry(RETRIES, "600s").set_env_variable("TRIPCAST_IMAGE", IMAGE)

    with pytest.raises(StepFailed, match="one by none"):
        run_locally(failing, {"tries": str(tmp_path / "tries")}, tmp_path, lambda event: None, Processes())

    # Tried once, and as a process of this machine, not of the image.
    assert (tmp_path / "tries").read_text() == "None\n"
    (condition,) = (c for name, c in failing.pipeline_spec.components.items() if name.startswith("comp-condition"))
    assert condition.dag.tasks["fail-and-count"].retry_policy.max_retry_count == RETRIES
