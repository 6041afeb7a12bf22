"""`ftx plugins`."""

from __future__ import annotations

import click

from ftx.console import Console
from ftx.plugins import Registry


@click.command()
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def plugins(registry: Registry, json_lines: bool) -> None:
    """List every part with its plugin, origin and version, and the plugins that were refused with the reason."""
    console = Console(json_lines=json_lines)
    rows = []
    for (kind, name), origin in registry.origins.items():
        summary = (registry.parts[kind][name].__doc__ or "").strip().split("\n")[0]
        rows.append([kind, name, origin.plugin, origin.distribution, origin.version, summary])
        console.event({"event": "part", "kind": kind, "name": name, **vars(origin), "summary": summary})
    console.table("parts", ["kind", "name", "plugin", "from", "version", "what it is"], rows)
    for refused in registry.refused:
        console.event({"event": "refused", **vars(refused.origin), "reason": refused.reason})
    if registry.refused:
        listed = [[r.origin.plugin, r.origin.distribution, r.origin.version, r.reason] for r in registry.refused]
        console.table("refused", ["plugin", "from", "version", "reason"], listed)
