"""The one road of all publishers: render, check, plan, push, confirm. All but the last two are seen with --dry-run."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftx.artifact import KINDS, MANIFEST, RECEIPT, Artifact
from ftx.atomic import hash_text, sha256_of
from ftx.contracts import AppSettings, Bundle, Publisher, Remote, RemoteFile
from ftx.data.cache import alone, cache_root
from ftx.errors import FtxError, HubError, RecipeError, StorageError, VerificationError
from ftx.publish import gate
from ftx.publish.app_model import Carried, carried
from ftx.publish.app_settings import listed_model, refuse_written_secrets
from ftx.publish.gate import PUBLISHED, Consent, GateError
from ftx.publish.licence import Licence, choose
from ftx.publish.receipt import Published, now, published_at, read_published, write_published
from ftx.publish.render import Subject, base_name, render
from ftx.publish.sizing import Demand, demand_of_listed, refuse_too_small, told_of

REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
APP_STARTS = ("app.json", "app.py", "Dockerfile", "index.html")
# What a model has beside its files, and an app of it does not need; it names paths of this machine.
OF_MODEL = tuple(f"{gate.APP_MODEL}/{name}" for name in (MANIFEST, RECEIPT, PUBLISHED))
# What hubs put into a repository that was just made on their web page.
SEEDS = (".gitattributes", ".gitignore", "README.md", "LICENSE", "configuration.json")
DEPTH = 4  # folders below the current one in which a sealed artefact is looked for
LARGE = 5_000_000_000  # bytes of a file from which on it is told that it is sent in one piece
SLOW, FAST = 2, 20  # MB/s between which the time of a sending is told

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Wish:
    """What the user asked for. `base` is the base's name on the hub, `license` what the result goes out under.

    `hardware` is the machine that an app is to run on.
    """

    repo: str
    public: bool = False
    replace: bool = False
    hardware: str | None = field(default=None, kw_only=True)
    consent: Consent = field(default_factory=Consent)
    base: str | None = None
    license: str | None = None
    license_agreed: bool = False
    settings: AppSettings = field(default_factory=AppSettings)


@dataclass(frozen=True)
class Prepared:
    """All that is known before anything is sent. `unreachable`: why the remote could not be asked.

    `fetched`: what an app asks for with the model that it fetches.
    """

    publisher: Publisher
    wish: Wish
    subject: Subject
    licence: Licence | None
    bundle: Bundle
    remote: Remote | None
    send: Sequence[str]
    left_behind: Sequence[str]
    unreachable: FtxError | None = None
    fetched: Demand | None = None

    @property
    def done(self) -> bool:
        """Whether the remote holds all of it already."""
        return self.remote is not None and not self.send and not self.bundle.removed

    def as_event(self) -> dict[str, Any]:
        """The plan, as JSON values."""
        files = self.bundle.files
        sizes = sum(files[name].size for name in self.send)
        return {
            "event": "publish_plan",
            "publisher": self.publisher.name,
            "repo": self.wish.repo,
            "address": self.publisher.address(self.wish.repo),
            "kind": self.subject.kind,
            "public": self.wish.public,
            "exists": self.remote is not None if self.unreachable is None else None,
            "unreachable": "; ".join(self.unreachable.problems) if self.unreachable else None,
            "license": asdict(self.licence) if self.licence else None,
            "files": [
                {"path": name, "size": about.size, "sha256": about.sha256, "send": name in self.send}
                for name, about in files.items()
            ],
            "removes": list(self.bundle.removed),
            "left_behind": list(self.left_behind),
            "bytes": sum(about.size for about in files.values()),
            "send_bytes": sizes,
            "minutes": [round(sizes / 1e6 / speed / 60, 1) for speed in (FAST, SLOW)],
            "in_one_piece": [] if self.publisher.in_parts else [name for name in self.send if files[name].size > LARGE],
            "by_hand": list(self.publisher.by_hand(self.wish.repo, self.subject.kind)),
            "secrets": sorted(self.wish.settings.secrets),
            "variables": dict(self.wish.settings.variables),
            "memory": self._memory(),
        }

    def _memory(self) -> dict[str, Any] | None:
        """What the app needs, or an app of the model would, on this hub."""
        return told_of(self.subject.folder, self.publisher.name, self.subject.artifact, self.fetched)


def newest(folder: Path) -> Path:
    """The artefact below `folder` that was sealed last. Raises RecipeError when there is none."""
    found: list[Path] = []
    level = [folder]
    for _ in range(DEPTH + 1):
        found += [one for one in level if (one / MANIFEST).is_file()]
        below = (path for one in level for path in one.iterdir() if not path.name.startswith("."))
        level = [
            path for path in below if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK)
        ]
    if not found:
        raise RecipeError(f"no sealed artefact below {folder}; name one: ftx publish PUBLISHER PATH")
    return max(found, key=lambda one: (one / MANIFEST).stat().st_mtime)


def known_repo(path: Path, publisher: str) -> str | None:
    """Where what lies in `path` was last published with that publisher."""
    folders = [path] if _is_app(path) else [path, *(path / kind for kind in KINDS)]
    entries = [entry for folder in folders for entry in read_published(folder) if entry.publisher == publisher]
    return max(entries, key=lambda entry: entry.time).repo if entries else None


def subject_of(path: Path) -> Subject:
    """What lies in `path`: a sealed artefact (the newest of a run), its files as they were sealed; or an app.

    Raises RecipeError, ModelError, and VerificationError for files that were changed since they were sealed.
    """
    if not path.is_dir():
        raise RecipeError(f"{path} does not exist or is no folder")
    if _is_app(path):
        return _app(path)
    artifact = Artifact.find(path)
    if artifact is None:
        raise RecipeError(f"{path} holds no sealed artefact of ftx and no app; make one with: ftx train, ftx merge")
    names = [*artifact.manifest["files"], MANIFEST]
    names += [RECEIPT] if (artifact.folder / RECEIPT).is_file() else []
    return Subject(artifact.folder, artifact.kind, tuple(sorted(names)), artifact)


def _is_app(path: Path) -> bool:
    """Whether the folder itself is one, whatever its folder `model` holds."""
    if (path / MANIFEST).is_file():
        return _kind(path) not in (None, *KINDS)
    return any((path / start).is_file() for start in APP_STARTS)


def _kind(path: Path) -> str | None:
    """The kind that the folder's seal names, unread otherwise."""
    try:
        kind = json.loads((path / MANIFEST).read_text("utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return None
    return kind if isinstance(kind, str) else None


def _app(folder: Path) -> Subject:
    names = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file() or one.is_symlink())
    return Subject(folder, "app", tuple(name for name in names if name not in (PUBLISHED, *OF_MODEL)), None)


@contextmanager
def prepared(path: Path, publisher: Publisher, wish: Wish, *, dry: bool = False) -> Iterator[Prepared]:
    """Render, check and plan. What was rendered is gone when the block ends.

    Raises GateError for what may not leave, RecipeError, VerificationError, HubError.
    """
    if not REPO.fullmatch(wish.repo) or ".." in wish.repo or "--" in wish.repo or wish.repo.endswith(".git"):
        raise RecipeError(
            f"--repo {wish.repo}: write it as OWNER/NAME, each of letters, digits, '-', '_' and '.' "
            "(neither first nor last, no '--' or '..', not ending in .git)"
        )
    subject = subject_of(path)
    publisher = publisher.for_kind(subject.kind)
    try:
        _admit(subject, publisher, wish)
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}; nothing was published") from None
    model = carried(subject.folder, subject.names) if subject.kind == "app" else None
    if subject.kind == "app":
        refuse_too_small(subject.folder, publisher.name, _machine(publisher, wish))
    base = base_name(subject.artifact, wish.base) if subject.artifact else None
    licence = _licence(subject, base, model, wish)
    with _workshop(subject.folder) as out:
        files = render(subject, publisher, wish.repo, base, licence, out)
        if model:
            model.refuse_other(subject.folder, files)
        _check_rendered(subject, out, list(files), wish)
        message = f"{subject.kind} {wish.repo.partition('/')[2]}, by ftx"
        bundle = Bundle(out, files, subject.kind, message, settings=wish.settings)
        yield _planned(publisher, wish, subject, licence, bundle, dry)


def _admit(subject: Subject, publisher: Publisher, wish: Wish) -> None:
    if subject.kind not in publisher.takes:
        takes = ", ".join(publisher.takes)
        raise RecipeError(f"{publisher.hub} takes {takes} from ftx, and {subject.folder} is a {subject.kind}")
    if wish.settings and not publisher.configures:
        flag = "--secret" if wish.settings.secrets else "--variable"
        raise RecipeError(
            f"{flag}: {publisher.hub} lets no program set what an app finds in its environment; leave it out, and type "
            "it on the web page"
            if subject.kind == "app"
            else f"{flag} is for apps, and {subject.folder} is a {subject.kind}; leave it out"
        )
    problems = gate.check_names(subject.folder, subject.names, subject.kind, wish.consent)
    # A link that leads out is not followed.
    if not problems:
        names = [name for name in subject.names if name not in (MANIFEST, RECEIPT)]
        problems = gate.check_contents(subject.folder, names, wish.consent, None)
    if problems:
        raise GateError(*problems)
    read_published(subject.folder)
    if subject.artifact:
        gate.refuse_unproven(subject.artifact)


def _licence(subject: Subject, base: str | None, model: Carried | None, wish: Wish) -> Licence | None:
    """That of the model; None for an app that carries none. `base` is the base's name on a hub."""
    if subject.artifact:
        return choose(subject.artifact, base, wish.license, wish.license_agreed)
    return choose(model.artifact, None, wish.license or model.licence, wish.license_agreed) if model else None


def _check_rendered(subject: Subject, out: Path, names: Sequence[str], wish: Wish) -> None:
    problems = gate.check_names(out, names, subject.kind, wish.consent)
    problems += gate.check_contents(out, names, wish.consent, subject.places)
    if problems:
        raise GateError(*problems)
    refuse_written_secrets(out, names, wish.settings)


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder on the artefact's own file system, gone afterwards; one that a killed process left is removed.

    One publishing of an artefact at a time: a second waits for the first.
    """
    home = folder.resolve().parent / f".{folder.resolve().name}.publish"
    if not os.access(home.parent, os.W_OK):
        home = Path(tempfile.mkdtemp(prefix="ftx-publish-"))
    with alone(cache_root() / "publish" / hash_text(str(folder.resolve()))):
        out = home / "bundle"
        try:
            shutil.rmtree(home, ignore_errors=True)
            out.mkdir(parents=True)
            yield out
        except OSError as error:
            if error.errno is None:
                raise
            raise StorageError(f"{home} could not be written: {error.strerror}; nothing was published") from error
        finally:
            shutil.rmtree(home, ignore_errors=True)


def _planned(
    publisher: Publisher, wish: Wish, subject: Subject, licence: Licence | None, bundle: Bundle, dry: bool
) -> Prepared:
    left = _left_behind(subject)
    try:
        remote = publisher.listed(wish.repo)
        model = listed_model(publisher, bundle.folder)
    except HubError as error:
        if not dry:
            raise
        return Prepared(publisher, wish, subject, licence, bundle, None, list(bundle.files), left, error)
    fetched = demand_of_listed(bundle.folder, model.files) if model else None
    if fetched:
        refuse_too_small(subject.folder, publisher.name, _machine(publisher, wish), fetched)
    there = {} if remote is None else {k: v for k, v in remote.files.items() if k not in publisher.keeps}
    send = [name for name, about in bundle.files.items() if name not in there or not about.same_as(there[name])]
    removed = sorted(set(there) - set(bundle.files))
    if remote is not None:
        _refuse_foreign(publisher, wish, subject.folder, bundle, there)
        if remote.private is False and not wish.public:
            raise RecipeError(
                f"{wish.repo} on {publisher.hub} is public, and what is sent there is seen by all; add --public if "
                "that is meant, or name another --repo"
            )
    bundle = replace(bundle, removed=removed)
    return Prepared(publisher, wish, subject, licence, bundle, remote, send, left, fetched=fetched)


def _machine(publisher: Publisher, wish: Wish) -> str | None:
    """What an app is to run on; None for what the hub gives."""
    return wish.hardware or getattr(publisher, "hardware", None)


def _refuse_foreign(
    publisher: Publisher, wish: Wish, folder: Path, bundle: Bundle, there: Mapping[str, RemoteFile]
) -> None:
    """Raise RecipeError when the remote holds what neither this artefact nor its receipt accounts for."""
    if wish.replace:
        return
    before = published_at(folder, publisher.address(wish.repo))
    ours = before.remote_files() if before else {}
    for name, about in sorted(there.items()):
        known = [files[name] for files in (bundle.files, ours) if name in files]
        seed = before is None and name in SEEDS
        if not seed and not any(about.same_as(one) for one in known):
            how = "was changed there since" if name in ours else "is not from this artefact"
            raise RecipeError(
                f"{wish.repo} on {publisher.hub} is not empty: {name} {how}; name another --repo, or make it hold this "
                "artefact alone with --replace"
            )


def _left_behind(subject: Subject) -> list[str]:
    every = (one.relative_to(subject.folder).as_posix() for one in subject.folder.rglob("*") if one.is_file())
    return sorted(name for name in every if name not in subject.names and name != PUBLISHED)


def carry_out(plan: Prepared, tell: Tell) -> Published:
    """Push, confirm, and write the receipt. Raises HubError when what arrived is not what was sent."""
    publisher, wish, bundle = plan.publisher, plan.wish, plan.bundle
    if plan.remote is not None and publisher.configures:
        publisher.configure(wish.repo, wish.settings)
    if plan.done and plan.remote:
        revision = plan.remote.revision
    else:
        total = sum(bundle.files[name].size for name in plan.send)
        with _unchanged(plan.subject):
            revision = publisher.push(wish.repo, bundle, plan.remote, _by_percents(total, tell))
    found = _confirmed(publisher, wish.repo, bundle, revision)
    entry = Published(
        publisher.name,
        publisher.address(wish.repo),
        wish.repo,
        str(found.revision),
        found.private is False,
        now(),
        asdict(plan.licence) if plan.licence else {},
        {name: asdict(about) for name, about in bundle.files.items()},
    )
    try:
        write_published(plan.subject.folder, entry)
    except StorageError as error:
        raise StorageError(f"all arrived at {entry.address}, and its receipt did not get written: {error}") from None
    publisher.await_start(wish.repo, changed=not plan.done or bool(wish.settings))
    left = list(publisher.afterwards(wish.repo, bundle))
    if wish.public and not entry.public:
        try:
            to_do = publisher.make_public(wish.repo)
        except HubError as error:
            raise HubError(f"all arrived, and is private still: {error}") from None
        left += to_do
        entry = replace(entry, public=not to_do)
        write_published(plan.subject.folder, entry)
    tell({**asdict(entry), "event": "published", "sent_files": len(plan.send), "by_hand": left})
    return entry


def _by_percents(total: int, tell: Tell) -> Callable[[int], None]:
    """Tells bytes sent, once for each hundredth."""
    told = -1

    def sent(count: int) -> None:
        nonlocal told
        part = min(count, total) * 100 // total if total else 100
        if part > told:
            told = part
            tell({"event": "sending", "sent": min(count, total), "total": total})

    return sent


def _confirmed(publisher: Publisher, repo: str, bundle: Bundle, revision: str | None) -> Remote:
    """The remote, listed anew and found to hold the bundle and nothing else."""
    try:
        found = publisher.listed(repo)
    except HubError as error:
        raise HubError(f"all was sent, and whether it arrived is not known yet: {error}") from None
    if found is None:
        raise HubError(f"{repo} on {publisher.hub} cannot be found after it was sent; look at its page, then run again")
    there = {name: about for name, about in found.files.items() if name not in publisher.keeps}
    wrong = [name for name, about in bundle.files.items() if name not in there or not about.same_as(there[name])]
    wrong += sorted(set(there) - set(bundle.files))
    if wrong:
        raise HubError(
            f"{repo} on {publisher.hub} does not hold what was sent: {wrong[0]} is missing, changed or not ours; no "
            "receipt was written, run the same command again"
        )
    if revision and found.revision and found.revision != revision:
        raise HubError(f"someone else changed {repo} on {publisher.hub} meanwhile; run the same command again")
    return found


@contextmanager
def _unchanged(subject: Subject) -> Iterator[None]:
    """Raise VerificationError when a file was written to meanwhile, which is also why a hub may have refused it."""
    before = _stamps(subject)
    try:
        yield
    except HubError:
        _refuse_changed(subject, before)
        raise
    _refuse_changed(subject, before)


def _refuse_changed(subject: Subject, before: Mapping[str, tuple[int, int, int]]) -> None:
    if changed := _changed(subject, before):
        raise VerificationError(
            f"{subject.folder / changed} was changed while it was sent; make it anew and publish again"
        )


def _stamps(subject: Subject) -> dict[str, tuple[int, int, int]]:
    stats = {name: (subject.folder / name).stat() for name in subject.names}
    return {name: (about.st_ino, about.st_size, about.st_mtime_ns) for name, about in stats.items()}


def _changed(subject: Subject, before: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The first file that was written to since; the sha256 decides where only the time differs."""
    for name in subject.names:
        path = subject.folder / name
        if not path.is_file():
            return name
        about = path.stat()
        if (about.st_ino, about.st_size, about.st_mtime_ns) != before[name]:
            sealed = subject.artifact.manifest["files"].get(name) if subject.artifact else None
            if sealed is None or about.st_size != sealed["size"] or sha256_of(path) != sealed["sha256"]:
                return name
    return None
