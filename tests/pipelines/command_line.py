"""`tripcast`, run as a person runs it; in this process, but where it is to be killed or the command itself is tried."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import boto3
from click.testing import CliRunner

from tripcast.cli import main

TRIPCAST = Path(sys.executable).parent / "tripcast"


def environment(**settings: str) -> dict[str, str]:
    """This process's, less what would lead a run elsewhere."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRIPCAST_"))
    } | settings


def tripcast(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """As a process would, which takes three seconds to import MLflow and kfp; steps are processes all the same."""
    command = [str(argument) for argument in arguments]
    with patch.dict(os.environ, environment(**settings), clear=True), patch.object(boto3, "DEFAULT_SESSION", None):
        ended = CliRunner().invoke(main, command)
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(command, ended.exit_code, ended.stdout, ended.stderr)
