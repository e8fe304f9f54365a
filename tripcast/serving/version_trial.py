"""A version is tried in a process of its own before it is reported to the service.

A library of trees ends the whole process on some malformed files, and what ends the process that tries a version must
not end the one that serves.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

from tripcast.errors import StorageError

#: Seconds that a trial may take: on a busy machine it takes a few.
_TRIAL_SECONDS = 60.0

#: Seconds until a version that failed is tried again: what failed may have been the machine.
_RETRY_SECONDS = 60.0


class VersionTrials:
    """Tries each model once, and again after a while if it failed; one at a time, for each takes a process's memory.

    Args:
        check: The module that tries a model: run with its folder, it prints nothing and ends with 0, or prints why the
            model cannot serve and ends with another status.
    """

    def __init__(self, check: str) -> None:
        self._command = [sys.executable, "-P", "-m", check]
        self._one_at_a_time = threading.Lock()
        self._passed: set[Path] = set()
        self._failed: dict[Path, tuple[float, str]] = {}

    def passed(self, folders: set[Path]) -> None:
        """Take models for tried: those that have served."""
        self._passed |= folders

    def require(self, version: int, folder: Path) -> None:
        """Try a model, unless that has been done.

        Args:
            version: What to call it in the error.
            folder: Its folder, named by its digest.

        Raises:
            StorageError: If it cannot serve.
        """
        if folder in self._passed:
            return
        failed_at, reason = self._failed.get(folder, (-_RETRY_SECONDS, ""))
        if monotonic() >= failed_at + _RETRY_SECONDS:
            with self._one_at_a_time:
                reason = self._try(folder)
            if not reason:
                self._passed.add(folder)
                return
            self._failed[folder] = monotonic(), reason
        raise StorageError(f"Version {version} in {folder} cannot serve: {reason}. Train and register it again.")

    def _try(self, folder: Path) -> str:
        """Try a model, and return why it cannot serve."""
        try:
            trial = subprocess.run(
                [*self._command, str(folder)], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"it has not predicted some trips after {_TRIAL_SECONDS:.0f} seconds"
        if trial.returncode == 0:
            return ""
        if trial.returncode < 0:
            return f"it ends the process that loads it ({signal.Signals(-trial.returncode).name})"
        words = trial.stdout.decode(errors="replace").strip() or trial.stderr.decode(errors="replace").strip()
        return words.splitlines()[-1].rstrip(".") if words else f"its trial ended with status {trial.returncode}"
