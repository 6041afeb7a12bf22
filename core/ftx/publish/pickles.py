"""What a pickle would do when it is loaded, read from its opcodes without loading it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# The classes that torch's own weight files name; whatever else a pickle names could run code.
HARMLESS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "UntypedStorage"),
    ("torch.serialization", "_get_layout"),
}
STORAGES = {
    f"{kind}Storage"
    for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
}
PUSHES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
STREAMS = 5  # pickles one after another at the start of torch's files of before 2020: sizes, storages, the tensors


def is_pickle(start: bytes, name: str) -> bool:
    """Whether a file is a pickle, or a zip that holds one, by its first bytes or its name."""
    if name.lower().endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")):
        return True
    return start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def dangers(path: Path) -> list[str]:
    """What loading the file would call beyond torch's own rebuilding of tensors, as module.name; sorted.

    A file that cannot be read as a pickle to its end is a danger by itself.
    """
    found: set[str] = set()
    try:
        if _packed_by_torch(path):
            with zipfile.ZipFile(path) as packed:
                code = [name for name in packed.namelist() if name.endswith(".py") or "/code/" in name]
            found.update(f"the code in {name}" for name in code if not name.endswith(".pkl"))
        for stream in _streams(path):
            found.update(_named(stream))
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        found.add(f"what cannot be read ({error})")
    return sorted(found)


def texts(path: Path) -> Iterator[str]:
    """All texts that a file without dangers holds, the names of its tensors among them."""
    for stream in _streams(path):
        for _, argument, _ in pickletools.genops(stream):
            if isinstance(argument, bytes | bytearray):
                yield bytes(argument).decode("utf-8", "replace")
            elif isinstance(argument, str):
                yield argument


def _packed_by_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"  # as torch decides, whatever stands at the end


def _streams(path: Path) -> Iterator[IO[bytes]]:
    """Every pickle of the file, to be read to its end before the next."""
    if _packed_by_torch(path):
        with zipfile.ZipFile(path) as packed:
            yield from (io.BytesIO(packed.read(name)) for name in packed.namelist() if name.endswith(".pkl"))
        return
    with path.open("rb") as file:
        for number in range(STREAMS):
            before = file.tell()
            if number and not file.read(1):
                return
            file.seek(before)
            yield file


def _named(file: IO[bytes]) -> Iterator[str]:
    """The globals that a pickle names and that are not harmless."""
    texts: list[str | None] = []
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in PUSHES:
            texts.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else None
        elif opcode.name in PUTS:
            memo[int(argument or 0)] = texts[-1] if texts else None
        elif opcode.name in GETS:
            texts.append(memo.get(int(argument or 0)))
        elif opcode.name in ("GLOBAL", "INST"):
            yield from _strange(*str(argument).split(" ", 1))
            texts.append(None)
        elif opcode.name == "STACK_GLOBAL":
            yield from _strange(*_pair(texts))
            texts.append(None)
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            yield "an extension of the registry"
        elif opcode.name not in ("PROTO", "FRAME"):
            # What was built of something else is no text: a name may not be put together out of sight.
            texts.append(None)


def _pair(texts: list[str | None]) -> tuple[Any, Any]:
    return (texts[-2], texts[-1]) if len(texts) > 1 else (None, None)


def _strange(module: str | None, name: str | None) -> Iterator[str]:
    if module is None or name is None:
        yield "a name that it puts together itself"
    elif (module, name) not in HARMLESS and not (module in ("torch", "torch.storage") and name in STORAGES):
        if module == "torch" and name in ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"):
            return
        yield f"{module}.{name}"
