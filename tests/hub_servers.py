"""Small servers on 127.0.0.1 that speak what the clients of the hubs speak: the two hubs' HTTP, and git's with LFS."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "tok-6e1f-secret"

Content = bytes | Path  # a Path is a symbolic link to it


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with commits, by id, and refs. `cut` ends every answer with file content half way."""

    daemon_threads = True
    scheme = "http"

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.cut = False
        self.asked: list[str] = []
        self.root = Path()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def add(self, repo: str, files: dict[str, bytes], branch: str) -> str:
        """A commit of these files as the branch's newest; its id."""
        text = json.dumps({path: content.hex() for path, content in files.items()} | {"in": [repo, branch]})
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        self.refs.setdefault(repo, {})[branch] = commit
        return commit

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.refs[repo].get(revision, revision)
        found = self.commits[repo].get(commit)
        return None if found is None else (commit, found)


class Handler(BaseHTTPRequestHandler):
    """What the servers share: answers, and half answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head that waits for its body costs each answer up to 40 ms
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # of clients that had enough
            super().handle()

    def answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.route()

    def do_POST(self) -> None:
        self.do_GET()

    def route(self) -> None:
        raise NotImplementedError


class HuggingFaceHandler(Handler):
    """The Hugging Face Hub: info, tree and files of data sets and models."""

    def route(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api" and parts[1] in ("datasets", "models") and len(parts) >= 4:
            self.about("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.about("/".join(parts[:2]), parts[2:])
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self.about("/".join(parts[1:3]), parts[3:])
        else:
            self.json(404, {"error": "no such page"})

    def about(self, repo: str, rest: list[str]) -> None:
        sent = self.headers.get("Authorization")
        if sent is not None and sent != f"Bearer {TOKEN}":
            self.json(401, {"error": "x"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo not in self.server.refs or (repo in self.server.private and sent is None):
            # Without a token the real hub says 401 for both.
            self.json(401 if sent is None else 404, {"error": "x"}, {"X-Error-Code": "RepoNotFound"})
        else:
            found = self.server.files(repo, rest[1] if rest else "main")
            if found is None:
                self.json(404, {"error": "x"}, {"X-Error-Code": "RevisionNotFound"})
            else:
                self.found(repo, *found, rest)

    def found(self, repo: str, commit: str, files: dict[str, bytes], rest: list[str]) -> None:
        if not rest or rest[0] == "revision":
            self.json(
                200,
                {
                    "id": repo,
                    "sha": commit,
                    "siblings": [{"rfilename": path} for path in files],
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                },
            )
        elif rest[0] == "tree":
            self.json(200, [{"type": "file", "path": p, "size": len(b), "oid": _sha1(b)} for p, b in files.items()])
        else:
            body = files["/".join(rest[2:])]
            about = {"X-Repo-Commit": commit, "ETag": f'"{_sha1(body)}"', "Content-Type": "application/octet-stream"}
            self.answer(200, body, about, cut=self.server.cut and self.command == "GET")


class ModelScopeHandler(Handler):
    """ModelScope: commits, revisions, tree and files of data sets."""

    def route(self) -> None:
        address = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(address.query).items()}
        parts = unquote(address.path).strip("/").split("/")
        if parts[:3] != ["api", "v1", "datasets"] or len(parts) < 6:
            self.refuse(404, "no such page")
            return
        repo, rest = "/".join(parts[3:5]), "/".join(parts[5:])
        sent = self.headers.get("Authorization")
        if sent not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "invalid access token")
        elif repo not in self.server.refs:
            self.refuse(404, "data set not found")
        elif repo in self.server.private and sent is None:
            self.refuse(403, "no permission")
        else:
            self.about(repo, rest, asked)

    def about(self, repo: str, rest: str, asked: dict[str, str]) -> None:
        if rest == "revisions":
            branches = [{"Revision": name, "CreatedAt": 1} for name in self.server.refs[repo]]
            self.give({"RevisionMap": {"Branches": branches, "Tags": []}})
            return
        found = self.server.files(repo, asked.get("Revision") or asked.get("Ref") or "master")
        if found is None:
            self.refuse(404, "revision not found")
            return
        commit, files = found
        if rest == "commits":
            self.give({"Commit": [{"Id": commit, "ShortId": commit[:8]}], "TotalCount": 1})
        elif rest == "repo/tree":
            folders = sorted({path.rsplit("/", 1)[0] for path in files if "/" in path})
            trees = [{"Path": path, "Name": path, "Type": "tree", "Size": 0} for path in folders]
            blobs = [
                {"Path": p, "Name": p, "Type": "blob", "Size": len(b), "Sha256": hashlib.sha256(b).hexdigest()}
                for p, b in files.items()
            ]
            self.give({"Files": trees + blobs if asked.get("PageNumber") == "1" else []})
        elif rest == "repo" and asked["FilePath"] in files:
            self.answer(200, files[asked["FilePath"]], {"Content-Type": "x/y"}, cut=self.server.cut)
        else:
            self.refuse(404, "not found")

    def give(self, data: Any) -> None:
        self.json(200, {"Code": 200, "Success": True, "Data": data})

    def refuse(self, status: int, why: str) -> None:
        self.json(status, {"Code": status, "Success": False, "Message": why})


class GitHandler(Handler):
    """A git host: the repositories under `root` by git's own http-backend, and Git LFS downloads."""

    def route(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        repo, _, rest = unquote(address.path).strip("/").partition(".git/")
        user = base64.b64encode(f"ann:{TOKEN}".encode()).decode()
        if repo in self.server.private and self.headers.get("Authorization") != f"Basic {user}":
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="git"'})
        elif not (self.server.root / f"{repo}.git").is_dir():
            self.answer(404, b"not found")
        elif rest.startswith("info/lfs/"):
            self.lfs(repo, rest.removeprefix("info/lfs/"), body)
        else:
            self.git(address.path, address.query, body)

    def git(self, path: str, query: str, body: bytes) -> None:
        about = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": unquote(path),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        # It fails, and answers all the same, when it refuses what a client wants.
        said = subprocess.run(
            ["git", "http-backend"], input=body, env={**os.environ, **about}, capture_output=True, check=False
        )
        head, _, content = said.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(status, content, headers, cut=self.server.cut and b"fetch" in body)

    def lfs(self, repo: str, rest: str, body: bytes) -> None:
        if rest == "objects/batch":
            objects = [self.lfs_object(repo, wanted) for wanted in json.loads(body)["objects"]]
            value = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
            self.json(200, value, {"Content-Type": "application/vnd.git-lfs+json"})
        else:
            stored = self.server.root / f"{repo}.git" / "lfs" / rest.rsplit("/", 1)[-1]
            self.answer(200, stored.read_bytes(), {"Content-Type": "application/octet-stream"})

    def lfs_object(self, repo: str, wanted: dict[str, Any]) -> dict[str, Any]:
        if not (self.server.root / f"{repo}.git" / "lfs" / wanted["oid"]).is_file():
            return {**wanted, "error": {"code": 404, "message": "Object does not exist"}}
        link = {"href": f"{self.server.url}/{repo}.git/info/lfs/objects/{wanted['oid']}", "expires_in": 600}
        sent = self.headers.get("Authorization")
        if sent:
            link["header"] = {"Authorization": sent}
        return {**wanted, "authenticated": True, "actions": {"download": link}}


class GitHost(Hub):
    """A git host whose `add` makes real commits."""

    def __init__(self, root: Path) -> None:
        super().__init__(GitHandler)
        self.root = root

    def add(self, repo: str, files: dict[str, bytes] | dict[str, Content], branch: str) -> str:
        bare = self.bare(repo)
        work = self.root / "work"
        work.mkdir()
        git(work, "init", "--quiet", f"--initial-branch={branch}", ".")
        for path, content in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (work / path).write_bytes(content)
            else:
                (work / path).symlink_to(content)
        git(work, "add", "--force", "--all")
        git(work, "commit", "--quiet", "--allow-empty", "-m", f"{repo} {branch}")
        git(work, "push", "--quiet", "--force", str(bare), f"HEAD:refs/heads/{branch}")
        commit = git(work, "rev-parse", "HEAD").strip()
        shutil.rmtree(work)
        return commit

    def bare(self, repo: str) -> Path:
        """The repository on the host, made where there is none."""
        bare = self.root / f"{repo}.git"
        if not bare.is_dir():
            bare.mkdir(parents=True)
            git(bare, "init", "--quiet", "--bare", "--initial-branch=main", ".")
        return bare

    def lfs(self, repo: str, content: bytes) -> bytes:
        """Store `content` in the Git LFS of a repository; the pointer to commit in its place."""
        oid = hashlib.sha256(content).hexdigest()
        store = self.bare(repo) / "lfs"
        store.mkdir(exist_ok=True)
        (store / oid).write_bytes(content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def _sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
