"""Docker or Podman: found, asked, and what it refuses told in a sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Literal

from ftx.errors import FtxError, StorageError

Name = Literal["docker", "podman"]
NAMES: tuple[Name, ...] = ("docker", "podman")
# How each tells its architecture, and whether it runs without root.
ASKED = {
    "docker": ("info", "--format", "{{.Architecture}}|{{.SecurityOptions}}|{{range .ServerErrors}}{{.}}{{end}}"),
    "podman": ("info", "--format", "{{.Host.Arch}}|rootless={{.Host.Security.Rootless}}|"),
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # the kernel's names and those of images
NEVER = "0001-01-01T00:00:00Z"  # when a container started that did not
VERSION = "org.opencontainers.image.version"  # the label
NO_GPU = ("could not select device driver", "unresolvable cdi devices", "nvidia-container-cli", "setting up cdi")
FULL = ("no space left on device", "disk quota exceeded")
FOREIGN = "exec format error"


class ContainerError(FtxError):
    """A container engine or an image is not there, or not as it is needed."""

    kind = "container"


@dataclass(frozen=True)
class Image:
    """An image that is here. `architecture` is "amd64" or another of Docker's names, `version` that of ftx in it."""

    name: str
    architecture: str
    version: str


@dataclass(frozen=True)
class End:
    """How a container ended. `error` is why the engine could not start it, where it could not."""

    code: int
    out_of_memory: bool
    started: bool
    running: bool
    error: str


@dataclass(frozen=True)
class Engine:
    """An engine that answers. `rootless`: the user's own, in which root stands for the user."""

    name: Name
    architecture: str
    rootless: bool

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the engine's command line to its end."""
        return _ask(self.name, *words)

    def image(self, name: str) -> Image:
        """The image, which must be here: nothing is fetched unasked. Raises ContainerError."""
        found = self.ask(
            "image", "inspect", "--format", f'{{{{.Architecture}}}} {{{{index .Config.Labels "{VERSION}"}}}}', name
        )
        if found.returncode:
            made = _made_by(name)
            have = f"build it from a checkout: {made}," if made else f"fetch it: {self.name} pull {name},"
            raise ContainerError(f"there is no image {name} here; {have} or name another with --image or FTX_IMAGE")
        architecture, _, version = found.stdout.strip().partition(" ")
        return Image(name, architecture, version)

    def create(self, options: list[str]) -> None:
        """Make a container. Raises FtxError."""
        made = self.ask("create", *options)
        if made.returncode:
            raise self.refusal(made.stderr)

    def end(self, container: str) -> End:
        """How `container` is or ended. Raises ContainerError when the engine knows it no more."""
        found = self.ask("container", "inspect", "--format", "{{json .State}}", container)
        if found.returncode:
            raise ContainerError(f"{self.name} lost the container while it ran: {_last(found.stderr)}")
        state: dict[str, Any] = json.loads(found.stdout)
        return End(
            code=int(state["ExitCode"]),
            out_of_memory=bool(state["OOMKilled"]),
            started=str(state["StartedAt"]) != NEVER,
            running=bool(state["Running"]),
            error=str(state.get("Error") or ""),
        )

    def signal(self, container: str, number: int) -> bool:
        """Send a signal to what runs in `container`; False when nothing runs there (yet, or any more)."""
        return not self.ask("kill", "--signal", str(number), container).returncode

    def remove(self, container: str) -> None:
        self.ask("rm", "--force", "--volumes", container)

    def refusal(self, said: str, image: Image | None = None) -> FtxError:
        """The sentence for what the engine said when it made or started no container."""
        low = said.lower()
        if any(sign in low for sign in NO_GPU):
            return ContainerError(
                f"{self.name} can hand no GPU to a container here: install the NVIDIA Container Toolkit, "
                f"or leave the GPUs out with --gpus none"
            )
        if FOREIGN in low:
            return self.foreign(image)
        if any(sign in low for sign in FULL):
            return StorageError(f"the disk of {self.name} is full; free some with: {self.name} system prune")
        return ContainerError(f"{self.name} could not start the container: {_last(said)}")

    def foreign(self, image: Image | None) -> ContainerError:
        """The sentence for an image of another machine's architecture."""
        what = f"image {image.name} is for {image.architecture}" if image else "the image is for another machine"
        made = _made_by(image.name) if image else ""
        name = f" {image.name}" if image else ""
        have = (
            f"build it here: {made}"
            if made
            else f"fetch it for this machine: {self.name} pull --platform linux/{self.architecture}{name}"
        )
        return ContainerError(f"{what} and this machine is {self.architecture}; {have}")


def find_engine(named: str | None = None) -> Engine:
    """The engine of that name, or the first that answers. Raises ContainerError."""
    why: list[str] = []
    for name in NAMES if named is None else [one for one in NAMES if one == named]:
        if shutil.which(name) is None:
            continue
        told = _ask(name, *ASKED[name])
        architecture, rights, wrong = [*told.stdout.strip().split("|"), "", ""][:3]
        if not told.returncode and architecture:
            rootless = "rootless" in rights and "rootless=false" not in rights
            return Engine(name, ARCHITECTURES.get(architecture, architecture), rootless)
        why.append(_unanswered(name, told.stderr or wrong))
    if why:
        raise ContainerError(why[0])
    wanted = named or "Docker or Podman"
    raise ContainerError(
        f"there is no {wanted} here to run an image with; install it (docs.docker.com/engine/install), "
        f"or run the command without an image"
    )


def _made_by(image: str) -> str:
    """The command that makes one of ftx's own images, which no registry has; "" for others."""
    repository, _, tag = image.partition(":")
    return f"make image-{tag}" if repository == "ftx" and tag else ""


def _unanswered(name: Name, said: str) -> str:
    if "permission denied" in said.lower():
        return (
            f"{name} is here but does not let you in: add yourself to its group (sudo usermod -aG {name} $USER), "
            f"log in again, and repeat the command"
        )
    return f"{name} is here but its engine does not answer ({_last(said)}); start it: sudo systemctl start {name}"


def _ask(name: Name, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [name, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def _last(said: str) -> str:
    """The last line that says something, without the engine's own beginnings."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("See '")]
    line = lines[-1] if lines else "it gives no reason"
    return re.sub(r"^(docker: |Error: |errors pretty printing info: ?|Error response from daemon: )+", "", line)
