"""A git host with Git LFS on 127.0.0.1: git's own http-backend, and LFS with users, quota, locks and faults."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_publishing import Fault
from hub_servers import GitHandler, GitHost, git

CHUNK = 1 << 18  # bytes
# The server is another machine: what a test sets for the client is not for it.
OWN = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


class LfsHost(GitHost):
    """Users by name with their token and whether they may write. Counts what is sent to it."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root)
        self.RequestHandlerClass = LfsHandler
        self.users: dict[str, tuple[str, bool]] = {}
        self.quota: int | None = None
        self.largest: int | None = None
        self.locks: dict[str, str] = {}  # path -> owner
        self.moved: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.reached, self.go = threading.Event(), threading.Event()
        self.cut_after: int | None = None  # bytes of one object, once
        self.cut_every: int | None = None  # bytes of all objects together, again and again
        self.rate: float | None = None  # bytes a second that all uploads share
        self.turn = threading.Lock()
        self.came: Counter[str] = Counter()  # bytes by object, those of broken attempts too
        self.cuts = 0
        self.pushed: Callable[[], None] | None = None  # called when an object begins to arrive
        self.received: list[str] = []  # ids of objects that arrived whole
        self.heads: list[str] = []  # what came in the head of every request

    def new(self, repo: str) -> Path:
        """An empty repository; its folder on the host."""
        bare = self.bare(repo)
        git(bare, "config", "http.receivepack", "true")
        return bare

    def store(self, repo: str, oid: str) -> Path:
        return self.root / f"{repo}.git" / "lfs" / oid

    def contents(self, repo: str) -> dict[str, bytes]:
        """The files of the repository's default branch, as a clone with LFS would have them."""
        bare = self.root / f"{repo}.git"
        found = {}
        for name in filter(None, git(bare, "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")):
            raw = subprocess.run(["git", "cat-file", "blob", f"HEAD:{name}"], cwd=bare, capture_output=True).stdout
            pointer = re.match(rb"version https://git-lfs.*\noid sha256:(\w+)\n", raw)
            found[name] = self.store(repo, pointer[1].decode()).read_bytes() if pointer else raw
        return found


class LfsHandler(GitHandler):
    server: LfsHost

    def do_PUT(self) -> None:  # noqa: N802
        self.do_GET()

    def route(self) -> None:
        self.server.heads.append(str(self.headers))
        address = urlsplit(self.path)
        repo, _, rest = unquote(address.path).strip("/").partition(".git/")
        for fault in self.server.faults:
            if fault.due(self.command, self.path, self.server.asked):
                self.body()
                if fault.status < 0:
                    self.server.reached.set()
                    self.server.go.wait(60)
                if fault.status > 0:
                    self.json(fault.status, {"message": fault.says}, fault.head)
                else:
                    self.close_connection = True
                    self.connection.close()
                return
        if repo in self.server.moved:
            self.body()
            place = self.path.replace(f"/{repo}.git", f"/{self.server.moved[repo]}.git")
            self.answer(301, b"", {"Location": self.server.url + place})
            return
        user = self.user()
        if user is None:
            self.body()
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="git"', "LFS-Authenticate": 'Basic realm="git"'})
        elif not (self.server.root / f"{repo}.git").is_dir():
            self.body()
            self.answer(404, b"not found")
        elif rest.startswith("info/lfs/"):
            self.large(repo, rest.removeprefix("info/lfs/"), user)
        elif "receive-pack" in self.path and not self.server.users[user][1]:
            self.body()
            self.answer(403, b"not allowed to push")
        else:
            self.backend(address.path, address.query, user)

    def user(self) -> str | None:
        said = re.match(r"Basic (.+)", self.headers.get("Authorization", ""))
        if not said:
            return None
        name, _, token = base64.b64decode(said[1]).decode().partition(":")
        return name if self.server.users.get(name, ("",))[0] == token else None

    def chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            part = self.rfile.read(min(left, CHUNK))
            if not part:
                raise ConnectionResetError("the client went away")
            left -= len(part)
            yield part

    def body(self) -> bytes:
        return b"".join(self.chunks())

    def backend(self, path: str, query: str, user: str) -> None:
        about = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": unquote(path),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": user,
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        if length := self.headers.get("Content-Length"):
            about["CONTENT_LENGTH"] = length
        with tempfile.TemporaryFile() as body:
            for part in self.chunks():
                body.write(part)
            body.seek(0)
            said = subprocess.run(
                ["git", "http-backend"], stdin=body, env={**OWN, **about}, capture_output=True, check=False
            )
        head, _, content = said.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(status, content, headers)

    def large(self, repo: str, rest: str, user: str) -> None:
        if rest == "objects/batch":
            self.batch(repo, json.loads(self.body()), user)
        elif rest == "locks/verify":
            self.body()
            locks = [{"id": path, "path": path, "owner": {"name": who}} for path, who in self.server.locks.items()]
            ours = [lock for lock in locks if lock["owner"]["name"] == user]  # type: ignore[index]
            self.json(200, {"ours": ours, "theirs": [lock for lock in locks if lock not in ours]})
        elif rest == "verify":
            one = json.loads(self.body())
            stored = self.server.store(repo, one["oid"])
            self.json(200 if stored.is_file() and stored.stat().st_size == one["size"] else 422, {})
        elif rest.startswith("objects/") and self.command == "PUT":
            self.take(repo, rest.removeprefix("objects/"))
        elif rest.startswith("objects/"):
            self.answer(200, self.server.store(repo, rest.removeprefix("objects/")).read_bytes())
        else:
            self.body()
            self.json(404, {"message": "no such page"})

    def batch(self, repo: str, asked: dict[str, Any], user: str) -> None:
        server = self.server
        upload = asked["operation"] == "upload"
        missing = [one for one in asked["objects"] if not server.store(repo, one["oid"]).is_file()]
        if upload and not server.users[user][1]:
            self.json(403, {"message": "You must have push access"})
        elif upload and server.quota is not None and sum(one["size"] for one in missing) > server.quota:
            self.json(507, {"message": f"quota exceeded: {server.quota} bytes are left"})
        else:
            objects = [self.about(repo, one, upload, one in missing) for one in asked["objects"]]
            about = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
            self.json(200, about, {"Content-Type": "application/vnd.git-lfs+json"})

    def about(self, repo: str, one: dict[str, Any], upload: bool, missing: bool) -> dict[str, Any]:
        largest = self.server.largest
        if upload and largest is not None and one["size"] > largest:
            return {**one, "error": {"code": 422, "message": f"object larger than {largest} bytes"}}
        if missing != upload:
            return one if upload else {**one, "error": {"code": 404, "message": "Object does not exist"}}
        link = {
            "href": f"{self.server.url}/{repo}.git/info/lfs/objects/{one['oid']}",
            "header": {"Authorization": self.headers["Authorization"]},
            "expires_in": 600,
        }
        actions = {"upload" if upload else "download": link}
        if upload:
            actions["verify"] = {**link, "href": f"{self.server.url}/{repo}.git/info/lfs/verify"}
        return {**one, "authenticated": True, "actions": actions}

    def throttled(self, oid: str, size: int) -> bool:
        """Take the time that `size` bytes have; whether the connection is to be cut now."""
        server = self.server
        with server.turn:
            server.came[oid] += size
            if server.rate:
                time.sleep(size / server.rate)
            if server.cut_every is None or server.came.total() < (server.cuts + 1) * server.cut_every:
                return False
            server.cuts += 1
            return True

    def take(self, repo: str, oid: str) -> None:
        server = self.server
        if server.pushed:
            server.pushed()
        came = bytearray()
        for part in self.chunks():
            came += part
            if self.throttled(oid, len(part)) or (server.cut_after is not None and len(came) >= server.cut_after):
                server.cut_after = None
                self.close_connection = True
                self.connection.close()
                return
        if hashlib.sha256(came).hexdigest() != oid:
            self.json(422, {"message": "the content is not what its id says"})
            return
        server.store(repo, oid).parent.mkdir(exist_ok=True)
        server.store(repo, oid).write_bytes(came)
        server.received.append(oid)
        self.json(200, {})
