"""`tripcast models`, `promote`, `approve`, `reject`, `rollback` and `rollout`: what is registered, and who serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings
from tripcast.taxi import model_name

if TYPE_CHECKING:
    from tripcast.registry.registry import Registry


def _registry(taxi: str) -> Registry:
    from tripcast.registry.registry import Registry

    return Registry(model_name(taxi), Settings.load())


@main.command()
@options.taxi
@options.home
def models(taxi: str) -> None:
    """List the registered versions and the record of promotions."""
    from tripcast.cli.console import print_models

    registry = _registry(taxi)
    waiting = registry.approval().waiting
    print_models(registry.name, registry.versions(), registry.moves(), waiting.version if waiting else None)


@main.command()
@click.argument("version", type=int)
@click.option("--reason", default="Promoted by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def promote(version: int, reason: str, taxi: str) -> None:
    """Make VERSION the champion, whatever the gate said of it."""
    registry = _registry(taxi)
    move = registry.promote(version, reason)
    if move is None:
        click.echo(f"{registry.name} version {version} is the champion already: nothing changed.")
    else:
        replaced = f" in place of version {move.replaced}" if move.replaced else ""
        click.echo(f"{registry.name} version {version} is the champion now{replaced}.")


def _answer(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a person says of a version that waits."""
    for given in (
        click.option("--why", required=True, help="Why; goes into the record."),
        click.option("--by", required=True, metavar="NAME", help="Who decides; goes into the record."),
        click.argument("version", type=int),
    ):
        command = given(command)
    return command


@main.command()
@_answer
@options.canary_minutes
@options.taxi
@options.home
def approve(version: int, by: str, why: str, canary_minutes: float, taxi: str) -> None:
    """Let VERSION serve, which waits for it: a run with --approval chose it.

    \b
    Example:
      tripcast approve 3 --by "Ada Lovelace" --why "Looked at the report; airports are fine."
    """  # noqa: D301
    from tripcast.jobs import deploy

    registry = _registry(taxi)
    click.echo(deploy.approve(registry, version, by=by, reason=why, canary_minutes=canary_minutes))


@main.command()
@_answer
@options.taxi
@options.home
def reject(version: int, by: str, why: str, taxi: str) -> None:
    """Refuse VERSION, which waits for approval: what serves now serves on."""
    registry = _registry(taxi)
    new = registry.reject(version, by, why)
    click.echo(f"{registry.name} version {version} {'is rejected' if new else 'was rejected before'}.")


@main.command()
@click.option("--reason", default="Rolled back by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def rollback(reason: str, taxi: str) -> None:
    """Undo the last promotion: the champion before it serves again."""
    registry = _registry(taxi)
    move = registry.rollback(reason)
    click.echo(f"{registry.name} version {move.version} is the champion again, in place of version {move.replaced}.")


@main.command("sign")
@click.argument("version", type=int)
@options.taxi
@options.home
def sign_version(version: int, taxi: str) -> None:
    """Sign VERSION with TRIPCAST_SIGNING_KEY: one that was registered without it, or with an earlier key."""
    registry = _registry(taxi)
    registry.sign(version)
    click.echo(f"{registry.name} version {version} is signed.")


@main.group()
def rollout() -> None:
    """Try a version on a share of the riders, beside the champion."""


@rollout.command("set")
@click.argument("share", type=options.Share())
@click.option("--version", type=int, help="The version to try.  [default: the one that is being tried]")
@click.option("--reason", default="Set by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def rollout_set(share: float, version: int | None, reason: str, taxi: str) -> None:
    """Let the challenger answer SHARE of the riders.

    \b
    Examples:
      tripcast rollout set 10% --version 4
      tripcast rollout set 50%
    """  # noqa: D301
    registry = _registry(taxi)
    move = registry.set_share(share, reason) if version is None else registry.challenger(version, share, reason)
    click.echo(f"{registry.name} version {move.version} answers {share:.0%} of the riders.")


@rollout.command("end")
@click.option("--reason", default="Ended by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def rollout_end(reason: str, taxi: str) -> None:
    """Withdraw the challenger: the champion answers everyone. To make it the champion: tripcast promote."""
    registry = _registry(taxi)
    move = registry.withdraw(reason)
    click.echo(f"{registry.name} version {move.version} is withdrawn: the champion answers every rider.")
