"""Hugging Face as it is by git: its API makes and lists repositories, git with LFS fills them."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_publishing import entry
from hub_servers import git
from lfs_server import LfsHandler, LfsHost


class HuggingFaceGit(LfsHost):
    """Its users are `oauth2`, the name beside a token, whoever's it is."""

    def __init__(self, root: Any, token: str) -> None:
        super().__init__(root)
        self.RequestHandlerClass = HuggingFaceGitHandler
        self.users["oauth2"] = (token, True)
        self.token = token


class HuggingFaceGitHandler(LfsHandler):
    server: HuggingFaceGit

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not path.startswith("/api/"):
            super().route()
            return
        asked = self.body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.json(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            about = json.loads(asked)
            repo = f"{about.get('organization') or 'ann'}/{about['name']}"
            self.server.new(repo)
            self.server.add(repo, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "main")
            if about.get("private") or about.get("visibility") == "private":
                self.server.private.add(repo)
            self.json(200, {"url": f"{self.server.url}/{repo}", "name": repo, "id": "1"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.*))?", path):
            self.model(found[1], found[2] or "")

    def model(self, repo: str, rest: str) -> None:
        bare = self.server.root / f"{repo}.git"
        if not bare.is_dir():
            self.json(404, {"error": "x"}, {"X-Error-Code": "RepoNotFound"})
        elif rest.startswith("tree/"):
            self.json(200, [entry(name, content) for name, content in self.server.contents(repo).items()])
        else:
            head = git(bare, "rev-parse", "HEAD").strip()
            private = repo in self.server.private
            self.json(200, {"id": repo, "sha": head, "private": private, "siblings": [], "tags": [], "downloads": 0})
