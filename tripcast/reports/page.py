"""The page that every report is: one file that needs nothing else, no script, no font, no picture from elsewhere.

It opens from a disk and inside a sandboxed frame.
"""

from __future__ import annotations

import html

import jinja2


def render(template: str, **values: object) -> str:
    """Fill a template of this package. Everything that comes from outside is escaped.

    Args:
        template: Its file name.
        **values: What it names; one that it names and is not given is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tripcast.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def markdown(text: str) -> str:
    """Text that Markdown, and the HTML within it, show as it is."""
    return "".join(f"\\{sign}" if sign in r"\`*_[]|#" else sign for sign in html.escape(text, quote=False))
