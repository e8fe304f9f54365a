"""The real parts of the stack as processes: object stores, PostgreSQL, MLflow's server."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.parts import free_port

SECONDS_TO_START = 120


class Server:
    """A server on all addresses of this machine that can be stopped and started again on the same port and data."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        log: Path,
        is_ready: Callable[[], bool],
        ends_on: int = signal.SIGKILL,
    ) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._is_ready, self._ends_on = is_ready, ends_on
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS_TO_START
        try:
            while not self._is_ready():
                assert self._process.poll() is None, f"{self._command[0]} ended:\n{self._log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, f"{self._command[0]} is not ready:\n{self._log.read_text()[-3000:]}"
                time.sleep(0.1)
        except AssertionError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, self._ends_on)
            self._process.wait()
            self._process = None


class ObjectStore(Server):
    """MinIO or SeaweedFS: with one user, or with those of a file of identities, the first of which may all."""

    def __init__(self, kind: str, program: str, folder: Path, identities: Path | None = None) -> None:
        self.port = free_port()
        self.credentials = {
            "AWS_ACCESS_KEY_ID": "tripcast",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_REGION": "us-east-1",
        }
        data = folder / "data"
        data.mkdir(parents=True)
        if kind == "minio":
            command = [program, "server", str(data), "--address", f":{self.port}", "--console-address", ":0", "--quiet"]
            key, secret = "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"
        else:
            ports = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")]
            ports += [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
            command = [program, "-logtostderr=true", "server", f"-dir={data}", "-s3", f"-s3.port={self.port}", *ports]
            command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else two stores would want the same ports
            command += ["-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-master.volumeSizeLimitMB=64", "-volume.max=100"]
            key, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
        if identities:
            command.append(f"-s3.config={identities}")
            [first] = json.loads(identities.read_text())["identities"][0]["credentials"]
            self.credentials |= {"AWS_ACCESS_KEY_ID": first["accessKey"], "AWS_SECRET_ACCESS_KEY": first["secretKey"]}
        environment = {key: self.credentials["AWS_ACCESS_KEY_ID"], secret: self.credentials["AWS_SECRET_ACCESS_KEY"]}
        super().__init__(command, environment, folder / "log", self._answers)

    def environment(self, host: str = "127.0.0.1") -> dict[str, str]:
        return {**self.credentials, "AWS_ENDPOINT_URL_S3": f"http://{host}:{self.port}"}

    def client(self, keys: Mapping[str, str] | None = None, tries: int = 10):
        """A client that asks again: SeaweedFS answers before it has room for the objects of a new bucket."""
        keys = keys or self.credentials
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "total_max_attempts": tries}),
        )

    def objects(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _answers(self) -> bool:
        try:
            self.client(tries=1).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


class Postgres(Server):
    """PostgreSQL, which will not run as root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = free_port()
        self._secret = secrets.token_hex(16)
        data, password = folder / "data", folder / "password"
        folder.mkdir()
        password.write_text(self._secret)
        user = []
        if os.getuid() == 0:
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            for path in (folder, password):
                shutil.chown(path, "postgres", "postgres")
        subprocess.run(
            [
                *user,
                programs / "initdb",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "-D",
                data,
                "-U",
                "tripcast",
                "--pwfile",
                password,
                "-A",
                "scram-sha-256",
            ],
            check=True,
            capture_output=True,
        )
        command = [*user, str(programs / "postgres"), "-D", str(data), "-p", str(self.port), "-k", str(folder)]
        super().__init__(command, {}, folder.with_suffix(".log"), self._answers, ends_on=signal.SIGINT)

    @property
    def url(self) -> str:
        return f"postgresql://tripcast:{self._secret}@127.0.0.1:{self.port}/postgres"

    def rows(self, query: str) -> list[tuple]:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


class MLflow(Server):
    """MLflow's server with its records in PostgreSQL and its files in a bucket."""

    def __init__(self, postgres: Postgres, store: ObjectStore, bucket: str, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", str(self.port)]
        command += ["--workers", "1", "--allowed-hosts", "*"]
        environment = {
            **store.environment(),
            "MLFLOW_BACKEND_STORE_URI": postgres.url,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        super().__init__(command, environment, folder / "log", self._answers)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url()}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False
