"""`tripcast`, run as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

TRIPCAST = Path(sys.executable).parent / "tripcast"


def environment(**settings: str) -> dict[str, str]:
    """This process's, less what would lead a run elsewhere."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRIPCAST_"))
    } | settings


def tripcast(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [str(TRIPCAST), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**settings))
