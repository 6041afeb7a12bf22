"""Small real environments for tests: a wheel written on the spot, a lock that names it, a plugin that declares it."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from ftx import hookimpl
from ftx.environments import Environment

OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"


def write_wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0") -> Path:
    """A pure wheel of `files` (path -> text) without dependencies."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything = {**files, **meta}
    record = "".join(f"{one},,\n" for one in [*everything, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**everything, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def lock_of(folder: Path, *wheels: Path) -> Path:
    lock = folder / "small.lock"
    lock.write_text("--no-index\n" + "".join(f"{wheel}\n" for wheel in wheels), "utf-8")
    return lock


def declare(name: str, lock: Path, module: str, pythons: tuple[str, ...] = (OURS,)) -> Environment:
    return Environment(name, pythons, lock, module, (module,))


class Declares:
    """A plugin that declares environments."""

    def __init__(self, *environments: Environment) -> None:
        self._environments = environments

    @hookimpl
    def ftx_environments(self) -> list[Environment]:
        return list(self._environments)
