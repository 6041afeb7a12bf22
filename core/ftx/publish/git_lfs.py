"""Files to and from git hosts with Git LFS, by the user's own git and git-lfs.

The commit is put together from git's objects, without a work tree: no filter, hook or setting of the user's takes part,
and what LFS carries is linked into place and never doubled. The token is in the environment of git alone, where a
private script hands it to the chosen host and to no other.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from ftx.atomic import sha256_of
from ftx.contracts import Bundle, Remote, RemoteFile
from ftx.errors import FtxError, HubError, RecipeError, RepositoryWanted, StorageError
from ftx.git_token import for_command, own_environment
from ftx.publish.addresses import refuse_clear
from ftx.publish.answers import no_room, refused, unreachable
from ftx.publish.credentials import scrub
from ftx.publish.lfs_check import missing
from ftx.publish.render import linked

OPTIONS = (
    "credential.helper=",  # a helper of the user's might store the token
    "core.hooksPath=/dev/null",
    "core.autocrlf=false",
    "gc.auto=0",
    "protocol.version=2",
    "http.followRedirects=false",  # to another repository than the one that was named, or another host
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",  # seconds below 1000 bytes a second until a connection counts as dead
    "lfs.activitytimeout=60",
    "lfs.locksverify=true",  # without it a file that another locked is overwritten with a warning
    "lfs.concurrenttransfers=3",
)
BINARY = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".model",
    ".png",
    ".jpg",
    ".jpeg",
    ".ico",
    ".parquet",
    ".xlsx",
    ".arrow",
)
LARGE = 1 << 20  # bytes; longer texts go by LFS too
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
POINTER_SIZE = 1024  # bytes; Git LFS takes nothing longer for a pointer
ATTRIBUTES = ".gitattributes"
WORK = ".ftx-git"  # the folder in which git works while it fetches
TRACKED = "filter=lfs diff=lfs merge=lfs -text"
POLL = 0.2  # seconds between two looks at git-lfs's progress

UNAUTHORISED = (
    "authentication failed",
    "authentication required",
    "authorization error",
    "could not read username",
    "could not read password",
    "requested url returned error: 401",
    "401 unauthorized",
    "askpass",
    "credentials",
)
FORBIDDEN = (
    "error: 403",
    "403 forbidden",
    "not allowed to push",
    "push access",
    "permission denied",
    "protected branch",
    "read-only",
)
READING = ("ls-remote", "fetch")  # commands that want no right to write
STATUS = re.compile(r"(?:returned error: |client error[^\n]* |server error[^\n]* |\[)(\d{3})\b")
NO_REPOSITORY = ("not found", "not appear to be a git repository", "does not exist", "error: 404")
# Lines of git-lfs that say nothing of why it failed.
CHATTER = (
    "Uploading LFS",
    "Downloading ",
    "Errors logged to",
    "Use `git lfs logs",
    "Locking support",
    'Remote "',
    "$ git",
    "Consider",
)
NO_CONNECTION = ("unable to access", "could not resolve", "connection", "timed out", "rpc failed", "hung up", "eof")


@dataclass(frozen=True)
class GitHost:
    """A git host that a token is for. `url` has neither user nor token in it; `variable` is the token's name."""

    hub: str
    url: str
    user: str
    secret: str | None
    variable: str
    author: str = "ftx"
    retries: int = 8  # times that Git LFS tries an object again

    def listed(self, revision: str | None = None) -> Remote | None:
        """What the repository holds at a revision, by default its default branch; None when there is none."""
        with self._work() as git:
            head = git.remote_head()
            if head is None:
                return None
            if revision is not None:
                commit = git.fetched(revision)
                return Remote(commit, git.tree(commit))
            if head.commit is None:
                return Remote(None, {})
            git.fetch(head)
            return Remote(head.commit, git.tree(head.commit))

    def fetch(self, remote: Remote, folder: Path) -> None:
        """Write the files of a listed commit into `folder`; those that lie there whole are kept. Raises FtxError.

        git works in a folder within, so that an object of LFS that was cut is gone on from; it is removed at the end.
        """
        work = folder / WORK
        with self._work(work) as git:
            commit = git.fetched(str(remote.revision))
            for name, about in remote.files.items():
                target = folder / name
                if target.is_file() and target.stat().st_size == about.size and sha256_of(target) == about.sha256:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                git.write(commit, name, about, target)
                shutil.rmtree(git.folder / ".git" / "lfs" / "objects", ignore_errors=True)  # a second copy
        shutil.rmtree(work)

    def push(self, bundle: Bundle, remote: Remote, sent: Callable[[int], None]) -> str:
        """One commit on top of the branch that makes it hold the bundle alone; the commit. Raises FtxError."""
        with TemporaryDirectory(prefix="git-", dir=bundle.folder.parent) as work, self._work(Path(work)) as git:
            head = git.remote_head()
            if head is None or head.commit != remote.revision:
                raise HubError(f"someone else changed {self.url} meanwhile; run the same command again")
            if head.commit:
                git.fetch(head)
            commit = git.commit(bundle, head)
            git.send(head.branch, bundle, sent)
            return commit

    def admits(self, *, named: bool) -> bool | None:
        """Whether the host would take a push with this token; None when it knows the token and tells no more.

        `named`: the repository is one of the user's, and is there. Raises HubError for a token it does not know, and
        when it does not look at tokens before it knows the repository.
        """
        try:
            with self._work() as git:
                git.try_push()
        except HubError as error:
            if named:
                if "does not let this token write" in str(error):
                    return False
                raise
            if not _knows_no_repository(error) and "does not let this token write" not in str(error):
                raise
            if not replace(self, secret=None)._asks_for_token():
                raise RepositoryWanted(
                    f"{self.hub} looks at no token before it knows the repository: name one of yours, empty or not, "
                    "with --repo OWNER/NAME"
                ) from None
            return None
        return True

    def _asks_for_token(self) -> bool:
        try:
            with self._work() as git:
                git.try_push()
        except HubError as error:
            return not _knows_no_repository(error)
        return False

    @contextmanager
    def _work(self, folder: Path | None = None) -> Iterator[Git]:
        """git in the repository in `folder`, which is made where need be; by default an empty one, gone afterwards."""
        if self.secret:
            refuse_clear(self.url, self.variable)
        for tool in ("git", "git-lfs"):
            if shutil.which(tool) is None:
                raise RecipeError(f"{self.hub} needs {tool}: install it, for example: apt install {tool}")
        with TemporaryDirectory(prefix="ftx-git-") as private:
            work = folder or Path(private, "work")
            work.mkdir(exist_ok=True)
            for lock in work.glob(".git/**/*.lock"):  # of a git that was killed
                lock.unlink()
            git = Git(self, work, self._environment(Path(private)))
            git.run("init", "--quiet", "--template=", "--initial-branch=main", ".")
            git.run("config", "remote.origin.url", self.url)
            yield git

    def _environment(self, private: Path) -> dict[str, str]:
        email = f"{self.author}@users.noreply.{urlsplit(self.url).hostname}"
        own = own_environment(private, urlsplit(self.url).netloc, self.user, self.secret)
        own["GIT_LFS_PROGRESS"] = str(private / "progress")
        for who in ("AUTHOR", "COMMITTER"):
            own |= {f"GIT_{who}_NAME": self.author, f"GIT_{who}_EMAIL": email}
        return own

    def refusal(self, said: str, *, reads: bool = False) -> FtxError:
        """The sentence for what git or git-lfs printed when it failed; `reads`: at a command that sends nothing."""
        # Names in the address are the user's and may hold any of the words looked for.
        low = said.lower().replace(self.url.lower(), "")
        why = _line(scrub(said, self.secret))
        if "no space left" in low:
            return StorageError("no space left on this machine's disk; free some and run the same command again")
        if any(sign in low for sign in UNAUTHORISED):
            return self._unauthorised()
        if "quota" in low or "error: 507" in low or "insufficient storage" in low:
            return no_room(self.hub, self.url, why)
        if "lock" in low and ("locked by" in low or "halted" in low or "unable to push locked" in low):
            return HubError(
                f"a file of {self.url} is locked by someone else: {why}; ask them to run: git lfs unlock FILE"
            )
        if reads and any(sign in low for sign in FORBIDDEN):
            return HubError(
                f"{self.hub} does not let this token read {self.url}: give {self.variable} one that may, or accept the "
                "terms on its page"
            )
        if any(sign in low for sign in FORBIDDEN):
            return HubError(
                f"{self.hub} does not let this token write to {self.url}: give {self.variable} one with write access"
            )
        if "non-fast-forward" in low or "fetch first" in low or "stale info" in low:
            return HubError(f"someone else changed {self.url} meanwhile; run the same command again")
        if "[422]" in low or "[413]" in low or "larger than" in low or "too large" in low:
            return HubError(f"{self.hub} refuses a file for its size: {why}")
        if "redirect" in low or any(f"error: {status}" in low for status in (301, 302, 307, 308)):
            return HubError(f"{self.url} was renamed or moved: look where it is now, and name that")
        if any(sign in low for sign in NO_REPOSITORY):
            return HubError(f"there is no repository {self.url}")
        if (status := STATUS.search(low)) and int(status[1]) >= 400:
            return refused(self.hub, self.url, int(status[1]), why)
        if any(sign in low for sign in NO_CONNECTION):
            return unreachable(self.hub, self.url, why)
        return HubError(f"git did not go through with {self.url}: {why}; run the same command again")

    def refuse_missing(self, sizes: Mapping[str, int]) -> None:
        """Raise HubError when the host lacks one of these objects, whatever git-lfs said of its way there."""
        try:
            lacking = missing(self.url, self.user, self.secret, sizes)
        except HTTPError as error:
            with error:
                raise self.refusal(f"fatal: The requested URL returned error: {error.code}") from None
        except (OSError, ValueError, HTTPException) as error:
            raise unreachable(self.hub, self.url, scrub(str(error), self.secret)) from None
        if lacking:
            raise HubError(
                f"{self.hub} did not keep {len(lacking)} of the files sent to {self.url}, whose sha256 begins with "
                f"{lacking[0][:12]}; nothing was changed there, run the same command again"
            )

    def _unauthorised(self) -> HubError:
        if not self.secret:
            return HubError(f"{self.url} does not exist or asks who you are: set {self.variable} to your token")
        return HubError(f"{self.hub} does not know this token for {self.url}: check {self.variable} and the user name")


@dataclass(frozen=True)
class Head:
    """A remote's default branch; `commit` is None while it is empty."""

    branch: str
    commit: str | None


@dataclass(frozen=True)
class Git:
    """git in a folder of its own, for one host."""

    host: GitHost
    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, given: bytes | None = None) -> bytes:
        """What the command prints. Raises the host's refusal when it fails."""
        done = subprocess.run(
            self._words(arguments),
            cwd=self.folder,
            env=for_command(self.environment, arguments[0]),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace")
            raise self.host.refusal(said, reads=arguments[0] in READING)
        return done.stdout

    def _words(self, arguments: Sequence[str]) -> list[str]:
        options = (*OPTIONS, f"lfs.transfer.maxretries={self.host.retries}")
        return ["git", *(word for option in options for word in ("-c", option)), *arguments]

    def remote_head(self) -> Head | None:
        """The default branch of the remote, None when there is no repository. Raises FtxError."""
        try:
            listing = self.run("ls-remote", "--symref", "origin", "HEAD", "refs/heads/*").decode("utf-8", "replace")
        except HubError as error:
            if str(error).startswith("there is no repository"):
                return None
            raise
        branch, commits = "main", {}
        for line in listing.splitlines():
            value, _, ref = line.partition("\t")
            if value.startswith("ref: refs/heads/"):
                branch = value.removeprefix("ref: refs/heads/")
            else:
                commits[ref] = value
        return Head(branch, commits.get(f"refs/heads/{branch}") or commits.get("HEAD"))

    def try_push(self) -> None:
        """Ask the host whether it would take a push; nothing is sent. Raises FtxError."""
        tree = self.run("mktree", given=b"").decode().strip()
        commit = self.run("commit-tree", tree, "-m", "ftx login").decode().strip()
        self.run("push", "--quiet", "--dry-run", "origin", f"{commit}:refs/heads/ftx-login")

    def fetch(self, head: Head) -> None:
        self.run("fetch", "--quiet", "--depth=1", "--no-tags", "origin", f"+{head.branch}:refs/remotes/origin/main")

    def fetched(self, revision: str) -> str:
        """The commit of a branch, tag or commit id, fetched. Raises HubError when there is none of that name."""
        try:
            self.run("fetch", "--quiet", "--depth=1", "--no-tags", "origin", revision)
        except HubError as error:
            if "remote ref" in str(error) or "not our ref" in str(error):
                raise HubError(f"{self.host.url} has no revision '{revision}'") from None
            raise
        return self.run("rev-parse", "FETCH_HEAD^{commit}").decode().strip()

    def write(self, commit: str, name: str, about: RemoteFile, target: Path) -> None:
        """The content of a file, by LFS where the commit holds its pointer alone."""
        raw = self.run("cat-file", "blob", f"{commit}:{name}")
        if about.git_id is None:
            with target.open("wb") as file:
                self._into(file, raw, "lfs", "smudge", "--", name)
        else:
            target.write_bytes(raw)

    def _into(self, file: IO[bytes], given: bytes, *arguments: str) -> None:
        done = subprocess.run(
            self._words(arguments),
            cwd=self.folder,
            env=for_command(self.environment, arguments[0]),
            input=given,
            stdout=file,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            raise self.host.refusal(done.stderr.decode("utf-8", "replace"), reads=True)

    def tree(self, commit: str) -> dict[str, RemoteFile]:
        """The files of a commit; those that LFS carries as their pointers tell them."""
        blobs: dict[str, str] = {}
        for entry in filter(None, self.run("ls-tree", "-r", "-z", commit).split(b"\0")):
            about, _, name = entry.partition(b"\t")
            blobs[name.decode("utf-8", "surrogateescape")] = about.decode().split()[2]
        known = self._contents(sorted(set(blobs.values())))
        return {name: known.get(blob, RemoteFile(0, None, blob)) for name, blob in blobs.items()}

    def _contents(self, blobs: Sequence[str]) -> dict[str, RemoteFile]:
        """What each of git's objects holds; other repositories within have none."""
        said = io.BytesIO(self.run("cat-file", "--batch", given="\n".join(blobs).encode() + b"\n"))
        found = {}
        while line := said.readline():
            blob, _, size = line.decode().strip().partition(" blob ")
            if size:
                found[blob] = _remote_file(blob, said.read(int(size)))
                said.read(1)
        return found

    def commit(self, bundle: Bundle, head: Head) -> str:
        """Write the bundle's commit on top of the head; its id."""
        before = self._attributes(head)
        tracked = [name for name in bundle.files if _by_lfs(bundle.folder / name)]
        lines = [line for pattern in _patterns(tracked) if (line := f"{pattern} {TRACKED}") not in before]
        attributes = self._hash("\n".join([*before, *lines]).strip().encode() + b"\n")
        self._index([f"100644 {attributes}\t{ATTRIBUTES}"])
        carried = self._carried(list(bundle.files))
        entries = [
            f"100644 {self._object(bundle, name) if name in carried else self._plain(bundle, name)}\t{name}"
            for name in bundle.files
            if name != ATTRIBUTES
        ]
        self._index(entries)
        tree = self.run("write-tree").decode().strip()
        parent = ("-p", head.commit) if head.commit else ()
        commit = self.run("commit-tree", tree, *parent, "-m", bundle.message).decode().strip()
        self.run("update-ref", "refs/heads/main", commit)
        return commit

    def _attributes(self, head: Head) -> list[str]:
        """The remote's own lines, which hosts want kept."""
        if head.commit is None or ATTRIBUTES not in self.tree(head.commit):
            return []
        return self.run("cat-file", "blob", f"{head.commit}:{ATTRIBUTES}").decode("utf-8", "replace").splitlines()

    def _index(self, entries: Sequence[str]) -> None:
        self.run("update-index", "-z", "--index-info", given="".join(f"{entry}\0" for entry in entries).encode())

    def _carried(self, names: Sequence[str]) -> set[str]:
        """Those names that LFS carries by the attributes in the index, the host's lines among them."""
        asked = "".join(f"{name}\0" for name in names).encode()
        told = self.run("check-attr", "--cached", "-z", "--stdin", "filter", given=asked).split(b"\0")
        return {told[i].decode() for i in range(0, len(told) - 2, 3) if told[i + 2] == b"lfs"}

    def _hash(self, content: bytes) -> str:
        return self.run("hash-object", "-w", "--stdin", given=content).decode().strip()

    def _plain(self, bundle: Bundle, name: str) -> str:
        return self._hash((bundle.folder / name).read_bytes())

    def _object(self, bundle: Bundle, name: str) -> str:
        """The pointer of a file, which itself is linked to where git-lfs looks for it."""
        about, source = bundle.files[name], bundle.folder / name
        oid = str(about.sha256)
        target = self.folder / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            linked(source, target)
        return self._hash(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {about.size}\n".encode())

    def send(self, branch: str, bundle: Bundle, sent: Callable[[int], None]) -> None:
        """The objects by LFS first, those that the host lacks; then the commit, which thereby is whole or not there."""
        if any((self.folder / ".git" / "lfs").rglob("*")):
            self._watched(sent, "lfs", "push", "origin", "main")
            self.host.refuse_missing(self._carried_sizes())
        self.run("push", "--quiet", "origin", f"refs/heads/main:refs/heads/{branch}")
        sent(sum(about.size for about in bundle.files.values()))

    def _carried_sizes(self) -> dict[str, int]:
        """Bytes of each object of the commit that LFS carries, by its sha256."""
        return {str(about.sha256): about.size for about in self.tree("refs/heads/main").values() if not about.git_id}

    def _watched(self, sent: Callable[[int], None], *arguments: str) -> None:
        """Run a command of git-lfs, telling its progress. Raises the host's refusal when it fails."""
        progress = Path(self.environment["GIT_LFS_PROGRESS"])
        with TemporaryDirectory(prefix="ftx-git-") as private:
            said = Path(private, "said")
            with (
                said.open("wb") as out,
                subprocess.Popen(
                    self._words(arguments),
                    cwd=self.folder,
                    env=for_command(self.environment, arguments[0]),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                ) as process,
            ):
                while process.poll() is None:
                    time.sleep(POLL)
                    sent(_progressed(progress))
            if process.returncode:
                raise self.host.refusal(said.read_text("utf-8", "replace").replace("\r", "\n"))


def _knows_no_repository(error: HubError) -> bool:
    return str(error).startswith("there is no repository")


def _remote_file(blob: str, content: bytes) -> RemoteFile:
    pointer = POINTER.fullmatch(content) if len(content) <= POINTER_SIZE else None
    if pointer:
        return RemoteFile(int(pointer[2]), pointer[1].decode())
    return RemoteFile(len(content), hashlib.sha256(content).hexdigest(), blob)


def _by_lfs(path: Path) -> bool:
    """Whether a file is for LFS: by its kind, its size, or bytes that are no text."""
    if path.name.lower().endswith(BINARY) or path.stat().st_size > LARGE:
        return True
    with path.open("rb") as file:
        return b"\0" in file.read(8192)


def _patterns(names: Sequence[str]) -> list[str]:
    """Lines for .gitattributes: endings for kinds that are always LFS's, whole paths for single large files."""
    endings = {f"*{PurePosixPath(name).suffix}" for name in names if name.lower().endswith(BINARY)}
    single = {f"/{_escaped(name)}" for name in names if not name.lower().endswith(BINARY)}
    return sorted(endings) + sorted(single)


def _escaped(name: str) -> str:
    return re.sub(r"[\s\[\]*?#!\\]", lambda found: f"[{found[0]}]" if found[0] not in " \\" else "?", name)


def _progressed(progress: Path) -> int:
    """Bytes sent so far, from git-lfs's lines: `upload 1/2 1024/2048 NAME`, the count being of one file."""
    if not progress.is_file():
        return 0
    files: dict[str, int] = {}
    for line in progress.read_text("utf-8", "replace").splitlines():
        words = line.split(" ", 3)
        if len(words) == 4 and words[0] == "upload" and words[2].partition("/")[0].isdigit():
            files[words[3]] = int(words[2].partition("/")[0])
    return sum(files.values())


def _line(said: str) -> str:
    """The sentence that says most in git's complaints: the first that calls itself an error, else the first of all."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.strip().startswith(CHATTER)]
    telling = ("batch response:", "lfs:", "remote:", "fatal:", "error:")
    errors = [line for line in lines if line.lower().startswith(telling) or re.match(r"\[[0-9a-f]{64}\]", line)]
    chosen = (errors or lines or ["it gave no reason"])[0]
    chosen = re.sub(r"^\[[0-9a-f]{64}\] ", "", chosen)
    chosen = re.sub(r"^((fatal( error)?|error|lfs|batch response): )+", "", chosen, flags=re.IGNORECASE)
    return "it gave no reason" if chosen == "Error" else chosen
