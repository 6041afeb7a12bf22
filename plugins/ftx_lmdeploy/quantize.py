"""AWQ in 4 bits by LMDeploy, calibrated on the data that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ftx.artifact import MANIFEST
from ftx.atomic import sha256_of, whole_folder, write_json
from ftx.checkpoint_files import read_json
from ftx.contracts import DataSource
from ftx.data.conversation import RowError
from ftx.data.encode import Encoder
from ftx.data.sets import DataSet, open_set
from ftx.environments import python_of
from ftx.errors import DataError, ModelError, RecipeError
from ftx.export.opened import Whole
from ftx.plan import configured
from ftx.recipe import source_of
from ftx_lmdeploy import NAME
from ftx_lmdeploy.prepared import prepared
from ftx_lmdeploy.process import Child, sigterm_as_ctrl_c

if TYPE_CHECKING:
    from ftx.plugins import Registry

AWQ = Path(__file__).with_name("awq.py")
BATCH = 64  # rows that are tokenised at once
SHORTEST = 16  # tokens of a calibration row at least
NOTE = "quantized.json"
CARRIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True)
class Quantizing:
    """`samples` rows of up to `length` tokens calibrate; weights share a scale in groups of `group_size`."""

    bits: int = 4
    group_size: int = 128
    samples: int = 128
    length: int = 2048
    device: str = "cuda"
    dtype: str = "auto"
    search_scale: bool = False


def sets_of(whole: Whole, data: Sequence[str], registry: Registry) -> list[DataSet]:
    """The sets to calibrate on: those of `data`, else those that the artefact was trained on.

    Raises RecipeError, DataError.
    """
    if data:
        named = [(source_of(path), "auto", None, None) for path in data]
    elif whole.artifact:
        told = whole.artifact.plan["data"]["sets"]
        named = [(one["source"], one["format"], one.get("system"), one.get("columns")) for one in told]
    else:
        raise RecipeError(f"{whole.folder} tells of no training data to calibrate on; give some with --data FILE")
    return [_opened(*one, registry) for one in named]


def _opened(
    source: Mapping[str, Any], form: str, system: str | None, columns: Mapping[str, str] | None, registry: Registry
) -> DataSet:
    part: DataSource = configured(registry.source(source["name"]), dict(source), "source")
    return open_set(part, form, system, registry, columns)


def calibration_rows(whole: Whole, sets: Iterable[DataSet], how: Quantizing) -> list[list[int]]:
    """Training rows end to end, cut into rows of one length: at most `samples` of `length` tokens.

    Raises DataError when there are too few tokens for one row.
    """
    wanted = how.samples * how.length
    ids: list[int] = []
    for row in _encoded(whole, sets):
        ids += row
        if len(ids) >= wanted:
            break
    length = min(how.length, len(ids))
    if length < SHORTEST:
        raise DataError(f"the data to calibrate on has {len(ids)} tokens; give at least {SHORTEST} with --data FILE")
    return [ids[at : at + length] for at in range(0, min(wanted, len(ids)) - length + 1, length)]


def _encoded(whole: Whole, sets: Iterable[DataSet]) -> Iterator[list[int]]:
    encoder = Encoder(whole.template, whole.tokenizer)
    for one in sets:
        conversations = _text_conversations(one)
        while batch := list(islice(conversations, BATCH)):
            yield from (row.ids for row in encoder.rows(batch) if not isinstance(row, RowError))


def _text_conversations(one: DataSet) -> Iterator[Any]:
    """Rows that can be read, without those that show pictures."""
    for record in one.source.records():
        try:
            found = one.conversations(record)
        except RowError:
            continue
        yield from (conversation for conversation in found if not conversation.images)


def command(python: Path, folder: Path, out: Path, rows: Path, how: Quantizing) -> list[str]:
    """What is run in LMDeploy's environment."""
    return [
        *(str(python), "-I", str(AWQ), str(folder), "--work-dir", str(out), "--rows", str(rows)),
        *("--w-bits", str(how.bits), "--w-group-size", str(how.group_size), "--batch-size", "1"),
        *("--device", how.device, "--dtype", how.dtype),
        *(["--search-scale"] if how.search_scale else []),
    ]


def quantize(
    whole: Whole, sets: Sequence[DataSet], out: Path, how: Quantizing, registry: Registry, say: Callable[[str], None]
) -> int:
    """Write the quantised model into `out`; the number of rows it was calibrated on. Raises FtxError."""
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    if whole.sees:
        raise ModelError(f"{whole.folder} sees pictures; ftx quantises models that read text alone")
    python = python_of(NAME, registry)
    _refuse_sizes(whole, how)
    rows = calibration_rows(whole, sets, how)
    source = prepared(whole)
    with sigterm_as_ctrl_c(), whole_folder(out) as folder, TemporaryDirectory() as between:
        told = Path(between) / "rows.json"
        told.write_text(json.dumps(rows), "utf-8")
        _run(command(python, source, folder, told, how), say)
        _finish(whole, source, folder, how, len(rows))
    return len(rows)


def _refuse_sizes(whole: Whole, how: Quantizing) -> None:
    config = read_json(whole.folder / "config.json")
    for key in ("hidden_size", "intermediate_size"):
        if int(config.get(key, 0)) % how.group_size:
            raise RecipeError(f"--group-size: {how.group_size} does not divide the model's {key}, {config[key]}")


def _run(words: list[str], say: Callable[[str], None]) -> None:
    child = Child(words, say)
    try:
        if child.wait():
            raise child.failure("the model was not quantised", "take a smaller --length")
    finally:
        child.stop()


def _finish(whole: Whole, source: Path, folder: Path, how: Quantizing, rows: int) -> None:
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            "LMDeploy ended well and wrote no weights; is its environment sound? run: ftx env check lmdeploy"
        )
    for statistics in folder.glob("*.pth"):  # of the calibration: pickles that nobody needs afterwards
        statistics.unlink()
    for name in CARRIED:
        (folder / name).write_bytes((source / name).read_bytes())
    sealed = whole.folder / MANIFEST
    write_json(
        folder / NOTE,
        {
            "method": "awq",
            **{key: value for key, value in vars(how).items() if key != "device"},
            "rows": rows,
            "of": whole.family.fingerprint(whole.folder),
            "sealed": sha256_of(sealed) if sealed.is_file() else None,
        },
    )
