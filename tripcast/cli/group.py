"""The group of all commands: how `tripcast` ends, and what it says when something is wrong."""

from __future__ import annotations

import sys
from typing import Any

import click

from tripcast import __version__
from tripcast.errors import ContractError, InvalidRequest, SourceError, SourceUnreachable, TripcastError

#: Exit codes, for scripts; `tripcast --help` lists them.
PROMOTED, FAILURE, BAD_INPUT, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\b
Exit codes:
  0    done: a model was promoted, waits for approval, or is the champion already; months were scored or watched
  1    failure: a step broke, or MLflow, the source, a store or the cluster cannot be reached
  2    bad input: an unknown option, month, candidate or version; trips that are missing or unusable
  3    done, and refused: no candidate passed the gate, the champion stays
  130  interrupted; run it again, nothing is left half done"""


class _Commands(click.Group):
    """Turns tripcast's errors into a sentence on standard error and an exit code, which every command's help lists."""

    group_class = type  # groups within are of this kind, too

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.epilog = cmd.epilog or EXIT_CODES
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.parent is None and sys.stderr.isatty() and not {"-h", "--help"} & set(sys.argv):
            # What a command imports takes seconds, in which whoever waits should know that it is not for nothing.
            click.secho("tripcast starts ...", dim=True, err=True)
        try:
            return super().invoke(ctx)
        except TripcastError as error:
            _say_error(str(error))
            bad_input = isinstance(error, (ContractError, InvalidRequest, SourceError))
            ctx.exit(BAD_INPUT if bad_input and not isinstance(error, SourceUnreachable) else FAILURE)
        except ModuleNotFoundError as missing:
            # The images have what steps and service need, and not all that commands do.
            if not missing.name or missing.name.split(".")[0] == "tripcast":
                raise
            package = missing.name.split(".")[0]
            _say_error(f"This needs the package '{package}', which is not here. Run it where 'make setup' was run.")
            ctx.exit(FAILURE)
        except KeyboardInterrupt:
            click.echo("Interrupted: nothing was left half registered. Run it again.", err=True)
            ctx.exit(INTERRUPTED)


def _say_error(sentence: str) -> None:
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(sentence, err=True)


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tripcast")
def main() -> None:
    """Predict how long a New York taxi trip will take, and keep that prediction good."""
