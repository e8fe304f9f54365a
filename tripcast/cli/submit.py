"""`tripcast submit`, `schedule` and `upload`: the pipelines on a cluster, in Kubeflow Pipelines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tripcast.cli import options
from tripcast.cli.group import INTERRUPTED, main
from tripcast.errors import InvalidRequest
from tripcast.settings import Settings

if TYPE_CHECKING:
    from tripcast.kubeflow import Kubeflow

EXIT_CODES = """\b
Exit codes:
  0    the run succeeded; with --no-wait, it was started
  1    failure: the run failed or was stopped, or the cluster cannot be reached or refuses
  2    bad input: an unknown pipeline or parameter, or a value of another type
  130  interrupted; the run goes on"""

#: The variables that the options below set, so that everything finds its settings in one place.
_VARIABLES = {
    "host": "TRIPCAST_KFP_ENDPOINT",
    "namespace": "TRIPCAST_KFP_NAMESPACE",
    "token_file": "KF_PIPELINES_SA_TOKEN_PATH",
}


def _set_variable(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ[_VARIABLES[str(param.name)]] = value


def _cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--host``, ``--namespace`` and ``--token-file``: which cluster."""
    kept: dict[str, Any] = {"callback": _set_variable, "expose_value": False}
    for option in (
        click.option(
            "--token-file",
            type=click.Path(dir_okay=False, exists=True),
            help="A file with a token, where the cluster asks for one; it is read again for every request.  "
            "[default: $KF_PIPELINES_SA_TOKEN_PATH; $KF_PIPELINES_TOKEN and $KF_PIPELINES_COOKIE are taken as well]",
            **kept,
        ),
        click.option(
            "--namespace",
            metavar="NAME",
            help="Namespace to work in, where Kubeflow has several users.  [default: $TRIPCAST_KFP_NAMESPACE]",
            **kept,
        ),
        click.option(
            "--host",
            metavar="URL",
            help="Where Kubeflow Pipelines answers.  [default: $TRIPCAST_KFP_ENDPOINT]",
            **kept,
        ),
    ):
        command = option(command)
    return command


_parameters = click.option(
    "--param", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the pipeline; repeat it."
)


def _connect(settings: Settings) -> Kubeflow:
    from tripcast.kubeflow import Kubeflow

    if settings.kfp_endpoint is None:
        raise InvalidRequest(
            "No cluster is named: give --host, or set TRIPCAST_KFP_ENDPOINT. For one without an address of its own: "
            "kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8888:80, then --host http://localhost:8888."
        )
    return Kubeflow(settings.kfp_endpoint, settings.kfp_namespace)


@main.command(epilog=EXIT_CODES)
@click.argument("pipeline")
@_parameters
@click.option("--name", help="The run's name.  [default: what it runs on, as 'training green 2021-01 -> 2021-02']")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show what happens until the run has ended.")
@options.steps
@_cluster
def submit(
    pipeline: str, parameters: tuple[str, ...], name: str | None, wait: bool, image: str | None, parallelism: int
) -> None:
    """Run PIPELINE (training, scoring or monitoring) on a cluster, as this code has it.

    \b
    Examples:
      tripcast submit training -p train_months=2021-01..2021-02 -p test_month=2021-03
      tripcast submit training -p candidates=linear,tuned -p trials=50 --no-wait
      tripcast submit monitoring -p month=2021-04 --host http://localhost:8888
    """  # noqa: D301 (to click, this character means: leave the lines as they are)
    from components.step import IMAGE
    from pipelines.cluster.runs import describe_run, experiment_of, follow, read_arguments, upload
    from pipelines.progress import Progress

    arguments = read_arguments(pipeline, parameters)
    settings = Settings.load()
    kubeflow = _connect(settings)
    (uploaded,) = upload(kubeflow, [pipeline], image or IMAGE, settings, parallelism)
    name = name or describe_run(pipeline, arguments)
    experiment = kubeflow.experiment(experiment_of(arguments))
    description = f"{uploaded.pipeline} {uploaded.version}, by tripcast submit."
    run_id = kubeflow.create_run(name, experiment, uploaded.ids, arguments, description)
    link = kubeflow.link("runs", "details", run_id)
    click.echo(f"Started '{name}' as version {uploaded.version}: {link}")
    if not wait:
        return
    try:
        with Progress() as progress:
            follow(kubeflow, run_id, pipeline, progress, lambda sentence: click.echo(sentence, err=True))
    except KeyboardInterrupt:
        click.echo(f"The run goes on. To stop it, press 'Terminate' here: {link}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"'{name}' succeeded.")


@main.command()
@options.steps
@_cluster
def upload(image: str | None, parallelism: int) -> None:
    """Upload the pipelines to a cluster: a version of each for this commit, unless it is there.

    The pipelines are called tripcast-training, tripcast-scoring and tripcast-monitoring there. A version is named after
    the commit, with 'dirty' if the work tree differs from it, and a hash of the compiled pipeline.
    """
    from components.step import IMAGE
    from pipelines.cluster.compilation import PIPELINES
    from pipelines.cluster.runs import upload

    settings = Settings.load()
    kubeflow = _connect(settings)
    for made in upload(kubeflow, list(PIPELINES), image or IMAGE, settings, parallelism):
        state = "uploaded" if made.new else "there already"
        link = kubeflow.link("pipelines", "details", made.ids[0], "version", made.ids[1])
        click.echo(f"{made.pipeline} {made.version}: {state}. {link}")


@main.command()
@click.argument("pipeline", default="monitoring")
@click.option(
    "--cron",
    default="0 6 * * 1",
    show_default=True,
    help="When, in UTC: five fields as cron has them, or six with the seconds first. The default is Mondays at 6.",
)
@_parameters
@click.option("--name", help="The recurring run's name.  [default: as 'monitoring green']")
@click.option(
    "--off", is_flag=True, help="Remove the recurring run instead; one of its runs that is under way goes on."
)
@options.steps
@_cluster
def schedule(
    pipeline: str,
    cron: str,
    parameters: tuple[str, ...],
    name: str | None,
    off: bool,
    image: str | None,
    parallelism: int,
) -> None:
    """Have PIPELINE run again and again on a cluster, as this code has it.

    However often this is called, there is one recurring run of the name, as the last call had it.

    \b
    Examples:
      tripcast schedule
      tripcast schedule monitoring --cron "0 6 2 * *" -p taxi=yellow
      tripcast schedule monitoring --off
    """  # noqa: D301 (to click, this character means: leave the lines as they are)
    from components.step import IMAGE
    from pipelines.cluster.runs import experiment_of, read_arguments, read_cron, upload

    arguments = read_arguments(pipeline, parameters)
    when = read_cron(cron)
    settings = Settings.load()
    kubeflow = _connect(settings)
    name = name or " ".join(str(word) for word in (pipeline, arguments.get("taxi")) if word)
    experiment = kubeflow.experiment(experiment_of(arguments))
    if off:
        found = kubeflow.recurring_runs(name, experiment)
        for run in found:
            kubeflow.unschedule(run.recurring_run_id)
        click.echo(f"'{name}' does not recur any more." if found else f"'{name}' did not recur: nothing changed.")
        return
    (uploaded,) = upload(kubeflow, [pipeline], image or IMAGE, settings, parallelism)
    description = f"{uploaded.pipeline} {uploaded.version}, by tripcast schedule."
    changed = kubeflow.schedule(name, experiment, uploaded.ids, when, arguments, description)
    state = "recurs now" if changed else "recurred like this already"
    click.echo(f"'{name}' {state}, at '{when}' UTC (seconds first), as version {uploaded.version}.")
    click.echo(kubeflow.link("recurringruns"))
