"""Renders a page of HTML that needs nothing else, and in which only its own script may run."""

import base64
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

_TEMPLATES = pathlib.Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
  """A self-contained page.

  Args:
    template: name of a file in `templates/`.
    **values: what it shows, escaped there; "figures" are `<svg>` elements by name, not escaped.
  """
  figures: Mapping[str, str] = values.pop("figures", {})
  script = (_TEMPLATES / "browser.js").read_text(encoding="utf-8")
  return _environment().get_template(template).render(
    figures={name: markupsafe.Markup(svg) for name, svg in figures.items()},
    script=markupsafe.Markup(script),
    script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    **values,
  )  # fmt: skip


def write(path: pathlib.Path, page: str) -> None:
  """Writes a page; a lone surrogate, which UTF-8 lacks, becomes a character reference."""
  path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


@functools.cache
def _environment() -> jinja2.Environment:
  loader = jinja2.FileSystemLoader(_TEMPLATES)
  return jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
  )  # fmt: skip
