"""Steps as containers of this machine's Docker: what a cluster runs, without a cluster.

kfp's own way of running them takes a container that ends at once for a success (kubeflow/pipelines issue 13332: Docker
removes it before its exit code is read). Here the exit code is read first, then the container is removed.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
from docker import DockerClient
from docker.models.containers import Container
from kfp import local
from kfp.local import docker_task_handler

from pipelines.local.processes import THREADS
from pipelines.local.runner import LineHandler, RunStep
from tripcast.errors import InvalidRequest
from tripcast.settings import Settings

#: Label of the containers of a run.
_LABEL = "tripcast.run"

#: The user of the images (docker/Dockerfile): runs the steps where the person at the keyboard is root.
_IMAGE_USER = 10001

#: What a step learns of the environment: where the stores are, and with what credentials.
_PASSED_ON = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|REGION|DEFAULT_REGION|ENDPOINT_URL(_S3)?)|MLFLOW_\w+"
    r"|TRIPCAST_(?!ADMIN_TOKEN)\w+|OMP_NUM_THREADS|(HTTPS?|NO)_PROXY|(https?|no)_proxy"
)


class Containers:
    """Runs each step in a container of its own: not as root, with a read-only file system and no capabilities.

    The home, the run's folder and any further folders are mounted at their own paths, so that a path means the same in
    a step as it does outside. Containers share this machine's network: an endpoint on localhost is there for them, too.

    Args:
        settings: Where the home is.
        folders: Further folders that steps read, for example a source of months.
        network: Docker's name of the network of the steps.
    """

    def __init__(self, settings: Settings, folders: Sequence[Path] = (), network: str = "host") -> None:
        self._home = settings.home
        self._folders = folders
        self._network = network
        self._root = settings.runs
        self.name = uuid.uuid4().hex
        self._stopped = False
        # A signal's handler runs in a thread that may hold it already.
        self._lock = threading.RLock()

    def prepare(self, root: Path) -> None:
        """Make sure that Docker answers, and that steps will be able to write to the home and to the runs' folder.

        Raises:
            InvalidRequest: If Docker does not answer.
        """
        with _docker():
            pass
        self._home.mkdir(parents=True, exist_ok=True)
        self._root = root
        _chown_to_image_user([self._home, *self._home.rglob("*"), root])

    def kfp_runner(self) -> local.DockerRunner:
        """What kfp is to be initialised with."""
        return local.DockerRunner()

    @contextlib.contextmanager
    def patched_kfp(self, run_step: RunStep, scratch: Path) -> Iterator[None]:
        """Start steps here while the body runs, not in kfp's private function of the same signature.

        Raises:
            InvalidRequest: If the steps' image is neither here nor to be pulled.
        """
        temporary = scratch / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)

        def replacement(
            client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **rest: Any
        ) -> int:
            binds = {**volumes, str(self._home): {"bind": str(self._home), "mode": "rw"}}
            binds |= {str(folder): {"bind": str(folder), "mode": "ro"} for folder in self._folders}
            binds[str(temporary)] = {"bind": "/tmp", "mode": "rw"}
            environment = rest.get("environment", {})

            def execute(folder: Path, say: LineHandler) -> int:
                _chown_to_image_user(path for path in (folder, *folder.parents) if path.is_relative_to(self._root))
                return self._execute(client, image, command, binds, environment, say)

            return run_step(command, execute)

        original = docker_task_handler.run_docker_container
        docker_task_handler.run_docker_container = replacement
        try:
            yield
        finally:
            docker_task_handler.run_docker_container = original
            self.stop()

    def _execute(
        self,
        client: DockerClient,
        image: str,
        command: list[str],
        binds: dict[str, Any],
        environment: dict[str, str],
        say: LineHandler,
    ) -> int:
        digest = _image_id(client, image)
        passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        user = os.getuid() or _IMAGE_USER
        container: Container = client.containers.create(
            image,
            command,
            labels={_LABEL: self.name},
            user=f"{user}:{os.getgid() or _IMAGE_USER}",
            environment={
                "OMP_NUM_THREADS": THREADS,
                **passed_on,
                "TRIPCAST_HOME": str(self._home),
                "TRIPCAST_IMAGE": f"{image}@{digest}",
                **environment,
            },
            volumes=binds,
            network_mode=self._network,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,
            log_config={"type": "json-file"},  # whatever the engine's default is: its log has to be readable
        )
        try:
            with self._lock:
                if self._stopped:
                    return 1
                container.start()
            for line in _lines(container.logs(stream=True, follow=True)):
                say(line)
            return int(container.wait()["StatusCode"])
        finally:
            with contextlib.suppress(docker.errors.NotFound):  # `stop` was faster
                container.remove(force=True, v=True)

    def stop(self) -> None:
        """End every step that runs, and remove its container."""
        with self._lock:
            self._stopped = True
        self.end(self.name)

    def end(self, name: str) -> None:
        """Remove the containers of a run, this one or another, which was killed."""
        with _docker() as client:
            for container in client.containers.list(all=True, filters={"label": f"{_LABEL}={name}"}):
                with contextlib.suppress(docker.errors.APIError):  # the step's own thread removes it, too
                    container.remove(force=True, v=True)


@contextlib.contextmanager
def _docker() -> Iterator[DockerClient]:
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as trouble:
        raise InvalidRequest(
            f"Docker does not answer ({trouble}). Start it, or set DOCKER_HOST, or run without --runner docker."
        ) from trouble
    try:
        yield client
    finally:
        client.close()


def _image_id(client: DockerClient, image: str) -> str:
    """The identity of an image, pulled if it is not here."""
    try:
        return str(client.images.get(image).id)
    except docker.errors.ImageNotFound:
        pass
    try:
        return str(client.images.pull(image).id)
    except docker.errors.APIError as trouble:
        raise InvalidRequest(
            f"The image {image} is neither here nor to be pulled ({trouble.explanation}). Build it with 'make images'."
        ) from trouble


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """A container's output line by line; each refresh of a progress bar is a line."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    rest = ""
    for chunk in chunks:
        *whole, rest = re.split(r"\r\n|\r|\n", rest + decode(chunk))
        yield from (f"{line}\n" for line in whole)
    if rest:
        yield f"{rest}\n"


def _chown_to_image_user(paths: Iterable[Path]) -> None:
    """Give what root made to the images' user. Steps of anybody else run as that person, who owns it already."""
    if os.getuid() == 0:
        for path in paths:
            if path.lstat().st_uid == 0:
                os.chown(path, _IMAGE_USER, _IMAGE_USER, follow_symlinks=False)
