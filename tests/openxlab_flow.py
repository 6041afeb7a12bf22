"""What test_openxlab_client runs in a network of its own: ftx and OpenXLab's real client, against a server there.

    python openxlab_flow.py WORK MERGED BASE    (WORK holds server.pem and server.key)

It prints one JSON object: what each step gave, and what the server was asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lfs_server import LfsHost
from openxlab_server import AK, SK, OpenXLabServer

TOKEN = "glpat-5d0a91cc77e3"
STOCK = "import openxlab.dataset as d, sys; d.get('ann/sums', sys.argv[1])"


def main(work: Path, merged: Path, base: str) -> dict[str, Any]:
    server = OpenXLabServer(work / "server.pem", work / "server.key")
    host = LfsHost(work / "host")
    host.users["ann"] = (TOKEN, True)
    rows = "".join(json.dumps({"text": f"{i} + {i} = {2 * i}"}) + "\n" for i in range(200)).encode()
    server.sets["ann,sums"] = {"readme.md": b"# sums\n", "train/a.jsonl": rows}
    server.sets["ann,up"] = {"../../up.jsonl": rows}
    steps: dict[str, Any] = {}

    def take(name: str, *words: str, **more: str) -> None:
        server.asked.clear()
        own = {"OPENXLAB_AK": AK, "OPENXLAB_SK": SK, "OPENXLAB_USER": "ann", "OPENXLAB_TOKEN": TOKEN, **more}
        done = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, cwd=work, check=False)
        steps[name] = {"code": done.returncode, "out": done.stdout, "err": done.stderr, "asked": list(server.asked)}

    def publish(name: str, repo: str, **more: str) -> None:
        ftx = (sys.executable, "-m", "ftx", "publish", "openxlab", str(merged), "--repo", repo, "--base", base)
        take(name, *ftx, "--set", f"host={host.url}", "--yes", "--json", **more)

    def rows_of(name: str, repo: str, **more: str) -> None:
        code = (
            "import sys; from ftx.errors import FtxError\n"
            "from ftx_sources.openxlab_client import OpenXLabClient\n"
            "try:\n"
            f"    source = OpenXLabClient(repo={repo!r}); print(len(list(source.records())), source.commit)\n"
            "except FtxError as error:\n"
            "    sys.exit(f'{error.exit_code} {error}')\n"
        )
        take(name, sys.executable, "-c", code, FTX_CACHE=str(work / "cache" / name), **more)

    cache = Path(os.environ["FTX_CACHE"])
    for name in ("fetched", "spoilt", "wrong keys of data", "out", "gone"):
        (work / "cache" / name).mkdir(parents=True)
        (work / "cache" / name / "environments").symlink_to(cache / "environments")

    publish("wrong keys", "ann/cats", OPENXLAB_SK="another")
    server.forgets = True
    publish("forgotten", "ann/cats")
    server.forgets = False
    publish("not on git", "ann/cats")
    host.new("ann/cats")
    host.new("ann/dogs")
    publish("there", "ann/cats")
    (host.root / "ann/dogs.git").rename(host.root / "ann/hidden.git")
    server.repos["dogs"] = {"models": []}
    publish("taken", "ann/dogs")
    steps["made"] = server.repos["cats"]
    steps["files"] = sorted(host.contents("ann/cats"))

    rows_of("fetched", "ann/sums")
    server.spoils = True
    rows_of("spoilt", "ann/sums")
    server.spoils = False
    rows_of("wrong keys of data", "ann/sums", OPENXLAB_AK="nobody")
    rows_of("out", "ann/up")
    rows_of("gone", "ann/none")

    (python,) = (cache / "environments").glob("openxlab-*/bin/python")
    stock = work / "stock"
    stock.mkdir()
    take("stock", str(python), "-I", "-c", STOCK, str(stock / "data"), HOME=str(stock))
    steps["pip"] = (work / "pip.log").read_text("utf-8").splitlines() if (work / "pip.log").is_file() else []
    return steps


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
