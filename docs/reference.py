"""Writes `docs/reference.md` from the code; `--check` fails if that file is stale."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click

import components
from tripcast.cli import main as commands
from tripcast.serving.prediction_log import Counts, PredictionLog
from tripcast.serving.prometheus import ServiceCollector
from tripcast.serving.service import Service
from tripcast.settings import Settings

TARGET = Path(__file__).with_name("reference.md")

HEAD = """# Reference

Written by `make reference` from the code; `make check` fails where it is stale.
"""


def steps() -> Iterator[str]:
    """Every step of the pipelines, with what goes in and what comes out."""
    yield "## Steps\n"
    for name in sorted(module.name for module in pkgutil.iter_modules(components.__path__) if module.name != "step"):
        component = getattr(importlib.import_module(f"components.{name}"), name)
        specification = component.component_spec
        # kfp drops the descriptions of outputs.
        described = dict(
            re.findall(r"^    (\w+): (\S.*(?:\n        .*)*)", inspect.getdoc(component.python_func), re.M)
        )
        described["Output"] = (inspect.getdoc(component.python_func) or "").partition("Returns:\n")[2]
        yield f"### {name}\n\n{_line(specification.description)}\n"
        yield "| | name | type | meaning |\n|---|---|---|---|"
        for direction, parts in (("in", specification.inputs), ("out", specification.outputs)):
            for part, of in (parts or {}).items():
                yield f"| {direction} | `{part}` | {_kind(of.type)} | {_line(described.get(part))} |"
        yield ""


def command_options() -> Iterator[str]:
    """Every command of the command line, with its options."""
    yield "## Commands\n"
    yield from _command("tripcast", commands)


def _command(path: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group) and not command.params and path != "tripcast":
        yield f"### {path}\n\n{_line(command.help)}\n"
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield f"### {path}\n\n{_line((command.help or '').split(chr(10) * 2)[0])}\n"
        yield "| option | meaning | default |\n|---|---|---|"
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                default = "" if option.default in (None, False, ()) or option.required else f"`{option.default}`"
                default = "" if "UNSET" in default else default
                yield f"| `{' '.join(option.opts)}` | {_line(option.help)} | {default} |"
        yield ""
    if isinstance(command, click.Group):
        for name, part in sorted(command.commands.items()):
            yield from _command(f"{path} {name}", part)


def settings() -> Iterator[str]:
    """What is read from the environment."""
    yield "## Settings\n"
    yield "| in the environment | meaning |\n|---|---|"
    attributes = inspect.getdoc(Settings) or ""
    for entry in re.split(r"\n    (?=\w+: )", attributes.partition("Attributes:")[2]):
        meaning = _line(entry.partition(": ")[2])
        for name in re.findall(r"``([A-Z_]+)``", meaning):
            yield f"| `{name}` | {meaning.replace('``', '`')} |"
    yield ""


def metrics() -> Iterator[str]:
    """What the prediction service tells Prometheus."""
    yield "## Metrics\n"
    yield "What `/metrics` of the prediction service has, beside the process's own.\n"
    yield "| metric | kind | labels | meaning |\n|---|---|---|---|"
    empty = SimpleNamespace(counts=lambda: Counts(0, 0, 0, 0, 0, 0))  # a log would start threads
    service = Service({"green": "tripcast-green"}, Path("home"), "tripcast.taxi.web.version_check")
    for family in ServiceCollector(service, cast(PredictionLog, empty)).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        yield f"| `{name}` | {family.type} | {labels} | {_line(family.documentation)} |"
    yield ""


def _kind(schema: str) -> str:
    """The type's name without its schema's version."""
    return schema.partition("@")[0].removeprefix("system.")


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write the page, or check it."""
    text = "\n".join([HEAD, *steps(), *command_options(), *settings(), *metrics()]).rstrip() + "\n"
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8", newline="\n")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit("docs/reference.md is not what the code says: run make reference, and commit it.")


if __name__ == "__main__":
    main()
