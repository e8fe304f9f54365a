"""What the images hold, what they do not, and who runs in them."""

import json

import pytest

from tripcast import __version__

#: Megabytes, uncompressed and without the base image.
BUDGET = {"pipeline": 750, "serving": 300}

#: What the prediction service has no use for.
NOT_SERVED = ("kfp", "pandas", "sklearn", "scipy", "narwhals", "git", "sqlalchemy", "matplotlib", "flask")


@pytest.fixture(params=["pipeline", "serving", "mlflow"])
def image(request, engine):
    return engine.images.get(f"tripcast/{request.param}:{__version__}")


def inside(engine, image, code: str, user: str | None = None) -> str:
    """What Python prints in a container as strict as a cluster's: no network, nothing writable but /tmp."""
    return engine.containers.run(
        image.id,
        ["-c", code],
        entrypoint="python",
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        user=user,
        remove=True,
        stderr=True,
    ).decode()


def name_of(image) -> str:
    return image.tags[0].partition("/")[2].partition(":")[0]


def test_it_says_what_it_is_and_does_not_run_as_root(image):
    config = image.attrs["Config"]
    labels = config["Labels"]

    assert labels["org.opencontainers.image.version"] == __version__
    assert len(labels["org.opencontainers.image.revision"].removesuffix("+dirty")) == 40
    assert config["User"] == "10001:10001"


def test_it_keeps_to_its_budget(engine, image):
    if (name := name_of(image)) in BUDGET:
        base = next(layer for layer in reversed(image.history()) if layer["Size"])
        assert (image.attrs["Size"] - base["Size"]) / 1e6 <= BUDGET[name]


def test_it_holds_no_installer_no_compiler_and_no_cache(engine, image):
    code = """
import importlib.util, json, shutil
from pathlib import Path
programs = [name for name in ("uv", "gcc", "cc", "make", "git") if shutil.which(name)]
packages = [name for name in ("uv",) if importlib.util.find_spec(name)]
in_environment = [path.name for path in Path("/opt/tripcast").glob("lib/python3*/site-packages/pip-*")]
caches = [str(path) for path in (Path("/root/.cache"), Path("/tmp/.cache"), Path("/build")) if path.exists()]
print(json.dumps(programs + packages + in_environment + caches))
"""
    assert json.loads(inside(engine, image, code, user="root")) == []  # who may look everywhere


def test_its_bytecode_is_compiled(engine, image):
    code = """
from importlib.util import cache_from_source
from pathlib import Path
modules = [path for path in Path("/opt/tripcast").glob("lib/python3*/site-packages/**/*.py")]
bare = [str(path) for path in modules if not Path(cache_from_source(path)).exists()]
print(len(modules), len(bare), *bare[:5])
"""
    modules, bare, *examples = inside(engine, image, code).split()
    assert int(modules) > 1000
    # Templates of code that are no modules, in packages that bring such.
    assert int(bare) < int(modules) / 200, examples


def test_every_module_of_the_project_imports_in_the_pipeline_image(engine):
    code = """
import importlib, pkgutil
import components, pipelines, tripcast
needs_a_keyboard = ("tripcast.cli", "tripcast.serving", "tripcast.taxi.web", "pipelines.")
for package in (tripcast, components):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith(needs_a_keyboard):
            importlib.import_module(module.name)
import alembic, boto3, matplotlib.pyplot, mlflow, optuna, pandas, pyarrow.dataset, scipy.stats, sklearn.linear_model
print("imported")
"""
    assert inside(engine, engine.images.get(f"tripcast/pipeline:{__version__}"), code).endswith("imported\n")


def test_the_serving_image_holds_what_serves_and_no_more(engine):
    code = f"""
import importlib, importlib.util, pkgutil
import tripcast.serving, tripcast.taxi.web
for package in (tripcast.serving, tripcast.taxi.web):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import mlflow.artifacts, pyarrow.dataset, tripcast.cli, tripcast.registry.registry
from zoneinfo import ZoneInfo
ZoneInfo("America/New_York")
print(*[name for name in {NOT_SERVED!r} if importlib.util.find_spec(name)], "imported")
"""
    assert inside(engine, engine.images.get(f"tripcast/serving:{__version__}"), code) == "imported\n"
