"""OpenXLab as its own client 0.1.3 speaks to it: sign-on, model centre, data centre, and what it should not be asked.

The client's addresses are written into it, so the server stands at 127.0.0.1:443 of a network of its own, where the
names lead to it, with a certificate that its callers are told to trust.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

NAMES = ("openxlab.org.cn", "openapi.openxlab.org.cn", "sso.openxlab.org.cn")
AK, SK = "ak-ann-0001", "sk-ann-9d41f07c"
ENDS = "2099-01-01 00:00:00"


class OpenXLabServer(ThreadingHTTPServer):
    """Model repositories and data sets by name. `asked` are the paths that were asked for, in order."""

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 443), OpenXLabHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[str] = []
        self.repos: dict[str, dict[str, Any]] = {}
        self.sets: dict[str, dict[str, bytes]] = {}
        self.forgets = False  # says that a repository was made, and has none
        self.spoils = False  # gives other bytes than it lists
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class OpenXLabHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: OpenXLabServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given = json.loads(body) if body[:1] == b"{" else {}
        last = path.rstrip("/").rsplit("/", 1)[-1]
        if "/open/" in path:
            self.sign_on(last, given)
        elif last == "version":
            told = {"auto_update": True, "is_latest_version": False, "latest_version": "OpenXLab 9.9.9"}
            self.give({"msgCode": "10000", "msg": "Success", "data": told})
        elif "/bury/" in path or "/track/" in path:
            self.tell({})
        elif self.headers.get("Authorization") != "JWT" and not path.startswith("/blob/"):
            self.tell(None, "10401", "unauthorized")
        elif "/model-center/" in path:
            self.models(last, given)
        else:
            self.data(path)

    def sign_on(self, step: str, given: dict[str, Any]) -> None:
        if given["ak"] != AK:
            self.tell(None, "10001", "access key does not exist")
        elif step == "auth":
            self.tell({"nonce": "n-0nce", "algorithm": "HmacSHA1"})
        elif given["d"] != base64.b64encode(hmac.new(SK.encode(), b"n-0nce", "sha1").digest()).decode():
            self.tell(None, "10002", "signature mismatch")
        else:
            about = {
                "jwt": "JWT",
                "expiration": ENDS,
                "sso_uid": "42",
                "refresh_token": "r",
                "refresh_expiration": ENDS,
            }
            self.tell(about)

    def models(self, step: str, given: dict[str, Any]) -> None:
        repos = self.server.repos
        if step == "createModelRepository":
            if given["name"] in repos:
                self.tell(None, "10409", "repository already exists")
                return
            if not self.server.forgets:
                repos[given["name"]] = given
            self.tell({})
        elif given["repoName"] in repos:
            self.tell({"models": repos[given["repoName"]]["models"]})
        else:
            self.tell(None, "10404", "repository not found")

    def data(self, path: str) -> None:
        parts = path.strip("/").split("/")
        if path.startswith("/datasets/api/v2/datasets/"):
            files = self.server.sets.get(parts[4])
            if files is None:
                self.give({"msg": "no such data set"}, 404)
                return
            listed = [
                {"dataset_id": parts[4], "size": len(b), "path": f"/{p}", "sha256": hashlib.sha256(b).hexdigest()}
                for p, b in files.items()
            ]
            self.give({"data": {"hasMediaFile": True, "toast": "", "hasNext": False, "list": listed}})
        elif path.startswith("/datasets/resolve/"):
            place = f"https://openxlab.org.cn/blob/{parts[2]}/{'/'.join(parts[4:])}"
            self.answer(302, b"", {"Location": place})
        elif path.startswith("/blob/"):
            content = self.server.sets[parts[1]]["/".join(parts[2:])]
            self.answer(200, content[::-1] if self.server.spoils else content, {})
        else:
            self.give({"data": {}})

    def tell(self, data: Any, code: str = "10000", why: str = "ok") -> None:
        inner = {"msgCode": code, "msg": why, "traceId": "t", "data": data}
        self.give({"msgCode": "10000", "msg": "ok", "traceId": "t", "data": inner})

    def give(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
