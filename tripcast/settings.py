"""Where this process keeps and finds things: read from the environment, the same on a laptop and in a cluster.

Pipelines never carry these as parameters, so a compiled pipeline runs anywhere and no run parameter holds a secret.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The settings of this process.

    Attributes:
        home: Folder for everything that a laptop keeps: tracking store, snapshots, downloads, runs. ``TRIPCAST_HOME``.
        artifacts: Where snapshots of data are kept, and the files of runs: ``s3://bucket/prefix`` or a folder;
            ``TRIPCAST_ARTIFACTS``, or the home.
        tracking_uri: MLflow's store; ``MLFLOW_TRACKING_URI``; in a step on a cluster, where Kubeflow's own MLflow
            integration may set that one, ``TRIPCAST_TRACKING_URI``; or an SQLite file in the home.
        service_url: Where the prediction service answers, if there is one; ``TRIPCAST_SERVICE_URL``.
        image: The container image that runs this code; ``TRIPCAST_IMAGE``, or ``none``.
        kfp_endpoint: Where Kubeflow Pipelines answers, if there is one; ``TRIPCAST_KFP_ENDPOINT``.
        kfp_namespace: The namespace to work in, where Kubeflow has several users; ``TRIPCAST_KFP_NAMESPACE``.
        kfp_ui: Where people see Kubeflow's pages, for links in MLflow; ``TRIPCAST_KFP_UI``.
        mlflow_ui: Where people see MLflow's pages, if not at its store's address; ``TRIPCAST_MLFLOW_UI``.
        signing_key: The private key, as PEM, by which versions are signed when they are registered;
            ``TRIPCAST_SIGNING_KEY``.
        verify_keys: The public keys, as PEM, of which one has to have signed a version that is loaded;
            ``TRIPCAST_VERIFY_KEYS``. Without it none has to.
    """

    home: Path
    artifacts: str
    tracking_uri: str
    service_url: str | None
    image: str
    kfp_endpoint: str | None = None
    kfp_namespace: str | None = None
    kfp_ui: str | None = None
    mlflow_ui: str | None = None
    signing_key: str | None = field(default=None, repr=False)
    verify_keys: str | None = None

    @classmethod
    def load(cls) -> Settings:
        """Read the environment."""
        home = Path(os.environ.get("TRIPCAST_HOME") or Path.home() / ".tripcast").expanduser().absolute()
        return cls(
            home=home,
            artifacts=os.environ.get("TRIPCAST_ARTIFACTS") or str(home),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI")
            or os.environ.get("TRIPCAST_TRACKING_URI")
            or f"sqlite:///{home / 'mlflow.db'}",
            service_url=os.environ.get("TRIPCAST_SERVICE_URL") or None,
            image=os.environ.get("TRIPCAST_IMAGE") or "none",
            kfp_endpoint=os.environ.get("TRIPCAST_KFP_ENDPOINT") or None,
            kfp_namespace=os.environ.get("TRIPCAST_KFP_NAMESPACE") or None,
            kfp_ui=os.environ.get("TRIPCAST_KFP_UI") or None,
            mlflow_ui=os.environ.get("TRIPCAST_MLFLOW_UI") or None,
            signing_key=os.environ.get("TRIPCAST_SIGNING_KEY") or None,
            verify_keys=os.environ.get("TRIPCAST_VERIFY_KEYS") or None,
        )

    @cached_property
    def commit(self) -> str:
        """The git commit of this code: ``TRIPCAST_COMMIT`` (set in images), or asked of git, or ``unknown``."""
        return os.environ.get("TRIPCAST_COMMIT") or _git_commit()

    @property
    def downloads(self) -> Path:
        """Folder for files as their publisher serves them."""
        return self.home / "downloads"

    @property
    def runs(self) -> Path:
        """Folder for the files of local pipeline runs."""
        return self.home / "runs"


def _git_commit() -> str:
    """The commit that this file is checked out at, ``+dirty`` behind it if the work tree differs from it."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty=+dirty",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or not a checkout: installed as a package
        return "unknown"
