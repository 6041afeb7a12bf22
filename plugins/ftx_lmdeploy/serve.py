"""LMDeploy's OpenAI-compatible server for a model of ours."""

from __future__ import annotations

import shlex
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import write_json
from ftx.environments import named, python_of
from ftx.errors import RecipeError
from ftx.export.frames import frames_of
from ftx.export.opened import open_whole
from ftx_lmdeploy import NAME
from ftx_lmdeploy.prepared import is_awq, prepared
from ftx_lmdeploy.process import Child
from ftx_lmdeploy.start import KEY
from ftx_lmdeploy.template import chat_template

if TYPE_CHECKING:
    from ftx.plugins import Registry

START = Path(__file__).with_name("start.py")
TEMPLATE = "lmdeploy_template.json"
LOOK_SECONDS = 0.5  # between two looks at whether the server is up, or still there
IN_IMAGE, START_IN_IMAGE = "/model", "/ftx_start.py"


@dataclass(frozen=True)
class Serving:
    """How to serve. `cache_share` is that of the GPU's free memory which keys and values take.

    `model_format` None: by the folder. `session_len` None: the model's own. `quant_policy` is the bits of keys and
    values, 4 or 8, 0 for all of them.
    """

    host: str = "127.0.0.1"
    port: int = 23333
    model_name: str | None = None
    tp: int = 1
    cache_share: float = 0.8
    session_len: int | None = None
    model_format: str | None = None
    quant_policy: int = 0


@dataclass(frozen=True)
class Served:
    """A folder that LMDeploy is to serve, its template by LMDeploy's name or a JSON file, and its format."""

    folder: Path
    template: str
    format: str


def served(path: Path, registry: Registry, options: Mapping[str, Any] | None = None) -> Served:
    """What to serve for the model in `path`: as it is when it is quantised, else prepared. Raises FtxError."""
    if is_awq(path):
        return Served(path.resolve(), "hf", "awq")
    whole = open_whole(path, registry, options)
    folder = prepared(whole)
    if not whole.sees:
        return Served(folder, "hf", "hf")
    # With pictures LMDeploy puts their tokens into texts of its own templates alone, not into a Jinja one.
    frames = frames_of(whole.template, whole.tokenizer, whole.stop_ids)
    write_json(folder / TEMPLATE, chat_template(frames, "ftx", bos=bool(frames.bos)))
    return Served(folder, str(folder / TEMPLATE), "hf")


def arguments(what: Served, how: Serving, folder: str | None = None) -> list[str]:
    """LMDeploy's own arguments; `folder` is the model's where that is another, as in an image."""
    here = str(what.folder)
    given = [
        *("serve", "api_server", folder or here),
        *("--server-name", how.host, "--server-port", str(how.port)),
        *("--model-name", how.model_name or what.folder.name),
        *("--backend", "turbomind", "--model-format", how.model_format or what.format),
        *("--chat-template", what.template.replace(here, folder) if folder else what.template),
        *("--tp", str(how.tp), "--cache-max-entry-count", str(how.cache_share)),
        *("--quant-policy", str(how.quant_policy)),
    ]
    return given + (["--session-len", str(how.session_len)] if how.session_len else [])


def image_command(what: Served, how: Serving, registry: Registry) -> str:
    """The same with LMDeploy's image, to be typed: the key comes from FTX_API_KEY there too."""
    image = named(NAME, registry).image or ""
    inside = arguments(what, Serving(**{**vars(how), "host": "0.0.0.0"}), IN_IMAGE)  # noqa: S104  (the container's own)
    links = sorted({str(path.resolve().parent) for path in what.folder.iterdir() if path.is_symlink()})
    mounts = [
        f"{what.folder}:{IN_IMAGE}:ro",
        f"{START}:{START_IN_IMAGE}:ro",
        *(f"{folder}:{folder}:ro" for folder in links),
    ]
    volumes = [word for mount in mounts for word in ("-v", mount)]
    port = f"{how.host}:{how.port}:{how.port}"
    docker = ["docker", "run", "--rm", "--gpus", "all", "--ipc=host", "-p", port, "-e", KEY, *volumes, image]
    return shlex.join([*docker, "python3", START_IN_IMAGE, *inside])


def serve(
    what: Served, how: Serving, registry: Registry, say: Callable[[str], None], up: Callable[[str], None]
) -> None:
    """Run the server until it is asked to end; `up` gets its address once it answers.

    The key that clients must send is read from FTX_API_KEY. Raises FtxError when it does not come up or falls.
    """
    python = python_of(NAME, registry)
    refuse_taken(how)
    child = Child([str(python), "-I", str(START), *arguments(what, how)], say)
    asked = threading.Event()

    def hand_over(number: int, _: Any) -> None:
        asked.set()
        child.ask_to_end(number)

    before = {number: signal.signal(number, hand_over) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        address = f"http://{how.host}:{how.port}"
        while not (child.ended or asked.is_set() or _answers(how)):
            asked.wait(LOOK_SECONDS)
        if not (child.ended or asked.is_set()):
            up(f"{address}/v1")
        while not (child.ended or asked.is_set()):
            asked.wait(LOOK_SECONDS)
        if not asked.is_set():
            child.wait()
            raise child.failure("the server ended", "lower --cache-share or --session-len, or raise --tp")
    finally:
        child.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_taken(how: Serving) -> None:
    """Raises RecipeError for a port or host that cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((how.host, how.port))
        except OSError as error:
            why = error.strerror or str(error)
            raise RecipeError(f"--port: {how.host}:{how.port} cannot be listened on: {why}; name another") from None


def _answers(how: Serving) -> bool:
    connection = HTTPConnection(how.host, how.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (HTTPException, OSError):
        return False
    finally:
        connection.close()
