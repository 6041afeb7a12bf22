"""Where the templates of ftx.deploy_templates lie, and how one is filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ftx


def template_folder() -> Path:
    """The folder ftx.deploy_templates: inside the installed package, or at the top of a checkout."""
    package = Path(ftx.__file__).parent
    places = (package / "deploy_templates", package.parents[1] / "deploy_templates")
    return next(place for place in places if place.is_dir())


def rendered_with_brackets(name: str, values: Mapping[str, Any], filters: Mapping[str, Callable[[Any], str]]) -> str:
    """The template `name` ("folder/file.jinja") filled in; its marks are [[ ]] and [% %], as {{ }} is theirs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # YAML, shell and Groovy, whose values go through a filter each: nothing here is HTML.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(values)
