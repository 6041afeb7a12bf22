"""Publishing to servers that are not ours: git's http-backend behind nginx, and giftless for Git LFS."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ftx.artifact import Artifact
from hub_servers import TOKEN, git
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)

pytestmark = pytest.mark.system  # needs git-lfs, nginx, fcgiwrap, and giftless in an environment of its own
PYTHON = Path(os.environ.get("FTX_GIFTLESS", "/opt/ftx-giftless/bin/python"))
REPO = "ann/cats"
BACKEND = "/usr/lib/git-core/git-http-backend"

NGINX = """
daemon off; pid {place}/nginx.pid; error_log {place}/error.log; worker_processes 1; user {user};
events {{}}
http {{
  access_log {place}/access.log; client_max_body_size 0;
  client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;
  uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
  server {{
    listen 127.0.0.1:{port}; auth_basic "git"; auth_basic_user_file {place}/users;
    location ~ ^(/[^/]+/[^/]+\\.git)/info/lfs {{
      auth_basic off; proxy_pass http://unix:{place}/giftless.sock; proxy_set_header Host $http_host;
      proxy_request_buffering off;
    }}
    location ~ \\.git/(HEAD|info/refs|objects/|git-(upload|receive)-pack) {{
      include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param GIT_PROJECT_ROOT {place}/repositories;
      fastcgi_param PATH_INFO $uri; fastcgi_param REMOTE_USER $remote_user;
      fastcgi_pass unix:{place}/fcgi.sock; fastcgi_request_buffering off;
    }}
  }}
}}
"""


def _giftless(place: Path) -> str:
    return json.dumps(
        {
            "LEGACY_ENDPOINTS": False,
            "AUTH_PROVIDERS": [{"factory": "giftless_basic:basic", "options": {"users": {"ann": TOKEN}}}],
            "PRE_AUTHORIZED_ACTION_PROVIDER": {
                "factory": "giftless.auth.jwt:factory",
                "options": {"algorithm": "HS256", "private_key": "k" * 40, "default_lifetime": 600},
            },
            "TRANSFER_ADAPTERS": {
                "basic": {
                    "factory": "giftless.transfer.basic_streaming:factory",
                    "options": {
                        "storage_class": "giftless.storage.local_storage:LocalStorage",
                        "storage_options": {"path": str(place / "objects")},
                        "action_lifetime": 900,
                    },
                }
            },
        }
    )


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address; all three programs run as whoever runs the tests and end with the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    bare = place / "repositories" / f"{REPO}.git"
    bare.mkdir(parents=True)
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main", ".")
    git(bare, "config", "http.receivepack", "true")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "-stdin"], input=TOKEN, capture_output=True, text=True)
    (place / "users").write_text(f"ann:{hashed.stdout.strip()}\n", "utf-8")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (place / "nginx.conf").write_text(NGINX.format(place=place, port=port, user=user, backend=BACKEND), "utf-8")
    (place / "giftless.yaml").write_text(_giftless(place), "utf-8")
    about = {"PATH": os.environ["PATH"], "HOME": str(place), "GIT_CONFIG_GLOBAL": os.devnull}
    lfs = {**about, "GIFTLESS_CONFIG_FILE": str(place / "giftless.yaml"), "PYTHONPATH": str(Path(__file__).parent)}
    gunicorn = [
        PYTHON,
        "-m",
        "gunicorn",
        "-b",
        f"unix:{place}/giftless.sock",
        "--threads",
        "4",
        "giftless.wsgi_entrypoint:app",
    ]
    programs = [
        (["fcgiwrap", "-s", f"unix:{place}/fcgi.sock"], about),
        (gunicorn, lfs),
        (["nginx", "-p", place, "-c", place / "nginx.conf"], about),
    ]
    with ExitStack() as running:
        for words, environment in programs:
            log = running.enter_context((place / f"{Path(words[0]).name}.log").open("wb"))
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.terminate)
        _await(place, port)
        yield f"http://127.0.0.1:{port}"


def _await(place: Path, port: int) -> None:
    """Until nginx, and giftless behind it, answer."""
    url = f"http://127.0.0.1:{port}/{REPO}.git/info/lfs/objects/batch"
    again = ("--retry", "60", "--retry-all-errors", "--retry-delay", "1", "--noproxy", "*", "--silent")
    shown = ("--output", str(place / "answer"), "--write-out", "%{http_code}", "--request", "POST")
    told = subprocess.run(["curl", *again, *shown, url], capture_output=True, text=True)
    assert told.stdout.startswith(("4", "2")), told.stdout


def test_push_and_pull(ftx: Any, server: str, place: Path, merged: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FTX_GIT_USER", "ann")
    monkeypatch.setenv("FTX_GIT_TOKEN", TOKEN)
    words = ("publish", "git", merged, "--repo", REPO, "--base", BASE, "--yes", "--json", "--set", f"host={server}")
    result = ftx(*words)
    assert result.code == 0, result.err
    (entry,) = json.loads((merged / "publish.json").read_text("utf-8"))["published"]
    assert entry["revision"] == git(place / "repositories" / f"{REPO}.git", "rev-parse", "HEAD").strip()
    assert ftx(*words).events[-1]["sent_files"] == 0
    out = tmp_path / "back"
    result = ftx("download", f"git:{REPO}", "--out", out, "--set", f"host={server}", "--json")
    assert result.code == 0, result.err
    assert (out / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    assert Artifact.open(out).kind == "merged"
    objects = [path for path in (place / "objects").rglob("*") if path.is_file()]
    assert entry["files"]["model.safetensors"]["sha256"] in {path.name for path in objects}
    told = [path for path in place.rglob("*") if path.suffix in (".log", ".conf") and TOKEN in path.read_text("utf-8")]
    assert told == []


def test_a_wrong_token(ftx: Any, server: str, adapter: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FTX_GIT_USER", "ann")
    monkeypatch.setenv("FTX_GIT_TOKEN", "wrong-token-1234")
    result = ftx("publish", "git", adapter, "--repo", REPO, "--base", BASE, "--yes", "--set", f"host={server}")
    assert (result.code, "does not know this token" in result.err) == (5, True), result.err
