"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tripcast.settings import Settings
from tripcast.storage.files import make_home
from tripcast.storage.store import place
from tripcast.taxi.feeds import FEEDS


class Share(click.ParamType[float]):
    """A share of the riders: ``10%``, or ``0.1``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See ``click.ParamType``."""
        if isinstance(value, float):
            return value
        try:
            share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"'{value}' is no share of the riders: write 10%, or 0.1.", param, ctx)
        return share


def _set_home(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    # The steps are processes of their own: they learn of it as everything that runs tripcast does.
    if value is not None:
        os.environ["TRIPCAST_HOME"] = str(value.expanduser().absolute())
    make_home(Settings.load().home)


home = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_set_home,
    expose_value=False,
    help="Folder for everything tripcast keeps here: MLflow's store, snapshots, runs.  "
    "[default: $TRIPCAST_HOME, or ~/.tripcast]",
)


def _set_artifacts(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["TRIPCAST_ARTIFACTS"] = place(value)


artifacts = click.option(
    "--artifacts",
    metavar="PLACE",
    callback=_set_artifacts,
    expose_value=False,
    help="Keep data snapshots, and every dataset, model and report of the run, in 's3://bucket/prefix' or a "
    "folder.  [default: $TRIPCAST_ARTIFACTS, or the home]",
)


def _absolute(ctx: click.Context, param: click.Parameter, value: str) -> str:
    # A step may run elsewhere, in another folder.
    if "://" in value or value == "tlc" or value.startswith("simulated"):
        return value
    return str(Path(value).expanduser().absolute())


source = click.option(
    "--source",
    default="tlc",
    show_default=True,
    callback=_absolute,
    help="Where months come from: 'tlc' (the publisher, over HTTPS), a folder, 's3://bucket/prefix', or "
    "'simulated' (an invented city; 'simulated?trips=5000&seed=7' for another one).",
)

runner = click.option(
    "--runner",
    type=click.Choice(["process", "docker"]),
    default="process",
    show_default=True,
    help="What a step is: a process here, or a container of the image that a cluster runs ('make images').",
)


def steps(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--image`` and ``--parallelism``: what compiled pipelines run their steps in, and how many at a time."""
    command = click.option(
        "--parallelism",
        default=4,
        show_default=True,
        type=click.IntRange(min=1),
        help="How many months, or candidates, are worked on at a time.",
    )(command)
    return click.option(
        "--image", help="The container image of the steps.  [default: the one named in components/step.py]"
    )(command)


approval = click.option(
    "--approval",
    is_flag=True,
    help="Let a winner wait for a person before it serves: 'tripcast approve', or 'tripcast reject'.",
)

canary_minutes = click.option(
    "--canary-minutes",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How long a new champion answers a few riders first, while the health of the service is watched.",
)


_NAMED = ", ".join(f"{feed.title} ({name})" for name, feed in FEEDS.items())

taxi = click.option(
    "--taxi", type=click.Choice(list(FEEDS)), default="green", show_default=True, help=f"Whose trips: {_NAMED}."
)


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


candidates = click.option(
    "--candidates",
    default="linear,lightgbm",
    show_default=True,
    metavar="NAMES",
    callback=_names,
    help="Which models to train: linear, lightgbm, tuned.",
)

trials = click.option(
    "--trials",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many parameter sets 'tuned' tries.",
)
