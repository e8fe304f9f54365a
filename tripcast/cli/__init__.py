"""The command line, `tripcast`; a module here is a command or a few that belong together.

The outermost layer of the project, and the only part of the library that looks up to the pipelines.

A command imports what it works with in its body: kfp takes half a second and MLflow a second and a half, for which
``--help``, a wrong option and every other command would wait.
"""

from tripcast.cli.compile import compile_pipelines
from tripcast.cli.group import main
from tripcast.cli.log import log
from tripcast.cli.loop import loop, replay
from tripcast.cli.models import approve, models, reject, sign_version
from tripcast.cli.prune import prune
from tripcast.cli.score import score
from tripcast.cli.serve import serve
from tripcast.cli.submit import schedule, submit, upload
from tripcast.cli.train import train

__all__ = [
    "approve",
    "compile_pipelines",
    "log",
    "loop",
    "main",
    "models",
    "prune",
    "reject",
    "replay",
    "schedule",
    "score",
    "serve",
    "sign_version",
    "submit",
    "train",
    "upload",
]
