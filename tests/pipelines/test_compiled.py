"""The compiled pipelines: up to date, free of installations, described, and as Kubernetes objects."""

import ast
import importlib
import re
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kfp import components

from components.step import IMAGE
from pipelines.cluster.compilation import PIPELINES, check_compiled, compile_all
from pipelines.policy import POLICIES
from tripcast.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder, IMAGE)
    return folder


def specification(file: Path) -> dict:
    return next(yaml.safe_load_all(file.read_text()))


def test_the_committed_pipelines_are_up_to_date():
    assert check_compiled(ROOT / "compiled", IMAGE) == ""


@pytest.mark.parametrize("name", PIPELINES)
def test_the_sdk_loads_what_was_compiled(compiled, name):
    loaded = components.load_component_from_file(str(compiled / f"{name}.yaml"))

    assert loaded.name == name


@pytest.mark.parametrize("name", PIPELINES)
def test_dictionaries_are_written_in_an_order_that_every_process_has(compiled, name):
    head = re.findall(r"^#.*\[Default: (\{.*\})\]$", (compiled / f"{name}.yaml").read_text(), re.MULTILINE)
    inputs = specification(compiled / f"{name}.yaml")["root"]["inputDefinitions"]["parameters"].values()

    assert len(head) == sum(definition["parameterType"] == "STRUCT" for definition in inputs)
    for text in head:
        assert list(ast.literal_eval(text)) == sorted(ast.literal_eval(text))


@pytest.mark.parametrize("name", PIPELINES)
def test_no_task_installs_anything(compiled, name):
    assert "pip install" not in (compiled / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_described(compiled, name):
    pipeline = specification(compiled / f"{name}.yaml")

    for parameter, definition in pipeline["root"]["inputDefinitions"]["parameters"].items():
        assert definition.get("description"), parameter
        assert "defaultValue" in definition, parameter


def test_another_image_is_written_into_every_task(tmp_path):
    result = CliRunner().invoke(
        main, ["compile", "--image", "registry.example/tripcast@sha256:ab", "--output", str(tmp_path)]
    )

    assert result.exit_code == 0
    executors = specification(tmp_path / "training.yaml")["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {
        "registry.example/tripcast@sha256:ab"
    }
    assert IMAGE not in (tmp_path / "training.yaml").read_text()  # nor is a step told that it is another one


@pytest.mark.parametrize(
    ("was", "altered"),
    [("image: tripcast/pipeline", "image: elsewhere/pipeline"), ("executor_main", "another_main")],
)
def test_a_difference_in_image_or_command_is_shown(tmp_path, was, altered):
    file = compile_all(tmp_path, IMAGE)[0]
    file.write_text(file.read_text().replace(was, altered, 1))

    result = CliRunner().invoke(main, ["compile", "--check", "--output", str(tmp_path)])

    assert result.exit_code == 1
    assert f"-{' ' * 8}image: elsewhere" in result.stdout or altered in result.stdout
    assert was in result.stdout


def test_a_compiled_file_without_a_pipeline_is_shown(tmp_path):
    compile_all(tmp_path, IMAGE)
    (tmp_path / "stray.yaml").write_text("name: stray\n")

    assert "-name: stray" in check_compiled(tmp_path, IMAGE)


def test_steps_do_not_import_what_their_start_does_not_need():
    # Whatever `import tripcast` drags in, every step pays for.
    import subprocess

    code = "import sys, tripcast.errors, tripcast.months, tripcast.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"pandas", "pyarrow", "mlflow", "sklearn", "lightgbm", "matplotlib"} & set(loaded)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    command = ["compile", "--manifests", "--namespace", "kubeflow-team", "--output", str(folder)]
    result = CliRunner().invoke(main, command, env={"TRIPCAST_COMMIT": f"{'c0ffee' * 6}abcd+dirty"})
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("name", PIPELINES)
def test_a_manifest_holds_what_was_compiled(compiled, manifests, name):
    pipeline, version = yaml.safe_load_all((manifests / f"{name}.yaml").read_text())
    spec, platform = yaml.safe_load_all((compiled / f"{name}.yaml").read_text())

    assert pipeline["apiVersion"] == version["apiVersion"] == "pipelines.kubeflow.org/v2beta1"
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == f"tripcast-{name}"
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform
    assert {document["metadata"]["namespace"] for document in (pipeline, version)} == {"kubeflow-team"}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_manifests_version_is_named_by_commit_and_content_as_an_uploaded_one(compiled, manifests, name):
    _, version = yaml.safe_load_all((manifests / f"{name}.yaml").read_text())
    content = sha256((compiled / f"{name}.yaml").read_bytes()).hexdigest()[:8]

    assert version["spec"]["versionName"] == version["spec"]["displayName"] == f"c0ffeec0ffee-dirty-{content}"
    # The name that Kubeflow's API server would give the object.
    assert version["metadata"]["name"] == f"tripcast-{name}-c0ffeec0ffee-dirty-{content}"
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", version["metadata"]["name"])


def test_manifests_name_the_image_and_get_another_version_by_it(tmp_path):
    names = []
    for image in (IMAGE, "registry.example/tripcast@sha256:ab"):
        result = CliRunner().invoke(main, ["compile", "--manifests", "--image", image, "--output", str(tmp_path)])
        assert result.exit_code == 0
        _, version = yaml.safe_load_all((tmp_path / "training.yaml").read_text())
        executors = version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"].values()
        assert {executor["container"]["image"] for executor in executors} == {image}
        names.append(version["metadata"]["name"])

    assert names[0] != names[1]


def test_manifests_cannot_be_checked():
    result = CliRunner().invoke(main, ["compile", "--manifests", "--check"])

    assert result.exit_code == 2
    assert "--manifests" in result.output


def components_of(file: Path) -> dict[str, dict]:
    return {name: part for name, part in specification(file)["components"].items() if "executorLabel" in part}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_input_of_every_step_is_described(compiled, name):
    for component, part in components_of(compiled / f"{name}.yaml").items():
        for kind in ("parameters", "artifacts"):
            for key, definition in part.get("inputDefinitions", {}).get(kind, {}).items():
                assert definition.get("description"), f"{component}: {key}"


@pytest.mark.parametrize("name", PIPELINES)
def test_every_artifact_has_a_type_that_the_user_interface_knows(compiled, name):
    known = {f"system.{kind}" for kind in ("Artifact", "Dataset", "HTML", "Markdown", "Metrics", "Model")}
    for component, part in components_of(compiled / f"{name}.yaml").items():
        for side in ("inputDefinitions", "outputDefinitions"):
            for key, definition in part.get(side, {}).get("artifacts", {}).items():
                assert definition["artifactType"]["schemaTitle"] in known, f"{component}: {key}"
                # What people look at is shown as a page, a table or figures, not offered as a file.
                shown = {"report": "system.HTML", "summary": "system.Markdown", "metrics": "system.Metrics"}
                assert definition["artifactType"]["schemaTitle"] == shown.get(
                    key, definition["artifactType"]["schemaTitle"]
                )


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_and_every_step_say_what_they_do(compiled, name):
    pipeline = specification(compiled / f"{name}.yaml")

    assert pipeline["pipelineInfo"]["description"].endswith(".")
    for executor in pipeline["deploymentSpec"]["executors"].values():
        (docstring,) = re.findall(r'"""(.+?)"""', executor["container"]["command"][-1], re.DOTALL)
        assert docstring.partition("\n")[0].endswith((".", "?"))


@pytest.mark.parametrize("step", POLICIES)
def test_every_artifact_that_a_step_makes_is_described(step):
    """kfp drops the descriptions of outputs when it compiles: they are read from the steps themselves."""
    component = getattr(importlib.import_module(f"components.{step}"), step)

    described = set(re.findall(r"^\s+(\w+): \S", component.python_func.__doc__, re.MULTILINE))

    assert set(component.component_spec.outputs or ()) - {"Output"} <= described


def test_the_months_worked_on_at_a_time_are_a_parameter_of_compiling(tmp_path):
    result = CliRunner().invoke(main, ["compile", "--parallelism", "9", "--output", str(tmp_path)])

    assert result.exit_code == 0, result.output
    loops = {
        (file.stem, name): task["iteratorPolicy"]["parallelismLimit"]
        for file in tmp_path.glob("*.yaml")
        for name, task in next(yaml.safe_load_all(file.read_text()))["root"]["dag"]["tasks"].items()
        if "iteratorPolicy" in task
    }
    assert len(loops) == 3
    assert set(loops.values()) == {9}
