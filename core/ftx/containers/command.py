"""The engine's command line for a command line of ftx."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftx.containers.engine import Engine
from ftx.containers.mounts import Mount
from ftx.containers.secret_files import OTHERS, PLACE
from ftx.errors import RecipeError
from ftx.redaction import SECRET_VARIABLE

# Commands that are for the network; all others get none unless it is asked for.
OPEN = (
    ("publish",),
    ("download",),
    ("serve",),
    ("lmdeploy", "serve"),
    ("app", "run"),
    ("app", "check"),
    ("env", "create"),
)
HOST, NONE = "host", "none"
LAUNCHER = "torchrun"
SCRATCH = "/tmp"  # noqa: S108 (the container's own, in memory, and its HOME)
SHARED = "8g"  # the most that processes may share in memory; takes none by itself
STOP_SECONDS = 120  # that `docker stop` gives to save a checkpoint
# Variables that travel: how to compute, where the network is, and what says nothing about anybody.
TRAVEL = {
    "FTX_PLUGINS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
    "TERM",
    "COLUMNS",
    "NO_COLOR",
    *(f"{name}_proxy" for name in ("http", "https", "no", "all")),
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "NO", "ALL")),
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_XET",
    "MODELSCOPE_ENDPOINT",
}
TRAVEL_BY = ("OMP_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_")


@dataclass(frozen=True)
class Call:
    """A command line of ftx and all that its container is made of.

    `gpus` is "none", "all" or device numbers as "0,1"; `network` the engine's name of one; `user` UID and GID inside;
    `groups` those that the user is in beside; `secrets` maps variables to files of the host; `environment` is set,
    `passed` taken from our own by name.
    """

    image: str
    words: list[str]
    cwd: Path
    user: tuple[int, int]
    groups: tuple[int, ...] = ()
    network: str = NONE
    gpus: str = NONE
    memory: str | None = None
    mounts: list[Mount] = field(default_factory=list)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    terminal: bool = False
    stdin: bool = False


def network_of(words: list[str], given: str | None) -> str:
    """The network that is asked for, else the host's for commands that are for it, else none."""
    if given:
        return given
    return HOST if any(tuple(words[: len(one)]) == one for one in OPEN) else NONE


def travelling(given: tuple[str, ...], hubs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of our variables that go along, those of --env, and of `hubs`, what publishers read, what is no secret.

    Raises RecipeError for one of --env that is not set.
    """
    for name in given:
        if name not in os.environ:
            raise RecipeError(f"--env {name}: no such variable is set; set it, or leave it out")
    open_ones = TRAVEL | {name for name in hubs if not SECRET_VARIABLE.search(name)}
    known = [name for name in os.environ if name in open_ones or name.startswith(TRAVEL_BY)]
    return tuple(sorted({*known, *given}))


def ftx_words(words: list[str]) -> tuple[list[str], list[str]]:
    """What launches ftx, if anything does, and the words after it: torchrun ... -m ftx | train ..."""
    if words[:1] == ["ftx"]:
        return [], words[1:]
    if words[:1] == [LAUNCHER]:
        for i in range(len(words) - 1):
            if words[i : i + 2] == ["-m", "ftx"]:
                return words[: i + 2], words[i + 2 :]
        raise RecipeError("torchrun launches ftx as: torchrun --nproc-per-node 2 -m ftx train ...")
    return [], words


def shown(call: Call, engine: Engine) -> list[str]:
    """The one command that does the same, for people and scripts."""
    return [engine.name, "run", "--rm", *options(call, engine)]


def options(call: Call, engine: Engine) -> list[str]:
    """What `create` and `run` take: the container, its image and the words inside."""
    launch, words = ftx_words(call.words)
    return [
        *_rights(call, engine),
        *_machine(call, engine),
        *_inside(call),
        # The image's own entry is tini with ftx; the launcher takes its place, under the engine's init.
        *(["--init", f"--entrypoint={launch[0]}"] if launch else []),
        call.image,
        *launch[1:],
        *words,
    ]


def _rights(call: Call, engine: Engine) -> list[str]:
    """As little as can be: no rights but the user's, nothing writable but what is mounted so, and a scratch folder."""
    user, group = call.user
    groups = [str(one) for one in call.groups]
    if engine.rootless and engine.name == "docker":
        user, group, groups = 0, 0, []  # there root stands for the user, and other groups for nobody
    elif engine.rootless and groups:
        groups = ["keep-groups"]
    return [
        f"--user={user}:{group}",
        *(f"--group-add={one}" for one in groups),
        *(["--userns=keep-id"] if engine.rootless and engine.name == "podman" else []),
        "--cap-drop=ALL",
        # Without it root inside could not open what others own, as root outside can.
        *(["--cap-add=DAC_OVERRIDE"] if user == 0 else []),
        "--security-opt=no-new-privileges",
        *(["--security-opt=label=disable"] if Path("/sys/fs/selinux/enforce").exists() else []),
        "--read-only",
        *([f"--tmpfs={SCRATCH}:exec,mode=1777"] if Path(SCRATCH) not in {m.path for m in call.mounts} else []),
    ]


def _machine(call: Call, engine: Engine) -> list[str]:
    return [
        f"--network={call.network}",
        *_gpus(call.gpus, engine),
        *([f"--memory={call.memory}", f"--memory-swap={call.memory}"] if call.memory else []),
        f"--shm-size={SHARED}",
        f"--stop-timeout={STOP_SECONDS}",
        *(["--interactive"] if call.stdin or call.terminal else []),
        *(["--tty"] if call.terminal else []),
        "--pull=never",
    ]


def _gpus(gpus: str, engine: Engine) -> list[str]:
    if gpus == NONE:
        return []
    if engine.name == "podman":
        return [f"--device=nvidia.com/gpu={one}" for one in gpus.split(",")]
    return ["--gpus=all" if gpus == "all" else f'--gpus="device={gpus}"']


def _inside(call: Call) -> list[str]:
    offline = {"HF_HUB_OFFLINE": "1"} if call.network == NONE else {}
    given = {"HOME": SCRATCH, **offline, **call.environment}
    for name in call.secrets:
        for variable in (f"{name}_FILE", *([OTHERS[name]] if name in OTHERS else [])):
            given[variable] = f"{PLACE}/{name}"
    mounts = [*((m.path, m.path, m.writable) for m in call.mounts)]
    mounts += [(file, Path(PLACE, name), False) for name, file in call.secrets.items()]
    return [
        f"--workdir={call.cwd}",
        *(f"--mount={_mount(*mount)}" for mount in mounts),
        *(f"--env={name}={value}" for name, value in given.items()),
        *(f"--env={name}" for name in call.passed if name not in given),
    ]


def _mount(source: Path, target: Path, writable: bool) -> str:
    """The engine's own CSV, in which a field with a comma, a quote or a line break stands in quotes."""
    fields = ["type=bind", f"source={source}", f"target={target}", *([] if writable else ["readonly"])]
    return ",".join(f'"{one.replace(chr(34), chr(34) * 2)}"' if set(',"\n\r') & set(one) else one for one in fields)
