"""`ftx data`: look into data sets, convert, split and make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftx.cli.options import columns_option
from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.data.check import Report
    from ftx.data.samples import Preparation
    from ftx.data.sets import DataSet
    from ftx.data.show import Stretch

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def data() -> None:
    """Look into data sets, convert, split and make them.

    SOURCE is a file, a folder, a pattern, - for standard input, or hub:owner/name@revision.
    """


def set_options(command: F) -> F:
    """SOURCE and how its rows are read."""
    command = click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")(command)
    command = click.option("--images", "image_folder", metavar="FOLDER", help="Where image paths start.")(command)
    command = click.option("--system", metavar="TEXT", help="System message for rows without one.")(command)
    command = click.option("--columns", metavar="input=q,output=a", help="Which columns hold what.")(command)
    command = click.option("--format", "row_format", default="auto", metavar="NAME", help="Row format.")(command)
    return click.argument("source")(command)


def model_options(command: F) -> F:
    """The tokenizer and template that rows are measured with."""
    command = click.option("--max-length", type=click.IntRange(2), default=2048, show_default=True)(command)
    command = click.option("--template", default="auto", metavar="NAME", help="Prompt template.")(command)
    command = click.option("--plugin", "--family", "family", default="auto", metavar="NAME")(command)
    return click.option("--model", metavar="FOLDER", help="Count tokens as this model does.")(command)


def opened(registry: Registry, source: str, options: dict[str, Any]) -> DataSet:
    """The set that SOURCE and its options name. Raises RecipeError, DataError."""
    from ftx.data.sets import open_set
    from ftx.plan import configured
    from ftx.recipe import source_of

    named = source_of(source)
    part = configured(registry.source(named["name"]), named, "source")
    images = Path(options["image_folder"]) if options["image_folder"] else None
    columns = columns_option(options["columns"])
    return open_set(part, options["row_format"], options["system"], registry, columns, images)


def prepared(registry: Registry, model: str, options: dict[str, Any]) -> Preparation:
    """How rows become tokens of the model in the folder `model`. Raises ModelError, RecipeError."""
    from ftx.data.samples import Preparation
    from ftx.plan import family_template, find_family

    family = find_family({"name": options["family"]}, Path(model), registry)
    tokenizer = family.tokenizer(Path(model))
    template = family_template(options["template"], tokenizer, family, Path(model))
    return Preparation(template, tokenizer, options["max_length"], images=family.image_processor(Path(model)))


@data.command()
@set_options
@model_options
@click.option("--max-rejected", type=click.IntRange(0), default=0, show_default=True, help="Rows that may be unusable.")
@click.pass_obj
def check(
    registry: Registry, /, source: str, json_lines: bool, model: str | None, max_rejected: int, **options: Any
) -> None:
    """Read every row of SOURCE: format, counts, lengths, duplicates, images, secrets. Exit 3 when rows are unusable."""
    from ftx.data.check import check as check_set
    from ftx.data.load import refuse_rejects

    console = Console(json_lines=json_lines)
    one = opened(registry, source, options)
    if model:
        how = prepared(registry, model, options)
        limit = options["max_length"]
        report = check_set(one, length=lambda c: len(how.encode(c).ids), unit="tokens", max_length=limit)
    else:
        report = check_set(one, length=lambda c: sum(len(m.content) for m in c.messages), unit="characters")
    if json_lines:
        console.event({"event": "checked", "source": source, **report.as_dict()})
    else:
        _show_report(console, source, report)
    refuse_rejects(report.ledger, max_rejected)


def _show_report(console: Console, source: str, report: Report) -> None:
    told = report.as_dict()
    lengths = told["lengths"]
    rows = [
        ["format", f"{report.format}: {report.evidence}"],
        ["rows", f"{report.ledger.read} read, {report.ledger.kept} good, {report.ledger.rejected} rejected"],
        ["answers a row", ", ".join(f"{n}: {count} rows" for n, count in told["answers"].items())],
        ["with a system message", str(report.with_system)],
        ["images", str(report.images)],
        ["duplicates", _found(told["duplicates"])],
        *([kind, _found(found)] for kind, found in told["secrets"].items()),
        *([reason, f"{count} rows"] for reason, count in report.reasons.most_common()),
    ]
    console.table(source, ["what", "found"], rows)
    if not report.lengths:
        return
    summary = ", ".join(f"{name} {lengths[name]:,}" for name in ("min", "median", "p95", "p99", "max", "total"))
    most = max(count for _, count in lengths["histogram"])
    bars = [
        [f"up to {bound:,}", f"{count:,}", "█" * max(count > 0, 40 * count // most)]
        for bound, count in lengths["histogram"]
    ]
    console.table(f"length in {report.unit}: {summary}", ["length", "rows", ""], bars)
    if report.over:
        console.warn(f"{report.over} rows exceed the maximum length; data.overlong says what becomes of them")


def _found(found: dict[str, Any]) -> str:
    if not found["count"]:
        return "none"
    more = ", ..." if found["count"] > len(found["places"]) else ""
    return f"{found['count']}: {', '.join(found['places'])}{more}"


@data.command()
@set_options
@model_options
@click.option("--row", "number", type=click.IntRange(1), default=1, show_default=True, help="Which row, from 1.")
@click.pass_obj
def show(registry: Registry, /, source: str, json_lines: bool, model: str | None, number: int, **options: Any) -> None:
    """Show a row of SOURCE; with --model as it is rendered, what is learnt in colour, and its tokens."""
    from itertools import islice

    from ftx.data.check import looked_at
    from ftx.data.conversation import RowError
    from ftx.data.ledger import Reject
    from ftx.data.show import stretches
    from ftx.errors import DataError

    console = Console(json_lines=json_lines)
    one = opened(registry, source, options)
    record = next(islice(one.source.records(), number - 1, None), None)
    if record is None:
        raise DataError(f"{source} has fewer than {number} rows")
    how = prepared(registry, model, options) if model else None
    try:
        conversation = one.conversations(record)[0]
        if how and how.images:
            conversation = looked_at(conversation, one.images_in(record))
        parts = stretches(how.encode(conversation), how.tokenizer) if how else []
    except RowError as error:
        raise DataError(Reject(record.file, record.line, error.reason, error.remedy).sentence()) from None
    told = {"event": "row", "file": record.file, "line": record.line, "format": one.format.name}
    messages = [
        {k: v for k, v in vars(message).items() if v not in ((), "") and k != "pictures"}
        for message in conversation.messages
    ]
    if json_lines:
        console.event({**told, "messages": messages, "stretches": [vars(part) for part in parts]})
    elif parts:
        _show_tokens(console, parts)
    else:
        console.table(
            f"{record.file}: row {record.line}", ["role", "text"], [[m["role"], m.get("content", "")] for m in messages]
        )


def _show_tokens(console: Console, parts: list[Stretch]) -> None:
    from rich.text import Text

    rendered, tokens = Text(), Text()
    for part in parts:
        style = "bold green" if part.learnt else "dim"
        rendered.append(part.text, style)
        for i, (token, number) in enumerate(zip(part.tokens, part.ids, strict=True)):
            tokens.append(f"{token}", f"{style} {'underline' if i % 2 else ''}")
            tokens.append(f":{number} ", "dim")
    learnt = sum(len(part.ids) for part in parts if part.learnt)
    total = sum(len(part.ids) for part in parts)
    console.rendered(rendered, f"{learnt} of {total} tokens are learnt (green)")
    console.rendered(tokens, "tokens and ids")


@data.command()
@set_options
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", default="openai", show_default=True, metavar="NAME", help="Format to write.")
@click.option("--max-rejected", type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def convert(
    registry: Registry, /, source: str, out: Path, json_lines: bool, to: str, max_rejected: int, **options: Any
) -> None:
    """Write the rows of SOURCE to OUT (.jsonl or .json) in another format."""
    from ftx.data.convert import convert as convert_set

    console = Console(json_lines=json_lines)
    ledger = convert_set(opened(registry, source, options), registry.format(to)(), out, max_rejected)
    console.event({"event": "converted", "out": str(out), "format": to, **ledger.as_dict()})
    console.say(f"{ledger.kept} rows written to {out} as {to}, {ledger.rejected} rejected")


@data.command()
@set_options
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--test", "share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option("--max-rejected", type=click.IntRange(0), default=0, show_default=True)
@click.pass_obj
def split(
    registry: Registry,
    /,
    source: str,
    folder: Path,
    json_lines: bool,
    share: float,
    seed: int,
    max_rejected: int,
    **options: Any,
) -> None:
    """Write the rows of SOURCE into FOLDER's train.jsonl and test.jsonl; the same question is never in both."""
    from ftx.data.convert import split as split_set

    console = Console(json_lines=json_lines)
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    counts = split_set(opened(registry, source, options), train, test, share, seed, max_rejected)
    console.event({"event": "split", "train": str(train), "test": str(test), "rows": list(counts)})
    console.say(f"{counts[0]} rows in {train}, {counts[1]} in {test}")


@data.command()
@click.option("--name", required=True, help="Whose assistant the model is, or what it is called.")
@click.option("--maker", help="Who made it; left out of the answers when not given.")
@click.option("--rows", type=click.IntRange(1), default=400, show_default=True)
@click.option("--language", type=click.Choice(["both", "zh", "en"]), default="both", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("identity.jsonl"), show_default=True)
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
def identity(name: str, maker: str | None, rows: int, language: str, seed: int, out: Path, json_lines: bool) -> None:
    """Make rows, no two alike, in which the model says who it is, in Chinese and English."""
    from ftx.data.convert import rows_file
    from ftx.data.identity import identity_rows

    console = Console(json_lines=json_lines)
    languages = ("zh", "en") if language == "both" else (language,)
    made = identity_rows(name, maker, rows, languages, seed)
    with rows_file(out) as file:
        for row in made:
            file.add(row)
    console.event({"event": "made", "out": str(out), "rows": len(made)})
    console.say(f"{len(made)} rows in {out}; next: ftx train --model BASE --data {out}")
