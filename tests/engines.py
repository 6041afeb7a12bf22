"""A container engine for tests, and a stand-in for ftx's image: this checkout in this machine's own folders."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The machine's programs and libraries, its Python, ours, and the code under test.
NEEDED = sorted({"/usr", sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, str(ROOT)})
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ENTRY = f"""#!/bin/sh
export PYTHONPATH={ROOT}/core:{ROOT}/plugins PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
exec {sys.executable} -m ftx "$@"
"""


def docker(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run docker to its end; raises CalledProcessError when it fails."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True, **more)  # type: ignore[call-overload,no-any-return]


def have_engine() -> dict[str, str]:
    """The variables by which an engine is reached; where none answers, one is started."""
    asked = (["compose", "version"], ["version"])
    if all(subprocess.run(["docker", *words], capture_output=True).returncode == 0 for words in asked):
        return {}
    done = subprocess.run(["sh", ROOT / "scripts" / "docker_engine"], check=True, capture_output=True, text=True)
    return dict(re.findall(r"^export (\w+)='(.*)'$", done.stdout, re.MULTILINE))


def stand_in() -> str:
    """Make the image; its tag. Containers of it need the folders of NEEDED at their own paths."""
    changes = ('ENTRYPOINT ["/ftx"]', "ENV HOME=/home/ftx", "WORKDIR /workspace")
    return _imported({"ftx": ENTRY.encode()}, LINKS, *(word for one in changes for word in ("--change", one)))


def foreign() -> str:
    """An image of another architecture: a real program of this machine, with the other one's number in its head."""
    program = bytearray(Path("/usr/bin/true").read_bytes())
    program[18:20] = b"\xb7\x00"  # AArch64
    return _imported({"ftx": bytes(program)}, {}, "--platform", "linux/arm64", "--change", 'ENTRYPOINT ["/ftx"]')


def _imported(files: dict[str, bytes], links: dict[str, str], *options: str) -> str:
    tag = f"ftx-test:{uuid.uuid4().hex[:12]}"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), 0o755
            tar.addfile(about, io.BytesIO(content))
        for name in ("home/ftx", "workspace"):
            about = tarfile.TarInfo(name)
            about.type, about.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(about)
        for name, target in links.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = tarfile.SYMTYPE, target
            tar.addfile(about)
    subprocess.run(["docker", "import", *options, "-", tag], input=packed.getvalue(), check=True, capture_output=True)
    return tag
