"""`tripcast models`, `promote`, `rollback` and `rollout`: what is registered, and which of it serves."""

from __future__ import annotations

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings
from tripcast.taxi import model_name


@main.command()
@options.taxi
@options.home
def models(taxi: str) -> None:
    """List the registered versions and the record of promotions."""
    from tripcast.cli.console import print_models
    from tripcast.registry.registry import Registry

    registry = Registry(model_name(taxi), Settings.load())
    print_models(registry.name, registry.versions(), registry.moves())


@main.command()
@click.argument("version", type=int)
@click.option("--reason", default="Promoted by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def promote(version: int, reason: str, taxi: str) -> None:
    """Make VERSION the champion, whatever the gate said of it."""
    from tripcast.registry.registry import Registry

    registry = Registry(model_name(taxi), Settings.load())
    move = registry.promote(version, reason)
    if move is None:
        click.echo(f"{registry.name} version {version} is the champion already: nothing changed.")
    else:
        replaced = f" in place of version {move.replaced}" if move.replaced else ""
        click.echo(f"{registry.name} version {version} is the champion now{replaced}.")


@main.command()
@click.option("--reason", default="Rolled back by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def rollback(reason: str, taxi: str) -> None:
    """Undo the last promotion: the champion before it serves again."""
    from tripcast.registry.registry import Registry

    registry = Registry(model_name(taxi), Settings.load())
    move = registry.rollback(reason)
    click.echo(f"{registry.name} version {move.version} is the champion again, in place of version {move.replaced}.")


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
    from tripcast.registry.registry import Registry

    registry = Registry(model_name(taxi), Settings.load())
    move = registry.set_share(share, reason) if version is None else registry.challenger(version, share, reason)
    click.echo(f"{registry.name} version {move.version} answers {share:.0%} of the riders.")


@rollout.command("end")
@click.option("--reason", default="Ended by hand.", show_default=True, help="Why; goes into the record.")
@options.taxi
@options.home
def rollout_end(reason: str, taxi: str) -> None:
    """Withdraw the challenger: the champion answers everyone. To make it the champion: tripcast promote."""
    from tripcast.registry.registry import Registry

    registry = Registry(model_name(taxi), Settings.load())
    move = registry.withdraw(reason)
    click.echo(f"{registry.name} version {move.version} is withdrawn: the champion answers every rider.")
