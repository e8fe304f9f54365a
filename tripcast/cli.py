"""The command line: `tripcast train`, `serve`, `models`, `promote`, `rollback`, `rollout`, `compile`, `ui`.

The outermost layer of the project, and the only module of the library that looks up to the pipelines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tripcast import __version__
from tripcast.errors import ContractError, InvalidRequest, SourceError, SourceUnreachable, TripcastError
from tripcast.settings import Settings

#: Exit codes, for scripts; `tripcast --help` lists them.
PROMOTED, FAILURE, BAD_INPUT, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130

_EXIT_CODES = """\b
Exit codes:
  0    done: a model was promoted, or the champion is this very model already
  1    failure: a step broke, or MLflow, the source or a store cannot be reached
  2    bad input: an unknown option, month, candidate or version; trips that are missing or unusable
  3    done, and refused: no candidate passed the gate, the champion stays
  130  interrupted; run it again, nothing is left half done"""


class _Commands(click.Group):
    """Turns tripcast's errors into a sentence on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TripcastError as error:
            _say_error(error)
            bad_input = isinstance(error, (ContractError, InvalidRequest, SourceError))
            ctx.exit(BAD_INPUT if bad_input and not isinstance(error, SourceUnreachable) else FAILURE)
        except KeyboardInterrupt:
            click.echo("Interrupted: nothing was left half registered. Run it again.", err=True)
            ctx.exit(INTERRUPTED)


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


def _say_error(error: Exception) -> None:
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)


def _set_home(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    # The steps are processes of their own: they learn of it as everything that runs tripcast does.
    if value is not None:
        os.environ["TRIPCAST_HOME"] = str(value.expanduser().absolute())


def _home(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        callback=_set_home,
        expose_value=False,
        help="Folder for everything tripcast keeps here: MLflow's store, snapshots, runs.  "
        "[default: $TRIPCAST_HOME, or ~/.tripcast]",
    )(command)


def _set_artifacts(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["TRIPCAST_ARTIFACTS"] = value if "://" in value else str(Path(value).expanduser().absolute())


def _taxi(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--taxi", type=click.Choice(["green", "yellow"]), default="green", show_default=True, help="Which taxis."
    )(command)


@click.group(cls=_Commands, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tripcast")
def main() -> None:
    """Predict how long a New York taxi trip will take, and keep that prediction good."""


@main.command(epilog=_EXIT_CODES)
@click.option(
    "--source",
    default="tlc",
    show_default=True,
    help="Where months come from: 'tlc' (the publisher, over HTTPS), a folder, 's3://bucket/prefix', or 'simulated' "
    "(an invented city; 'simulated?trips=5000&seed=7' for another one).",
)
@_taxi
@click.option(
    "--train",
    "train_months",
    default="2021-01..2021-02",
    show_default=True,
    metavar="MONTHS",
    help="Months to train on: 2021-01..2021-03, or 2021-01,2022-01.",
)
@click.option(
    "--test",
    "test_month",
    default="2021-03",
    show_default=True,
    metavar="MONTH",
    help="The later month to judge on.",
)
@click.option(
    "--candidates",
    default="linear,lightgbm",
    show_default=True,
    metavar="NAMES",
    help="Which models to train: linear, lightgbm, tuned.",
)
@click.option(
    "--trials",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many parameter sets 'tuned' tries.",
)
@click.option(
    "--rollout",
    default="100%",
    show_default=True,
    type=Share(),
    help="Riders that the winner answers: all of them as the champion, fewer as the challenger beside it.",
)
@click.option(
    "--runner",
    type=click.Choice(["process", "docker"]),
    default="process",
    show_default=True,
    help="What a step is: a process here, or a container of the image that a cluster runs ('make images').",
)
@click.option(
    "--artifacts",
    metavar="PLACE",
    callback=_set_artifacts,
    expose_value=False,
    help="Keep data snapshots, and every dataset, model and report of the run, in 's3://bucket/prefix' or a folder.  "
    "[default: $TRIPCAST_ARTIFACTS, or the home]",
)
@_home
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document, for scripts.")
def train(
    source: str,
    taxi: str,
    train_months: str,
    test_month: str,
    candidates: str,
    trials: int,
    rollout: float,
    runner: str,
    as_json: bool,
) -> None:
    r"""Train candidates on some months, judge them on a later one, and promote the best if it passes the gate.

    \b
    Examples:
      tripcast train --source ../trips --train 2021-01..2021-02 --test 2021-03
      tripcast train --source tlc --taxi yellow --train 2024-01 --test 2024-02
      tripcast train --source simulated --candidates linear,tuned --trials 50
      tripcast train --source simulated --runner docker --artifacts s3://tripcast
    """
    from pipelines.containers import Containers
    from pipelines.local import run_locally
    from pipelines.processes import Processes
    from pipelines.training import training
    from tripcast.artifacts import open_store
    from tripcast.console import print_summary
    from tripcast.progress import Progress

    settings = Settings.load()
    folders = []
    if "://" not in source and source != "tlc" and not source.startswith("simulated"):
        folders = [Path(source).expanduser().absolute()]
        source = str(folders[0])
    # The home is the runs' own place; anywhere else gets copies.
    store = open_store(settings.artifacts) if settings.artifacts != str(settings.home) else None
    arguments = {
        "source": source,
        "taxi": taxi,
        "train_months": train_months,
        "test_month": test_month,
        "candidates": [name.strip() for name in candidates.split(",") if name.strip()],
        "trials": trials,
        "rollout": rollout,
    }
    with Progress() as progress:
        how = Containers(settings, folders) if runner == "docker" else Processes()
        run = run_locally(training, arguments, settings.runs, progress, how, store)
    evaluated = run.output("evaluate")
    summary = json.loads(Path(evaluated["decision"]).read_text())
    if evaluated["Output"]:
        summary["version"] = int(run.output("register")["Output"])
        summary["serves"] = run.output("deploy")["Output"]
    # A browser shows a page only under a page's name; the artifact has none.
    report = run.folder / "report.html"
    report.hardlink_to(evaluated["report"])
    summary |= {"report": str(report), "seconds": progress.seconds}
    summary["artifacts"] = f"{store.uri}/runs/{run.folder.name}" if store else str(run.folder)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary, settings)
    sys.exit(REFUSED if summary["decision"] == "refused" else PROMOTED)


@main.command()
@_taxi
@_home
def models(taxi: str) -> None:
    """List the registered versions and the record of promotions."""
    from tripcast.console import print_models
    from tripcast.registry import Registry

    registry = Registry(taxi, Settings.load())
    print_models(registry.name, registry.versions(), registry.moves())


@main.command()
@click.argument("version", type=int)
@click.option("--reason", default="Promoted by hand.", show_default=True, help="Why; goes into the record.")
@_taxi
@_home
def promote(version: int, reason: str, taxi: str) -> None:
    """Make VERSION the champion, whatever the gate said of it."""
    from tripcast.registry import Registry

    registry = Registry(taxi, Settings.load())
    move = registry.promote(version, reason)
    if move is None:
        click.echo(f"{registry.name} version {version} is the champion already: nothing changed.")
    else:
        replaced = f" in place of version {move.replaced}" if move.replaced else ""
        click.echo(f"{registry.name} version {version} is the champion now{replaced}.")


@main.command()
@click.option("--reason", default="Rolled back by hand.", show_default=True, help="Why; goes into the record.")
@_taxi
@_home
def rollback(reason: str, taxi: str) -> None:
    """Undo the last promotion: the champion before it serves again."""
    from tripcast.registry import Registry

    registry = Registry(taxi, Settings.load())
    move = registry.rollback(reason)
    click.echo(f"{registry.name} version {move.version} is the champion again, in place of version {move.replaced}.")


@main.group()
def rollout() -> None:
    """Try a version on a share of the riders, beside the champion."""


@rollout.command("set")
@click.argument("share", type=Share())
@click.option("--version", type=int, help="The version to try.  [default: the one that is being tried]")
@click.option("--reason", default="Set by hand.", show_default=True, help="Why; goes into the record.")
@_taxi
@_home
def rollout_set(share: float, version: int | None, reason: str, taxi: str) -> None:
    r"""Let the challenger answer SHARE of the riders.

    \b
    Examples:
      tripcast rollout set 10% --version 4
      tripcast rollout set 50%
    """
    from tripcast.registry import Registry

    registry = Registry(taxi, Settings.load())
    move = registry.set_share(share, reason) if version is None else registry.challenger(version, share, reason)
    click.echo(f"{registry.name} version {move.version} answers {share:.0%} of the riders.")


@rollout.command("end")
@click.option("--reason", default="Ended by hand.", show_default=True, help="Why; goes into the record.")
@_taxi
@_home
def rollout_end(reason: str, taxi: str) -> None:
    """Withdraw the challenger: the champion answers everyone. To make it the champion: tripcast promote."""
    from tripcast.registry import Registry

    registry = Registry(taxi, Settings.load())
    move = registry.withdraw(reason)
    click.echo(f"{registry.name} version {move.version} is withdrawn: the champion answers every rider.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--log",
    metavar="PLACE",
    help="Where every prediction is logged: 's3://bucket/prefix' or a folder.  [default: $TRIPCAST_ARTIFACTS, or the "
    "home]",
)
@_taxi
@_home
def serve(host: str, port: int, log: str | None, taxi: str) -> None:
    """Answer requests for predictions, and show the page; follow the registry while that runs."""
    from tripcast.serving.server import serve

    serve(taxi, host, port, log or Settings.load().artifacts)


@main.command("compile")
@click.option("--image", help="The container image of the steps.  [default: the one named in components/step.py]")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("compiled"), show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; fail with a diff if a file there is not what it would be.")
def compile_pipelines(image: str | None, output: Path, check: bool) -> None:
    """Compile every pipeline to YAML, for the Kubeflow Pipelines UI and for review."""
    from components.step import IMAGE
    from pipelines.compilation import check_compiled, compile_all

    if not check:
        for file in compile_all(output, image or IMAGE):
            click.echo(f"Wrote {file}")
        return
    difference = check_compiled(output, image or IMAGE)
    if difference:
        click.echo(difference)
        click.echo(
            f"The pipelines in {output} are not what the code says: compile them and commit the result.", err=True
        )
        sys.exit(FAILURE)
    click.echo(f"The pipelines in {output} are what the code says.", err=True)


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port on this machine.")
@_home
def ui(port: int) -> None:
    """Open MLflow on everything that was tracked: runs, reports, models."""
    settings = Settings.load()
    if settings.tracking_uri.startswith(("http://", "https://")):
        click.echo(f"MLflow runs already, at {settings.tracking_uri}")
        return
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", settings.tracking_uri]
    command += ["--default-artifact-root", (settings.home / "artifacts").as_uri()]
    settings.home.mkdir(parents=True, exist_ok=True)
    click.echo(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    os.execv(sys.executable, [sys.executable, "-m", *command])
