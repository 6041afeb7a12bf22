"""A model as GGUF, by llama.cpp's own converter, with a Modelfile for Ollama."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ftx.atomic import whole_folder, write_text
from ftx.errors import FtxError, ModelError, RecipeError, StorageError
from ftx.export.frames import frames_of
from ftx.export.modelfile import modelfile
from ftx.export.opened import Whole

WEIGHTS = "model.gguf"
LLAMA = "transformers"  # the layout by that name, where a family's own is none that llama.cpp reads
KINDS = ("f32", "f16", "bf16", "q8_0", "auto")


class ConverterError(FtxError):
    """llama.cpp's converter failed."""

    kind = "converter"


def write_gguf(
    whole: Whole,
    converter: Path,
    out: Path,
    say: Callable[[str], None],
    *,
    python: Path | None = None,
    kind: str = "f16",
    num_ctx: int | None = None,
) -> None:
    """Write `out` with model.gguf and Modelfile; `say` gets the converter's lines.

    `python` runs the converter, by default ftx's own. Raises RecipeError, ModelError, ConverterError, StorageError.
    """
    if not converter.is_file():
        raise RecipeError(
            f"--converter: {converter} is no file; clone https://github.com/ggml-org/llama.cpp and give its "
            f"convert_hf_to_gguf.py"
        )
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    if whole.sees:
        raise ModelError(f"{whole.folder} sees pictures; ftx writes GGUF of models that read text alone")
    if num_ctx and num_ctx > whole.facts.max_positions:
        raise RecipeError(f"--num-ctx: {num_ctx} is more than the {whole.facts.max_positions} tokens of the model")
    frames = frames_of(whole.template, whole.tokenizer, whole.stop_ids)
    text = modelfile(WEIGHTS, frames, whole, num_ctx)
    with whole_folder(out) as folder:
        with TemporaryDirectory(dir=folder.parent, prefix=f".{out.name}.") as between:
            readable = _readable(whole, Path(between))
            command = [str(python or sys.executable), str(converter), str(readable)]
            _run([*command, "--outfile", str(folder / WEIGHTS), "--outtype", kind], say)
        if not (folder / WEIGHTS).is_file():
            raise ConverterError(f"{converter} ended well and wrote no {WEIGHTS}; is it llama.cpp's?")
        write_text(folder / "Modelfile", text)


def _readable(whole: Whole, between: Path) -> Path:
    """A folder that the converter reads: the model's own, or `between` with the model in Llama's layout."""
    if LLAMA not in whole.family.layouts:
        return whole.folder
    whole.family.convert(whole.folder, LLAMA, between)
    return between


def _run(command: list[str], say: Callable[[str], None]) -> None:
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise RecipeError(f"--python: {command[0]} cannot be run: {error.strerror}") from None
    lines = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            say(line.rstrip())
    if not process.returncode:
        return
    if "No space left on device" in "\n".join(lines):
        raise StorageError("the disk is full: the converter could not write all of the model; nothing of it was kept")
    why = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
    missing = "ModuleNotFoundError" in why
    remedy = "; name a Python that has llama.cpp's requirements with --python" if missing else ""
    raise ConverterError(f"llama.cpp's converter failed: {why}{remedy}")
