"""The writing side of the two hubs' HTTP, as their clients speak it: creating, LFS, Xet, commits, settings, faults."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_servers import TOKEN, Handler, Hub

LFS = (".safetensors", ".bin", ".model")


@dataclass
class Fault:
    """Answers `status` the next `times` requests whose method and path match; status 0 cuts the connection,
    below 0 it is held, with `reached` set, until `go` is.

    With `after`, only once a request that matches it was taken; `says` and `head` are the answer's body and headers.
    """

    method: str
    path: str
    status: int
    times: int = 1
    after: str = ""
    says: str = "injected"
    head: dict[str, str] = field(default_factory=dict)

    def due(self, method: str, path: str, asked: Sequence[str]) -> bool:
        """Whether it meets this request, given those that came up to it, as `METHOD path`; it is used up by that."""
        met = self.times > 0 and bool(re.search(self.method, method)) and bool(re.search(self.path, path))
        if not met or (self.after and not any(re.search(self.after, line) for line in asked[:-1])):
            return False
        self.times -= 1
        return True


class Publishing(Hub):
    """A hub that `user` may write to. `blobs` are large files by sha256; `xet` the folder of a local Xet store."""

    def __init__(self, handler: type[Writer]) -> None:
        super().__init__(handler)
        self.user = "ann"
        self.writes = True
        self.scopes: list[str] | None = None  # of a fine-grained token
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.quota: int | None = None
        self.cut_after: int | None = None  # bytes of one object, once
        self.received: list[str] = []  # sha256 of objects that arrived whole
        self.xet: Path | None = None
        self.between: Any = None  # called once before a commit is taken
        # Requests that match are held, before they are answered or once it is done, until `go` is set.
        self.held_before: str | None = None
        self.held_after: str | None = None
        self.reached, self.go = threading.Event(), threading.Event()
        self.renamed: dict[str, str] = {}
        self.spaces: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, dict[str, str]] = {}  # of apps, by "secrets REPO" and "variables REPO"
        self.stages = ["BUILDING", "RUNNING"]
        # Of Studios: what the hub has for them, the stages after a deployment, what was deployed, their logs.
        self.offered: dict[str, list[dict[str, str]]] = {"sdk-versions": [], "base-images": []}
        self.after = ["Building", "Running"]
        self.deployed: list[str] = []
        self.logs: dict[str, list[str]] = {}
        self.made: Callable[[str], None] | None = None  # called when a repository is made
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    def head(self, repo: str, branch: str) -> str | None:
        return self.refs[repo].get(branch)

    def current(self, repo: str, branch: str) -> dict[str, bytes]:
        commit = self.head(repo, branch)
        return dict(self.commits[repo][commit]) if commit else {}


class Writer(Handler):
    """What both hubs share: bodies, who asks, faults."""

    server: Publishing

    def do_PUT(self) -> None:  # noqa: N802
        self.do_GET()

    def do_DELETE(self) -> None:  # noqa: N802
        self.do_GET()

    def do_PATCH(self) -> None:  # noqa: N802
        self.do_GET()

    def route(self) -> None:
        self.server.heads.append(str(self.headers))
        try:
            self.taken = self.body()
        except ConnectionResetError:  # it was cut in an object
            return
        self.server.bodies.append(self.taken)
        path = unquote(urlsplit(self.path).path)
        for fault in self.server.faults:
            if fault.due(self.command, unquote(self.path), self.server.asked):
                if fault.status < 0:
                    self.server.reached.set()
                    self.server.go.wait(60)
                if fault.status > 0:
                    self.json(
                        fault.status, {"error": fault.says, "Code": fault.status, "Message": fault.says}, fault.head
                    )
                else:
                    self.close_connection = True
                    self.connection.close()
                return
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        self.hold(self.server.held_before, path)
        self.asked_for(path, asked)

    def answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.hold(self.server.held_after, unquote(urlsplit(self.path).path))
        super().answer(status, body, headers, cut=cut)

    def hold(self, pattern: str | None, path: str) -> None:
        if pattern and re.search(pattern, f"{self.command} {path}"):
            self.server.reached.set()
            self.server.go.wait(60)

    def asked_for(self, path: str, asked: dict[str, str]) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            came = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                came += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return came
        length = int(self.headers.get("Content-Length") or 0)
        cut = self.server.cut_after
        if self.command == "PUT" and cut is not None and length > cut:
            self.server.cut_after = None
            self.rfile.read(cut)
            self.close_connection = True
            self.connection.close()
            raise ConnectionResetError("cut in an object")
        return self.rfile.read(length)

    @property
    def sent_token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def stored(self, sha256: str, size: int) -> bool:
        found = self.server.blobs.get(sha256)
        return found is not None and len(found) == size


class HuggingFaceWriter(Writer):
    """The Hugging Face Hub for models."""

    def asked_for(self, path: str, asked: dict[str, str]) -> None:
        path = path.replace("/api/spaces/", "/api/models/").removeprefix("/spaces")
        if path.startswith("/_upload/"):  # presigned: no token is asked for, and none must come
            sha256 = path.rsplit("/", 1)[-1]
            good = hashlib.sha256(self.taken).hexdigest() == sha256 and self.sent_token is None
            if good:
                self.server.blobs[sha256] = self.taken
                self.server.received.append(sha256)
            self.answer(200 if good else 422)
        elif self.sent_token not in (None, TOKEN):
            self.refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/whoami-v2":
            self.whoami()
        elif path == "/api/repos/create":
            self.create(json.loads(self.taken))
        elif path == "/api/validate-yaml":
            self.validate(json.loads(self.taken)["content"])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.batch(found[1], json.loads(self.taken))
        elif path == "/_verify":
            one = json.loads(self.taken)
            self.answer(200 if self.stored(one["oid"], one["size"]) else 422)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.*))?", path):
            self.model(found[1], found[2] or "")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(found[1], found[2], found[3])
        else:
            self.refuse(404, f"no such page: {path}")

    def refuse(self, status: int, why: str, code: str | None = None) -> None:
        self.json(status, {"error": why}, {"X-Error-Message": why} | ({"X-Error-Code": code} if code else {}))

    def whoami(self) -> None:
        if self.sent_token is None:
            self.refuse(401, "Invalid username or password.")
            return
        token = {"displayName": "laptop", "role": "write" if self.server.writes else "read"}
        if self.server.scopes is not None:
            scoped = [{"entity": {"type": "user", "name": self.server.user}, "permissions": self.server.scopes}]
            token |= {"role": "fineGrained", "fineGrained": {"global": [], "scoped": scoped}}
        about = {"type": "user", "id": "1", "name": self.server.user, "fullname": "Ann", "orgs": []}
        self.json(200, {**about, "auth": {"type": "access_token", "accessToken": token}})

    def create(self, asked: dict[str, Any]) -> None:
        server, owner = self.server, asked.get("organization") or self.server.user
        repo = f"{owner}/{asked['name']}"
        if self.sent_token is None:
            self.refuse(401, "Unauthorized")
        elif owner != server.user or not server.writes:
            self.refuse(403, f"You don't have the rights to create a model under the namespace {owner}")
        elif repo in server.refs:
            self.json(409, {"error": "You already created this model repo", "url": f"{server.url}/{repo}"})
        else:
            if asked.get("type") == "space":
                server.spaces[repo] = asked
            if asked.get("private") or asked.get("visibility") == "private":
                server.private.add(repo)
            server.add(repo, {".gitattributes": b"*.bin filter=lfs diff=lfs merge=lfs -text\n"}, "main")
            self.json(200, {"url": f"{server.url}/{repo}", "name": repo, "id": "1"})

    def validate(self, text: str) -> None:
        if re.search(r"(?m)^(base_model|datasets):\s*/", text):
            self.json(400, {"errors": [{"message": '"base_model" with value "/..." is not valid'}], "warnings": []})
        else:
            self.json(200, {"errors": [], "warnings": []})

    def batch(self, repo: str, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            about = {"oid": one["oid"], "size": one["size"]}
            if self.server.quota is not None and one["size"] > self.server.quota:
                about["error"] = {"code": 403, "message": "Storage quota exceeded"}
            elif not self.stored(one["oid"], one["size"]):
                about["actions"] = {
                    "upload": {"href": f"{self.server.url}/_upload/{one['oid']}", "header": {}},
                    "verify": {"href": f"{self.server.url}/_verify", "header": {}},
                }
            objects.append(about)
        self.json(200, {"transfer": "basic", "objects": objects})

    def model(self, repo: str, rest: str) -> None:
        server = self.server
        if repo in server.renamed:
            self.answer(307, b"", {"Location": f"{server.url}/api/models/{server.renamed[repo]}"})
            return
        if repo not in server.refs or (repo in server.private and self.sent_token is None):
            self.refuse(401 if self.sent_token is None else 404, "Repository Not Found", "RepoNotFound")
            return
        step, _, revision = rest.partition("/")
        revision = revision.split("/")[0]
        if step not in ("", "revision", "tree", "xet-read-token") and not server.writes:
            self.refuse(403, "Forbidden: pass a token with write access")
        elif step in ("", "revision"):
            found = server.files(repo, revision or "main")
            if found is None:
                self.refuse(404, "Invalid rev id", "RevisionNotFound")
                return
            siblings = [{"rfilename": path} for path in found[1]]
            about = {"id": repo, "sha": found[0], "private": repo in server.private, "siblings": siblings, "tags": []}
            self.json(200, {**about, "downloads": 0, "likes": 0})
        elif step == "tree":
            _, files = server.files(repo, revision) or ("", {})
            self.json(200, [entry(path, content) for path, content in files.items()])
        elif step == "preupload":
            names = [(one["path"], "lfs" if one["path"].endswith(LFS) else "regular") for one in self.files_asked()]
            self.json(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in names]})
        elif step == "commit":
            self.commit(repo, revision)
        elif step == "runtime":
            stage = server.stages.pop(0) if len(server.stages) > 1 else server.stages[0]
            hardware = server.spaces.get(repo, {}).get("hardware")
            self.json(200, {"stage": stage, "hardware": {"current": None, "requested": hardware}})
        elif step == "restart":
            server.stages = ["APP_STARTING", "RUNNING"]
            self.json(200, {"stage": "APP_STARTING", "hardware": {"current": None, "requested": None}})
        elif step in ("secrets", "variables"):
            one = json.loads(self.taken)
            server.settings.setdefault(f"{step} {repo}", {})[one["key"]] = one["value"]
            self.json(200, {one["key"]: {"key": one["key"], "value": one["value"], "updatedAt": None}})
        elif step == "hardware":
            server.spaces.setdefault(repo, {})["hardware"] = json.loads(self.taken)["flavor"]
            self.json(200, {"stage": "BUILDING", "hardware": {"current": None, "requested": "t4-small"}})
        elif step == "logs":
            self.answer(
                200, b'data: {"data": "ModuleNotFoundError: gradoi\\n", "timestamp": "2026-01-01T00:00:00.000Z"}\n\n'
            )
        elif step == "settings":
            if not json.loads(self.taken).get("private", True) or b'"public"' in self.taken:
                server.private.discard(repo)
            self.json(200, {})
        elif step.startswith("xet-") and server.xet:
            about = {"X-Xet-Cas-Url": f"local://{server.xet}", "X-Xet-Access-Token": "t"}
            ends = int(time.time()) + 3600
            value = {"casUrl": about["X-Xet-Cas-Url"], "accessToken": "t", "exp": ends}
            self.json(200, value, about | {"X-Xet-Token-Expiration": str(ends)})
        else:
            self.refuse(404, f"no such page: {rest}")

    def files_asked(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.taken)["files"]
        return found

    def commit(self, repo: str, branch: str) -> None:
        server = self.server
        if server.between:
            call, server.between = server.between, None
            call()
        lines = [json.loads(line) for line in self.taken.splitlines() if line.strip()]
        head = lines[0]["value"]
        if head.get("parentCommit") and head["parentCommit"] != server.head(repo, branch):
            self.refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = server.current(repo, branch)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.server.blobs.get(value["oid"])
                if content is None and server.xet and value["oid"] in xet_files(server.xet):
                    content = b"xet:" + value["oid"].encode() + b":" + str(value["size"]).encode()
                if content is None:
                    self.refuse(400, f"LFS object {value['oid']} was not uploaded")
                    return
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = server.add(repo, files, branch)
        url = f"{server.url}/{repo}/commit/{commit}"
        self.json(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if repo not in self.server.refs or (repo in self.server.private and self.sent_token is None):
            self.refuse(401 if self.sent_token is None else 404, "Repository Not Found", "RepoNotFound")
            return
        commit, files = self.server.files(repo, revision) or ("", {})
        if path not in files:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        content = files[path]
        if content.startswith(b"xet:"):
            self.in_xet(repo, commit, content)
            return
        sha = hashlib.sha256(content).hexdigest() if path.endswith(LFS) else git_id(content)
        about = {"X-Repo-Commit": commit, "ETag": f'"{sha}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS):
            about |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        begun = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(begun[1]) if begun else 0
        if begun:
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.cut and self.command == "GET"
        self.answer(206 if begun else 200, content[start:], about, cut=cut)

    def in_xet(self, repo: str, commit: str, mark: bytes) -> None:
        """Where the store has a file, and who gives the token for it; the content is the store's to give."""
        _, sha256, size = mark.decode().split(":")
        about = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha256}"',
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": size,
            "X-Xet-Hash": xet_files(self.server.xet or Path())[sha256],
            "Link": f'<{self.server.url}/api/models/{repo}/xet-read-token/{commit}>; rel="xet-auth"',
        }
        self.answer(200, b"", about)


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file of a tree as the hub lists it; of one in Xet, the store's mark tells id and size."""
    if not path.endswith(LFS):
        return {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    if content.startswith(b"xet:"):
        _, sha256, size = content.decode().split(":")
    else:
        sha256, size = hashlib.sha256(content).hexdigest(), str(len(content))
    lfs = {"oid": sha256, "size": int(size), "pointerSize": 130}
    return {"type": "file", "path": path, "size": int(size), "oid": git_id(sha256.encode()), "lfs": lfs}


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def xet_files(store: Path) -> dict[str, str]:
    """The files that a local Xet store holds, its own hash of each by sha256, read from its shards."""
    found = {}
    for shard in store.rglob("*.mdb"):
        raw, at = shard.read_bytes(), 48
        while at + 48 <= len(raw) and raw[at : at + 32] != b"\xff" * 32:
            own = raw[at : at + 32]
            flags, count = struct.unpack_from("<II", raw, at + 32)
            at += 48 + 48 * count + (48 * count if flags & 0x80000000 else 0)
            if flags & 0x40000000:
                found[_hex(raw[at : at + 32])] = _hex(own)
                at += 48
    return found


def _hex(words: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", words))


class ModelScopeWriter(Writer):
    """ModelScope for models."""

    def asked_for(self, path: str, asked: dict[str, str]) -> None:
        server = self.server
        if self.sent_token not in (None, TOKEN):
            self.refuse(401, "invalid access token")
        elif path.startswith("/_blob/"):
            sha256 = path.rsplit("/", 1)[-1]
            if hashlib.sha256(self.taken).hexdigest() != sha256:
                self.refuse(400, "sha256 mismatch")
                return
            server.blobs[sha256] = self.taken
            server.received.append(sha256)
            self.give({})
        elif path == "/openapi/v1/users/me":
            if self.sent_token is None:
                self.refuse(401, "please login")
            else:
                self.json(200, {"success": True, "data": {"username": server.user, "email": "ann@example.org"}})
        elif path == "/api/v1/login":
            self.login(json.loads(self.taken)["AccessToken"])
        elif path == "/api/v1/models" and self.command == "POST":
            self.create(json.loads(self.taken))
        elif path.startswith("/openapi/v1/studios"):
            self.studios(path.removeprefix("/openapi/v1/studios").strip("/"))
        elif found := re.fullmatch(r"/api/v1/repos/models/([^/]+/[^/]+)/(.+)", path):
            self.write(found[1], found[2])
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)(?:/(.*))?", path):
            self.read(found[1], found[2] or "", asked)
        else:
            self.refuse(404, f"no such page: {path}")

    def give(self, data: Any) -> None:
        self.json(200, {"Code": 200, "Success": True, "Data": data})

    def refuse(self, status: int, why: str) -> None:
        self.json(status, {"Code": status, "Success": False, "Message": why})

    def studios(self, path: str) -> None:
        """The open interface of Studios. Their files are git's business."""
        server, (owner, name, *rest) = self.server, [*path.split("/"), ""]
        repo, step = f"{owner}/{name}", "/".join(rest).strip("/")
        if path in ("sdk-versions", "base-images"):
            self.tell({path.replace("-", "_"): server.offered[path]})
        elif self.sent_token is None:
            self.refuse(401, "please login")
        elif not path:
            self.create_studio(json.loads(self.taken))
        elif repo not in server.spaces:
            self.refuse(404, "studio not found")
        elif not step:
            stage = server.stages.pop(0) if len(server.stages) > 1 else server.stages[0]
            self.tell({**server.spaces[repo], "status": stage})
        elif step == "deploy":
            server.deployed.append(repo)
            server.stages = list(server.after)
            self.tell({"status": server.stages[0]})
        elif step == "settings":
            server.spaces[repo].update(json.loads(self.taken))
            self.tell({})
        elif step.startswith("logs/"):
            logs = server.logs.get(step.removeprefix("logs/"), [])
            self.tell({"logs": logs, "page_num": 1, "total_page_num": 1})
        elif self.command == "GET":
            self.tell({step: [{"key": key} for key in server.settings.get(f"{step} {repo}", {})]})
        else:
            one = json.loads(self.taken)
            kept = server.settings.setdefault(f"{step} {repo}", {})
            if (self.command == "PUT") != (one["key"] in kept):
                self.refuse(400, "the key is there already, or is not")
                return
            kept[one["key"]] = one["value"]
            self.tell({})

    def create_studio(self, asked: dict[str, Any]) -> None:
        server, repo = self.server, f"{asked['owner']}/{asked['repo_name']}"
        if asked["owner"] != server.user or not server.writes:
            self.refuse(403, f"no permission for namespace {asked['owner']}")
            return
        server.spaces[repo] = asked
        if server.made:
            server.made(repo)
        self.tell({"id": repo, "visibility": asked["visibility"]})

    def tell(self, data: Any) -> None:
        self.json(200, {"success": True, "data": data})

    def create(self, asked: dict[str, Any]) -> None:
        server, repo = self.server, f"{asked['Path']}/{asked['Name']}"
        if server.made:
            server.made(repo)
        if self.sent_token is None:
            self.refuse(401, "please login")
        elif asked["Path"] != server.user or not server.writes:
            self.refuse(403, f"no permission for namespace {asked['Path']}")
        elif repo in server.refs:
            self.refuse(400, "repo already exists")
        else:
            if asked["Visibility"] == 1:
                server.private.add(repo)
            server.add(repo, {".gitattributes": b"*.bin filter=lfs\n", "README.md": b"# new\n"}, "master")
            self.give({"Id": 1, "Name": asked["Name"], "Path": asked["Path"]})

    def login(self, token: str) -> None:
        if token != TOKEN or not self.server.writes:
            self.refuse(403, "the token may not write")
        else:
            self.give({"AccessToken": "git-7c1d-secret", "Username": self.server.user, "Email": "ann@example.org"})

    def write(self, repo: str, rest: str) -> None:
        server = self.server
        if self.sent_token is None:
            self.refuse(401, "please login")
        elif repo not in server.refs:
            self.refuse(404, "repo not found")
        elif not server.writes:
            self.refuse(403, "no permission")
        elif rest == "info/lfs/objects/batch":
            wanted = [one for one in json.loads(self.taken)["objects"] if not self.stored(one["oid"], one["size"])]
            if server.quota is not None and sum(one["size"] for one in wanted) > server.quota:
                self.refuse(400, "storage quota exceeded")
                return
            self.give(
                {"objects": [{**o, "actions": {"upload": {"href": f"{server.url}/_blob/{o['oid']}"}}} for o in wanted]}
            )
        elif rest.startswith("commit/"):
            self.commit(repo, rest.partition("/")[2])
        else:
            self.refuse(404, f"no such page: {rest}")

    def commit(self, repo: str, branch: str) -> None:
        if self.server.between:
            call, self.server.between = self.server.between, None
            call()
        files = self.server.current(repo, branch)
        for action in json.loads(self.taken)["actions"]:
            if action["action"] == "delete":
                files.pop(action["path"], None)
            elif action["type"] == "lfs":
                if not self.stored(action["sha256"], action["size"]):
                    self.refuse(400, f"blob {action['sha256']} is missing")
                    return
                files[action["path"]] = self.server.blobs[action["sha256"]]
            else:
                files[action["path"]] = base64.b64decode(action["content"])
        self.give({"oid": self.server.add(repo, files, branch)})

    def read(self, repo: str, rest: str, asked: dict[str, str]) -> None:
        server = self.server
        if repo not in server.refs or (repo in server.private and self.sent_token is None):
            self.refuse(404, "model not found")
            return
        found = server.files(repo, asked.get("Revision") or asked.get("Ref") or "master")
        if found is None:
            self.refuse(404, "revision not found")
            return
        commit, files = found
        if not rest:
            self.give({"Id": 1, "Visibility": 1 if repo in server.private else 5})
        elif rest == "commits":
            self.give({"Commit": [{"Id": commit, "ShortId": commit[:8]}], "TotalCount": 1})
        elif rest == "revisions":
            branches = [{"Revision": name, "CreatedAt": 1} for name in server.refs[repo]]
            self.give({"RevisionMap": {"Branches": branches, "Tags": []}})
        elif rest in ("repo/files", "repo/tree"):
            blobs = [
                {"Path": p, "Name": p, "Type": "blob", "Size": len(b), "Sha256": hashlib.sha256(b).hexdigest()}
                for p, b in files.items()
            ]
            self.give({"Files": blobs})
        elif rest == "repo" and asked["FilePath"] in files:
            self.answer(200, files[asked["FilePath"]], {"Content-Type": "x/y"}, cut=server.cut)
        else:
            self.refuse(404, "not found")


def gradio_app(folder: Path) -> Path:
    """The least that a Space is made of."""
    folder.mkdir()
    (folder / "app.py").write_text("import gradio\n", "utf-8")
    (folder / "requirements.txt").write_text("gradio==6.31.0\n", "utf-8")
    (folder / "README.md").write_text("---\ntitle: Cats\nsdk: gradio\n---\n", "utf-8")
    return folder


def proven(app: Path, licence: str = "apache-2.0") -> Path:
    """Write into app.json what `ftx app new` of a sealed and verified model keeps of it."""
    from ftx.publish.app_model import recorded

    path, model = app / "app.json", app / "model"
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    model.mkdir(exist_ok=True)
    record = {**recorded(None, licence, model), "seal": "0" * 64, "verified": True}
    path.write_text(json.dumps({**kept, "model": record}), "utf-8")
    return app
