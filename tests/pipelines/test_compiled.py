"""The compiled pipelines: up to date, free of installations, and with the policy on every task."""

import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kfp import components

from components.step import IMAGE
from pipelines.compilation import PIPELINES, check_compiled, compile_all
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


def tasks(part: dict) -> list[tuple[str, dict]]:
    """Every task of a pipeline, those within loops and conditions included."""
    dags = [part["root"]["dag"], *(c["dag"] for c in part["components"].values() if "dag" in c)]
    return [(name, task) for dag in dags for name, task in dag["tasks"].items()]


def test_the_committed_pipelines_are_up_to_date():
    assert check_compiled(ROOT / "compiled", IMAGE) == ""


@pytest.mark.parametrize("name", PIPELINES)
def test_the_sdk_loads_what_was_compiled(compiled, name):
    loaded = components.load_component_from_file(str(compiled / f"{name}.yaml"))

    assert loaded.name == name


@pytest.mark.parametrize("name", PIPELINES)
def test_no_task_installs_anything(compiled, name):
    assert "pip install" not in (compiled / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_carries_its_policy(compiled, name):
    pipeline = specification(compiled / f"{name}.yaml")
    executors = pipeline["deploymentSpec"]["executors"]
    steps = [(step, task) for step, task in tasks(pipeline) if step in POLICIES]

    assert {step for step, _ in steps} == {label.removeprefix("exec-") for label in executors}
    for step, task in steps:
        assert task["cachingOptions"].get("enableCache", False) is POLICIES[step].cache
        resources = executors[f"exec-{step}"]["container"]["resources"]
        assert resources["resourceCpuLimit"] == POLICIES[step].cpu
        assert resources["resourceMemoryLimit"] == POLICIES[step].memory


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


@pytest.mark.parametrize(
    ("was", "altered"),
    [("image: tripcast/pipeline", "image: elsewhere/pipeline"), ("executor_main", "another_main")],
)
def test_a_difference_in_image_or_command_is_shown(tmp_path, was, altered):
    (file,) = compile_all(tmp_path, IMAGE)
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
