"""The poller as the service sees it: a child process that reports, is asked, and is started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence

from tripcast.serving.metrics import Metrics
from tripcast.serving.model_cache import decode
from tripcast.serving.registry_poller import Report

_log = logging.getLogger("tripcast.serving")

#: Seconds until the poller is started again: doubled each time, and back to the first when it has reported.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0

#: What the poller does not inherit.
_SECRETS = ("TRIPCAST_ADMIN_TOKEN", "TRIPCAST_RIDER_SECRET", "TRIPCAST_SIGNING_KEY")

#: Bytes of a report, at most.
_REPORT_BYTES = 1 << 20

#: Seconds that the poller has to end by itself.
_STOP_SECONDS = 2.0


class PollerProcess:
    """Keeps a poller running.

    Args:
        models: The registered models' names, for example ``tripcast-green``.
        check: The module that tries a version (``VersionTrials``).
        metrics: Counts the restarts.
        take: Takes a report; the next one waits until it is done.
    """

    def __init__(
        self, models: Sequence[str], check: str, metrics: Metrics, take: Callable[[Report], Awaitable[None]]
    ) -> None:
        self._command = [sys.executable, "-P", "-m", "tripcast.serving.registry_poller", "--check", check, *models]
        self._metrics = metrics
        self._take = take
        self._asked = 0
        # The last request that the reports of each model have answered.
        self._answered = dict.fromkeys(models, 0)
        self._reported = asyncio.Event()
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the poller, and from then on whenever it has ended."""
        self._task = asyncio.create_task(self._run())

    async def ask(self) -> None:
        """Have it poll now, and wait until that poll's reports of all models have been taken."""
        self._asked += 1
        asked = self._asked
        await self._tell()
        while min(self._answered.values()) < asked:
            self._reported.clear()
            await self._reported.wait()

    async def stop(self) -> None:
        """End the poller, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                reason, reported = await self._run_once()
                wait = _FIRST_WAIT if reported else wait
            except Exception as trouble:  # no process is to be had, or it writes what is no report
                reason = repr(trouble)
            problem = f"The poller of the registry ended ({reason}); it is started again in {wait:.0f} s."
            for model, answered in self._answered.items():
                await self._take(Report(model, None, [problem], answered))
            self._metrics.poller_restarts += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _run_once(self) -> tuple[str, bool]:
        """Run the poller until it ends; returns how it ended, and whether it had reported."""
        # In a session of its own: an interrupt from the keyboard is the service's to handle.
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            limit=_REPORT_BYTES,
            start_new_session=True,
            # The service's own secrets are none of its business.
            env={name: value for name, value in os.environ.items() if name not in _SECRETS},
        )
        try:
            await self._tell()
            reported = await self._read(process)
        finally:
            status = await _end(process)
        return f"status {status}", reported

    async def _read(self, process: Process) -> bool:
        """Take reports until there are no more; whether there was one."""
        assert process.stdout is not None
        any_report = False
        async for line in process.stdout:
            try:
                report = decode(line, Report)
                await self._take(report)
            except Exception:  # what serves goes on, and the next report may be sound
                _log.exception("A report of the poller could not be taken.")
                continue
            any_report = True
            self._answered[report.model] = report.asked
            self._reported.set()
        return any_report

    async def _tell(self) -> None:
        """Tell the poller the number of the latest request, if there was one."""
        if self._asked and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):  # it has ended, and will be told when it is there again
                self._process.stdin.write(b"%d\n" % self._asked)
                await self._process.stdin.drain()


async def _end(process: Process) -> int:
    """Close the poller's standard input, which ends it, or kill it; return its status."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
