"""What can go wrong, in the terms of the person who has to mend it.

Every message names the thing, the value and the next step. A step that fails with one of these ends a pipeline run
with that sentence; anything else is a defect of tripcast and keeps its traceback.

On Kubernetes the sentence becomes the container's termination message, too: ``kubectl describe`` shows it, and Argo
Workflows reads from it whether another try is worth while (deploy/components/workflow-defaults).
"""

import sys
from pathlib import Path
from types import TracebackType
from typing import ClassVar

#: What Kubernetes takes a container's last words from. It is there in every container of a pod, and nowhere else.
TERMINATION_LOG = Path("/dev/termination-log")

#: Ends the last words where another try would end alike: wrong input stays wrong.
NO_OTHER_TRY = "(no other try)"

#: Kubernetes keeps 4,096 bytes.
_MOST_CHARACTERS = 1000


class TripcastError(Exception):
    """Base of every error that tripcast raises on purpose.

    As text, bytes that are not for people are escaped: a message may quote a file that holds anything.

    Attributes:
        lasting: Whether another try would end alike.
    """

    lasting: ClassVar[bool] = False

    def __str__(self) -> str:
        return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in super().__str__())


class InvalidRequest(TripcastError):
    """What was asked for cannot be done: unknown candidate, months out of order, unknown version."""

    lasting = True


class SourceError(TripcastError):
    """A month could not be had from its source: missing, truncated, or not a table."""

    lasting = True


class SourceUnreachable(SourceError):
    """A source does not answer: the network, the endpoint or the credentials are wrong, not the month."""

    lasting = False


class ContractError(TripcastError):
    """A month was read, but it is not a month of taxi trips: columns missing, empty, too many bad rows, wrong dates."""

    lasting = True


class TrackingError(TripcastError):
    """The tracking server or the model registry cannot be reached, refused, or holds something unexpected."""


class DeploymentError(TripcastError):
    """The prediction service did not take up a version that was to serve."""

    lasting = True


class StorageError(TripcastError):
    """An artifact could not be written or read back: disk full, no permission, store out of reach."""


class SignatureError(TripcastError):
    """A model is not signed by a key that this installation trusts, or is not as it was when it was signed."""

    lasting = True


class WorkerError(TripcastError):
    """A worker of a training on several machines died, or could not be started."""


class ClusterError(TripcastError):
    """Kubeflow Pipelines refuses something, lacks something, or a run there did not end well.

    Attributes:
        status: The HTTP status that it answered with; None if this is not about an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ClusterUnreachable(ClusterError):
    """Kubeflow Pipelines does not answer, or not now: to ask again later may help."""


def leave_last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an error that nobody caught as Python does, and leave its sentence to Kubernetes."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, TripcastError):
        words = [str(error)[:_MOST_CHARACTERS], *([NO_OTHER_TRY] if error.lasting else [])]
        TERMINATION_LOG.write_text(" ".join(words), encoding="utf-8")


if TERMINATION_LOG.exists():
    sys.excepthook = leave_last_words
