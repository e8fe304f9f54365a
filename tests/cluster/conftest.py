"""A cluster's Kubeflow Pipelines as the command line meets it: a stand-in for its API server, over HTTP."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner, Result

from pipelines.cluster.compilation import compile_all
from pipelines.policy import PARALLELISM
from tests.cluster.kubeflow_api import KubeflowApi, running
from tripcast.cli import main

#: What tells tripcast of a cluster, and who it is there.
ENVIRONMENT = (
    "TRIPCAST_KFP_ENDPOINT",
    "TRIPCAST_KFP_NAMESPACE",
    "KF_PIPELINES_SA_TOKEN_PATH",
    "KF_PIPELINES_TOKEN",
    "KF_PIPELINES_COOKIE",
    "KF_PIPELINES_UI_ENDPOINT",
    "SSL_CERT_FILE",
)


@cache
def _compiled(image: str) -> dict[str, str]:
    with TemporaryDirectory() as scratch:
        return {file.name: file.read_text() for file in compile_all(Path(scratch), image)}


def compile_once(folder: Path, image: str, parallelism: int = PARALLELISM) -> list[Path]:
    """As ``compile_all``, which takes half a second, but once for each image."""
    for name, text in _compiled(image).items():
        (folder / name).write_text(text)
    return [folder / name for name in _compiled(image)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowApi]:
    """A cluster that the environment names, with nothing in it."""
    for name in ENVIRONMENT:
        # Also what a command sets from its options is undone.
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TRIPCAST_COMMIT", "c0ffee" * 6 + "c0ff")
    monkeypatch.setattr("pipelines.cluster.runs.POLL_SECONDS", 0.01)
    monkeypatch.setattr("pipelines.cluster.runs.compile_all", compile_once)
    monkeypatch.setattr("tripcast.kubeflow.single_run._PAUSES", (0.01, 0.01))
    with running(KubeflowApi()) as api:
        monkeypatch.setenv("TRIPCAST_KFP_ENDPOINT", api.url)
        yield api


@pytest.fixture
def tripcast() -> Callable[..., Result]:
    """The command line, in this process."""
    return lambda *arguments: CliRunner().invoke(main, arguments)
