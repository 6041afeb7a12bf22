"""A Docker engine, the images of docker/Dockerfile, and commands in their containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BASE = "ftx-base:bookworm"
OFFLINE = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "-e", "OMP_NUM_THREADS=1")


@dataclass(frozen=True)
class Engine:
    """The Docker engine that scripts/docker_engine gives; `environment` leads the client to it."""

    environment: Mapping[str, str]

    def docker(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self.run(["docker", *map(str, arguments)])
        assert not check or done.returncode == 0, done.stderr
        return done

    def run(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **more}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    def build(self, target: str, *options: str) -> str:
        """Build a target on the Debian base; its full name."""
        base = self.run(["sh", "scripts/docker_base", BASE])
        assert base.returncode == 0, base.stderr
        built = self.run(["sh", "scripts/image", target, *options], BASE_IMAGE=BASE)
        assert built.returncode == 0, built.stderr[-4000:]
        return built.stdout.split()[-1]

    def ftx(self, image: str, *arguments: object, options: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run ftx in a container as the image's default user, without network, on a read-only root."""
        return self.docker("run", "--rm", *OFFLINE, *options, image, *arguments, check=False)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker("inspect", name).stdout)[0]
        return found

    @contextmanager
    def volume(self) -> Iterator[str]:
        """A volume of its own, gone at the end."""
        name = f"ftx-test-{uuid.uuid4().hex[:12]}"
        self.docker("volume", "create", name)
        try:
            yield name
        finally:
            self.docker("volume", "rm", "-f", name)

    @contextmanager
    def started(self, image: str, *arguments: object, options: tuple[object, ...] = ()) -> Iterator[str]:
        """A container that runs beside the test, gone at the end; its name."""
        name = f"ftx-test-{uuid.uuid4().hex[:12]}"
        self.docker("run", "-d", "--name", name, *OFFLINE, *options, image, *arguments)
        try:
            yield name
        finally:
            self.docker("rm", "-f", "-v", name)

    def wait_for_line(self, container: str, words: str) -> None:
        """Read what a container says until a line has `words`. Fails when it ends before."""
        command = ["docker", "logs", "-f", container]
        said = []
        with subprocess.Popen(
            command, env=dict(self.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as log:
            assert log.stdout is not None
            for line in log.stdout:
                said.append(line)
                if words in line:
                    log.kill()
                    return
        raise AssertionError("".join(said))


def engine() -> Engine:
    """The machine's engine, or one that is unpacked and started for the tests. Needs root or a Docker."""
    done = subprocess.run(["sh", "scripts/docker_engine"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = dict(re.findall(r"^export (\w+)='(.*)'$", done.stdout, re.MULTILINE))
    return Engine({**os.environ, **given})
