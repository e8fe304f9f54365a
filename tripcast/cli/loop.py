"""`tripcast loop` and `tripcast replay`: the loop's next turn, and its turns over past months."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings

if TYPE_CHECKING:
    from tripcast.jobs.respond import LoopOptions


class _Deciding(click.Command):
    """A command whose help says what the rule's thresholds are."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See ``click.Command``."""
        from tripcast.monitoring.rule import Rule

        described = re.findall(r"(?m)^    (\w+): (.+(?:\n {8}.+)*)", inspect.cleandoc(Rule.__doc__ or ""))
        meanings = {name: " ".join(text.split()) for name, text in described}
        with formatter.section("Thresholds of --rule, and their defaults"):
            formatter.write_dl([(f"{entry.name}={entry.default}", meanings[entry.name]) for entry in fields(Rule)])
        super().format_epilog(ctx, formatter)


def _thresholds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    thresholds = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            thresholds[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"'{value}' is no threshold: write for example k=3.", ctx, param) from None
    return thresholds


def _learning(command: Callable[..., None]) -> Callable[..., None]:
    """How the loop decides and learns: the command's first argument, ``LoopOptions``."""
    given: list[Callable[..., Any]] = [
        click.option(
            "--rule",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_thresholds,
            help="A threshold of the rule, see below; repeat it for several.",
        ),
        click.option(
            "--training-months",
            default=3,
            show_default=True,
            type=click.IntRange(min=1),
            help="On how many months, at most, to train anew: the freshest sound ones.",
        ),
        options.candidates,
        options.trials,
        click.option(
            "--rollout",
            default="10%",
            show_default=True,
            type=options.Share(),
            help="Riders on whom a new model is tried whose gain may be chance.",
        ),
        options.canary_minutes,
    ]

    @wraps(command)
    def with_options(source: str, taxi: str, rule: dict[str, float], candidates: list[str], **asked: Any) -> None:
        from tripcast.jobs.respond import LoopOptions
        from tripcast.monitoring.rule import Rule

        Rule.from_dict(rule)  # a mistake is said at once
        own = {name: asked.pop(name) for name in ("training_months", "trials", "rollout", "canary_minutes")}
        command(LoopOptions(source, taxi, rule, candidates=candidates, **own), **asked)

    for option in reversed(given):
        with_options = option(with_options)
    return with_options


@main.command(cls=_Deciding)
@options.source
@options.taxi
@click.option(
    "--month",
    default="next",
    show_default=True,
    metavar="MONTH",
    help="The month to watch; 'next' is the first published one that was not watched yet.",
)
@_learning
@options.approval
@options.runner
@options.artifacts
@options.home
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON document, for scripts.")
def loop(learning: LoopOptions, month: str, approval: bool, runner: str, as_json: bool) -> None:
    """Take one turn of the loop: watch a month, alert, judge the challenger, and train anew if the rule says so.

    A month is watched once. Run it again, or after a crash, and what is left to do is done.

    \b
    Examples:
      tripcast loop --source ../trips
      tripcast loop --source tlc --month 2021-06 --rollout 20%
    """  # noqa: D301
    from pipelines.local.loop import turn
    from pipelines.progress import Progress
    from tripcast.cli.console import print_turn

    with Progress() as progress:
        taken = turn(
            replace(learning, approval=approval), month, settings=Settings.load(), notify=progress, runner=runner
        )
    if taken is None:
        document: dict[str, Any] = {"month": None, "response": "The next month is not published yet."}
    else:
        document = {
            "month": taken.window.month,
            "action": taken.window.action,
            "reason": taken.window.reason,
            "response": taken.response,
            **{
                name: value
                for name, value in taken.window.to_dict().items()
                if name in ("result", "incidents", "trial", "comparison", "retraining")
            },
            "trained": taken.trained,
            "report": str(taken.report),
        }
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        print_turn(document)


@main.command(cls=_Deciding)
@options.source
@options.taxi
@click.option(
    "--months",
    required=True,
    metavar="MONTHS",
    help="The months to replay: 2021-01..2021-07, or 2021-01..2021-03,2022-01..2022-03. The first ones train and "
    "judge the first version.",
)
@click.option(
    "--train",
    metavar="MONTHS",
    help="The months that the first version learns from; it is judged on the next one.  [default: the first one]",
)
@click.option(
    "--published-after",
    default=0,
    show_default=True,
    metavar="MONTHS",
    type=click.IntRange(min=0),
    help="How many months after its end a month is published; two, in life.",
)
@_learning
@options.home
@click.option("--json", "as_json", is_flag=True, help="Print the replay as one JSON document, for scripts.")
def replay(learning: LoopOptions, months: str, train: str | None, published_after: int, as_json: bool) -> None:
    """Run the loop over past months as if they came one by one, and draw what came of it in one page.

    Nothing real is touched. Interrupted, it goes on where it stopped; asked again, it says the same.

    \b
    Examples:
      tripcast replay --months 2021-01..2021-07
      tripcast replay --months 2021-01..2021-12 --published-after 2
      tripcast replay --source ../trips --months 2021-01..2021-03,2022-01..2022-03
      tripcast replay --source "simulated?slower_streets=2021-06" --months 2021-01..2021-10
    """  # noqa: D301
    from pipelines.local.replay import ReplayPlan
    from pipelines.local.replay import replay as run_replay
    from pipelines.progress import MonthsProgress
    from tripcast.cli.console import print_replay

    if "linear" not in learning.candidates:
        learning = replace(learning, candidates=["linear", *learning.candidates])
    plan = ReplayPlan.plan(months, train, learning, published_after)
    with MonthsProgress(1 + len(plan.months)) as progress:
        found, page = run_replay(plan, Settings.load(), progress.step, progress.month)
    document = {
        "taxi": learning.taxi,
        "source": learning.source,
        "train_months": list(plan.train),
        "test_month": plan.test,
        "published_after": published_after,
        "headline": found.headline,
        "counted": found.counted,
        "regret": found.regret,
        "processor_seconds": round(found.processor_seconds, 1),
        "promotions": found.count("promote"),
        "refusals": found.count("refuse"),
        "alerts": found.count("alert"),
        "relapses": found.count("relapse"),
        "months": [{**asdict(month), "events": [asdict(event) for event in month.events]} for month in found.months],
        "page": str(page),
    }
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        print_replay(document)
