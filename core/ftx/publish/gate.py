"""What may leave: an allow-list by kind of artefact, and a look into every file that is on it.

Whatever is refused is told with its file and a way on; all of it at once, before anything is sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from ftx.artifact import MANIFEST, RECEIPT, Artifact
from ftx.data.secrets import KINDS
from ftx.errors import DataError, FtxError, RecipeError, VerificationError
from ftx.export.receipt import read_receipt
from ftx.publish.credentials import login_tokens, token
from ftx.publish.pickles import dangers, is_pickle, texts
from ftx.publish.unpacked import unpacked
from ftx.redaction import SECRET_VARIABLE, SHORTEST_SECRET

PUBLISHED = "publish.json"  # what was published where: written beside the seal, never sent itself

MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "configuration.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "chat_template.jinja*",
    "chat_template.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "processing_*.py",
    "conversation.py",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    "metafile.y*ml",
    MANIFEST,
    RECEIPT,
)
PICKLES = ("*.bin", "*.bin.index.json", "*.pt", "*.pth")
APP = (
    "*.py",
    "*.md",
    "*.txt",
    "*.toml",
    "*.yaml",
    "*.yml",
    "*.json",
    "*.jinja",
    "*.html",
    "*.css",
    "*.js",
    "*.sh",
    "*.png",
    "*.jpg",
    "*.svg",
    "*.ico",
    "Dockerfile",
    "LICENSE*",
    "NOTICE*",
    ".streamlit/config.toml",
    ".dockerignore",
    ".gitattributes",
    ".gitignore",
)
HIDDEN = tuple(name for name in APP if name.startswith("."))
APP_MODEL = "model"  # the folder of the model that an app carries
DATA = ("*.jsonl", "*.parquet", "*.csv", "*.tsv", "*.xlsx", "*.arrow", "*.jsonl.gz", "*.jsonl.zst")

SETTINGS = (*MODEL, "modules.json")  # the latter of an encoder in sentence-transformers' form, a list too
# A list of objects, or an object on each of the first two lines.
ROWS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*\{|\{[^\n]*\}[ \t\r]*\n\s*\{)")

# Names that stop a publishing wherever they lie, with what they are.
SECRET_NAMES = (
    ".env*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_rsa*",
    "id_ed25519*",
    "id_ecdsa*",
    "id_dsa*",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    "token",
    "token.*",
    "tokens.*",
    "*_token",
    "*token.txt",
    "credentials*",
    "secrets.*",
    "*.kdbx",
)
STATE_NAMES = (
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "scaler.pt",
    "training_args.bin",
    "trainer_state*",
    "zero_*",
    "zero_pp_rank*",
    "*_optim_states*",
    "random_states*",
    "events.out.tfevents*",
)
STATE_FOLDERS = ("global_step*", "wandb", "checkpoints", "runs", "chroma*")
CACHE_FOLDERS = ("__pycache__", ".cache", ".ms_upload_cache*", ".ipynb_checkpoints", ".venv", "node_modules")

MORE_SECRETS = {
    "AWS secret key": re.compile(r"(?i)aws_?secret_?access_?key[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+=]{40}"),
    "OpenXLab key": re.compile(r"(?i)\b(?:openxlab_?)?(?:ak|sk)[\"']?\s*[=:]\s*[\"'][A-Za-z0-9]{16,}[\"']"),
    "GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "Slack token": re.compile(r"\bxox[abeoprs]-\d[A-Za-z0-9-]{10,}"),
    "Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
    # Written behind such a name, with letters and two digits or more: a word, a variable and a call are none.
    "password or key": re.compile(
        r"""
        (?: token | secret | (?:api|access|secret|private)[_-]?key | passw(?:or)?d | _ak | _sk | "auth" )
        ["'\]]* (?:[ \t]*:[ \t]*\w{1,20})? [ \t]*[=:][ \t]*   # a type may stand between
        (?! ["']? [\w-]* (?:your|example|placeholder|change|xxxx) )
        (?! ["']? (?-i:[A-Z][A-Z0-9]*_[A-Z0-9_]+)\b ["']? (?:[\s,;)]|$) )      # the name of a variable
        (?= ["']? [^\s"']*[a-z] ) (?= ["']? (?:[^\s"'\d]*\d){2} )
        (?: ["'][a-z0-9][\w+/=.!@\#%^&*~-]{15,}["'] | [a-z0-9][a-z0-9+=-]{15,} (?=["'\s,;}&]|$) )
        """,
        re.IGNORECASE | re.VERBOSE,
    ),
}
NO_CREDENTIALS = {"identity card number", "phone number", "e-mail address"}  # personal, and no key to anything
# Paths of a machine, in what describes a model. Vocabularies hold anything and are not looked into for them.
LOCAL_PATH = re.compile(
    r"(?<![\w:/.~-])(?:/(?:home|root|Users|mnt|data|tmp|var|opt|srv|share|work|workspace|media|cpfs\d*|nvme)/[\w.-]+"
    r"|[A-Za-z]:\\Users\\)"
)
# Not the receipt: its answers are the model's own words, and the rest of it was rendered without paths.
DESCRIPTIONS = ("*config*.json", "*.index.json", "README.md", "metafile.y*ml", MANIFEST)
QUOTED = re.compile(r"(?m)^> .*$")  # in a card: such answers
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.*", "merges.txt", "added_tokens.json")
POINTER = b"version https://git-lfs.github.com/spec/v1"
LOOK = 1 << 16  # bytes at the start of a file that tell what it is
OVERLAP = 4096  # bytes; longer than any secret that is looked for
MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit
_kept: set[str] = set()  # tokens of logins, read once for all files
LONGEST_NAME = 255  # bytes of a part of a path, as file systems and hubs have it


class GateError(FtxError):
    """Something of what was to be published may not leave this machine."""

    kind = "gate"


@dataclass(frozen=True)
class Consent:
    """What the user said may leave beyond the usual."""

    pickles: bool = False
    data: bool = False


def check_names(folder: Path, names: Sequence[str], kind: str, consent: Consent) -> list[str]:
    """Every reason why the files of `folder` may not leave, by their names alone.

    `names` are those that are to leave; the others are looked at too: a key that lies in the folder is a mistake
    even where it would be left behind.
    """
    forbidden = {name: why for name in sorted(_everything(folder)) if (why := _forbidden(folder, name, consent))}
    problems = list(forbidden.values())
    for name in names:
        bad = _bad_name(name)
        problems += bad
        if not bad and name not in forbidden and not allowed(name, kind, consent):
            problems.append(f"{name} is not among the files that may leave with {_article(kind)}; take it out")
    lowered: dict[str, str] = {}
    for name in names:
        other = lowered.setdefault(name.lower(), name)
        if other != name:
            problems.append(f"{other} and {name} differ in capital letters alone: some systems cannot hold both")
    return problems


def check_contents(folder: Path, names: Sequence[str], consent: Consent, places: Sequence[str] | None) -> list[str]:
    """Every reason why the files' contents may not leave: secrets, pickles, pointers, damage, paths of this machine.

    `places` are paths that no text may hold; with None, paths are not looked for: they are yet to be replaced.
    """
    problems: list[str] = []
    _kept.clear()
    _kept.update(login_tokens())
    for name in names:
        problems += _look_into(folder / name, name, consent, places)
    return problems + _incomplete(folder, names)


def refuse_unproven(artifact: Artifact) -> None:
    """Raise VerificationError unless `ftx verify` found the artefact, as it is sealed now, to hold."""
    receipt = read_receipt(artifact)
    folder = artifact.folder
    if receipt is None:
        stale = (folder / RECEIPT).is_file()
        why = "was sealed anew since it was verified" if stale else "was never verified"
        raise VerificationError(f"{folder} {why}, and what is not proven is not published; run: ftx verify {folder}")
    if not receipt.passed:
        problems = [str(one) for form in receipt.forms for one in form.get("problems", ())]
        why = f": {problems[0]}" if problems else ""
        raise VerificationError(f"{folder} did not pass its verification{why}; see: ftx verify {folder}")


def allowed(name: str, kind: str, consent: Consent) -> bool:
    """Whether a file of that name may leave in an artefact of that kind."""
    patterns = [*(APP if kind == "app" else MODEL)]
    patterns += PICKLES if consent.pickles else ()
    patterns += DATA if consent.data else ()
    if any(part.startswith(".") for part in PurePosixPath(name).parts):
        return kind == "app" and _matches(name, HIDDEN)
    if kind == "app" and PurePosixPath(name).parts[0] == APP_MODEL:
        return allowed(PurePosixPath(name).name, "model", consent)
    if kind != "app" and "/" in name:
        return consent.data and _matches(name, DATA)
    return _matches(name, patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    last = PurePosixPath(name).name
    return any(fnmatchcase(name if "/" in pattern else last, pattern) for pattern in patterns)


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _everything(folder: Path) -> Iterator[str]:
    """Paths of all files, and of links whatever they lead to; links to folders are not entered."""
    for base, folders, files in os.walk(folder):
        links = [name for name in folders if Path(base, name).is_symlink()]
        for name in [*files, *links]:
            yield Path(base, name).relative_to(folder).as_posix()


def _forbidden(folder: Path, name: str, consent: Consent) -> str | None:
    """Why the folder cannot be published while this file is in it; None where it can."""
    path = folder / name
    parts = PurePosixPath(name).parts
    last = parts[-1].lower()
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} is a link that leads out of the folder; put a copy of the file there or remove it"
    if path.is_symlink() and not path.exists():
        return f"{name} is a link to nothing; remove it"
    if not path.is_symlink() and not path.is_file():
        return f"{name} is no ordinary file; remove it"
    if ".git" in parts:
        return f"{parts[0]} is a git repository, which may hold anything; publish a folder without one"
    if _any(last, SECRET_NAMES) and not _any(last, ("tokenizer*", "special_tokens*")):
        return f"{name} is named as keys and tokens are; take it out of the folder"
    if _any(last, STATE_NAMES) or any(_any(part.lower(), STATE_FOLDERS) for part in parts[:-1]):
        return f"{name} is a state of the training, of no use to others; take it out of the folder"
    if any(_any(part.lower(), CACHE_FOLDERS) for part in parts[:-1]):
        return f"{name} lies in a cache; remove {parts[0]}"
    if not consent.data and _matches(last, DATA):
        return f"{name} is data; take it out of the folder, or publish it on purpose with --with-data"
    if not consent.pickles and is_pickle(b"", last):
        return f"{name} is a pickle, which runs code when it is loaded; convert it to safetensors, or --allow-pickle"
    return None


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _bad_name(name: str) -> list[str]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        return [f"the name {name!r} leads out of the folder"]
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in name):
        return [f"the name {name!r} holds characters that no hub takes; rename the file"]
    if any(len(part.encode("utf-8")) > LONGEST_NAME for part in path.parts):
        return [f"the name {name:.60}... is longer than {LONGEST_NAME} bytes; rename the file"]
    return []


def _look_into(path: Path, name: str, consent: Consent, places: Sequence[str] | None) -> Iterator[str]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LOOK)
    if start.startswith(POINTER):
        yield f"{name} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
        return
    if size == 0 and not name.endswith(("__init__.py", ".txt")):
        yield f"{name} is empty"
        return
    if name.endswith(".safetensors"):
        yield from _safetensors(path, name, size, places)
    elif is_pickle(start, name) or (start.startswith(b"PK\x03\x04") and not _matches(name, DATA)):
        yield from _pickle(path, name, consent, places)
    else:
        if not consent.data and name.endswith(".json") and not _matches(name, SETTINGS) and ROWS.match(start):
            yield f"{name} holds rows of data; take it out of the folder, or publish it on purpose with --with-data"
        yield from _text(path, name, places)


def _pickle(path: Path, name: str, consent: Consent, places: Sequence[str] | None) -> Iterator[str]:
    if not consent.pickles:
        yield f"{name} is a pickle, which runs code when it is loaded; convert it to safetensors, or --allow-pickle"
    elif found := dangers(path):
        yield f"{name} would call {', '.join(found[:3])} when it is loaded; it is not published, with any flag"
    else:
        yield from _found_in(["\n".join(texts(path)).encode("utf-8", "replace")], name, places)


def _safetensors(path: Path, name: str, size: int, places: Sequence[str] | None) -> Iterator[str]:
    """Whether the file is whole, and whether its header, which may hold any text, may leave."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size, MAX_HEADER) else b""
    try:
        tensors: dict[str, Any] = json.loads(header)
        ends = [about["data_offsets"][1] for key, about in tensors.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        yield f"{name} is no safetensors file, or a damaged one"
        return
    if 8 + length + max(ends, default=0) != size:
        yield f"{name} is not as long as its header says: it was cut off, or something was added to it"
    yield from (f"{name}: its header holds {what}" for what in credentials_in(header))
    metadata = json.dumps(tensors.get("__metadata__") or {})
    if found := _local(metadata, places, described=True):
        yield f"{name}: its header names a path of this machine, {found}"


def _text(path: Path, name: str, places: Sequence[str] | None) -> Iterator[str]:
    told: set[str] = set()
    if _any(name, VOCABULARIES):
        places = None
    try:
        for problem in _found_in(unpacked(path, name), name, places):
            told.add(problem)
    except DataError as error:
        told.update(error.problems)
    yield from sorted(told)


def _found_in(chunks: Iterable[bytes], name: str, places: Sequence[str] | None) -> Iterator[str]:
    """What may not leave, maybe several times."""
    described = _any(name, DESCRIPTIONS)
    before = b""
    for chunk in chunks:
        seen = before + chunk
        for what in credentials_in(seen):
            yield f"{name} holds {what}; take it out, and withdraw it where it was made"
        if found := _local(seen.decode("utf-8", "replace"), places, described):
            yield f"{name} names a path of this machine, {found}; replace it by a name on a hub"
        before = chunk[-OVERLAP:]


def credentials_in(raw: bytes) -> Iterator[str]:
    """What is found of credentials; a value of this process's environment is found whatever it looks like."""
    plain = raw.replace(b"\0", b"")  # UTF-16 hides nothing
    text = plain.decode("ascii", "replace")  # in which other letters end a word as well
    for kind, pattern in {**KINDS, **MORE_SECRETS}.items():
        if kind not in NO_CREDENTIALS and pattern.search(text):
            yield f"what looks like a {kind}"
    own = own_secrets()
    for variable, value in own.items():
        if os.fsencode(value) in plain:
            yield f"the value of {variable}"
    if any(value.encode() in plain for value in _kept.difference(own.values())):
        yield "a token that ftx login keeps for you"


def own_secrets(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of the environment that hold secrets, themselves or in the file they name, by their names."""
    found = dict(os.environ if environment is None else environment)
    for name in [name for name in found if name.endswith("_FILE")]:
        variable = name.removesuffix("_FILE")
        if SECRET_VARIABLE.search(variable.upper()):
            # Another program's file may be unreadable; a publisher tells of its own when it asks for it.
            with suppress(RecipeError):
                found[variable] = found.get(variable) or token(variable) or ""
    return {
        name: value.strip()
        for name, value in found.items()
        if SECRET_VARIABLE.search(name.upper()) and len(value.strip()) >= SHORTEST_SECRET
    }


def _local(text: str, places: Sequence[str] | None, described: bool) -> str | None:
    if places is None:
        return None
    described_by = QUOTED.sub("", text) if described else ""
    for place in places:
        # A short one, as /root, is a word that any text may use.
        if _names(described_by if place.count("/") == 1 else text, place):
            return place
    found = LOCAL_PATH.search(described_by)
    return found[0] if found else None


def _names(text: str, place: str) -> bool:
    """Whether the path stands in the text by itself, and not as a part of `ann/root-model` or `https://root/`."""
    before, after = r"(?:(?<![\w.~-])(?<!:/)|(?<=\\[nrt]))", r"(?![\w-]|\.\w)"
    return place in text and re.search(f"{before}{re.escape(place)}{after}", text) is not None


def _incomplete(folder: Path, names: Sequence[str]) -> list[str]:
    """Shards that the index does not have, and the other way round."""
    problems = []
    sharded = re.compile(r"(.+)-\d{5}-of-\d{5}\.(safetensors|bin)")
    shards = [(name, found) for name in names if (found := sharded.fullmatch(name))]
    for base, ending in sorted({(found[1], found[2]) for _, found in shards}):
        index = f"{base}.{ending}.index.json"
        if index not in names:
            problems.append(f"{index}, the index of the shards, is missing; make the folder anew")
    for index in [name for name in names if name.endswith(".index.json")]:
        for shard in sorted(_listed(folder / index) - set(names)):
            problems.append(f"{shard}, which {index} lists, is missing; make the folder anew")
    return problems


def _listed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return {f"(nothing that can be read: {index.name} is damaged)"}
