"""What images install fits setup.cfg, constraints.txt, LMDeploy's lock and the apps' pins; the Dockerfile is clean."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ftx_apps.targets import TARGETS

ROOT = Path(__file__).parent.parent
LOCKS = sorted(path.stem for path in (ROOT / "docker").glob("*.lock"))
PLACE = {
    "python_version": "3.11",
    "python_full_version": "3.11.2",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def locked(*names: str) -> dict[str, str]:
    """Name and version of all that the locks hold."""
    text = "\n".join((ROOT / "docker" / f"{name}.lock").read_text("utf-8") for name in names)
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


def pinned(path: Path) -> dict[str, str]:
    """Name and version of what a file of pins holds for the images' Python."""
    found = {}
    for line in path.read_text("utf-8").splitlines():
        pin, _, marker = line.partition(";")
        if "==" in pin and not line.startswith("#") and (not marker or Marker(marker).evaluate(PLACE)):
            name, version = pin.strip().split("==")
            found[canonicalize_name(name)] = version
    return found


def wanted(*extras: str) -> list[Requirement]:
    """setup.cfg's requirements with those of the extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    lines = setup["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += setup["options.extras_require"][extra].split("\n")
    return [Requirement(line) for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (("torch-cpu", "cpu"), ("serve", "modelscope")),
        (("torch-cuda", "cuda"), ("gpu", "qlora", "serve", "modelscope")),
    ],
)
def test_an_image_holds_what_setup_cfg_wants_in_the_versions_of_the_constraints(
    locks: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    inside = locked(*locks)
    for requirement in wanted(*extras):
        version = inside.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is in no lock; run: sh scripts/image_locks"
        assert requirement.specifier.contains(version.split("+")[0]), f"{requirement}: {version} is locked"
    tried = pinned(ROOT / "constraints.txt")
    others = {name: version for name, version in inside.items() if tried.get(name, version) != version.split("+")[0]}
    assert not others, "run: sh scripts/image_locks"


def test_the_cuda_image_holds_deepspeed() -> None:
    assert "deepspeed" in locked("cuda")


def test_the_serving_image_holds_lmdeploys_lock() -> None:
    assert pinned(ROOT / "plugins" / "ftx_lmdeploy" / "lmdeploy.lock").items() <= locked("lmdeploy").items()


def test_the_app_image_holds_what_apps_pin() -> None:
    inside = {name: version.split("+")[0] for name, version in locked("torch-cpu", "app").items()}
    for name, version in TARGETS["huggingface-docker"].versions.items():
        assert inside[canonicalize_name(name)] == version


@pytest.mark.parametrize("name", LOCKS)
def test_everything_locked_has_a_hash(name: str) -> None:
    lines = (ROOT / "docker" / f"{name}.lock").read_text("utf-8").splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "==" in line:
            assert line.endswith("\\"), line
            assert "--hash=sha256:" in after, line


def test_hadolint_finds_nothing() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), *map(str, (ROOT / "docker").glob("*Dockerfile*"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_builds_in_old_engines_and_away_from_docker_hub() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    assert "syntax=" not in text  # a frontend to be fetched from a registry
    assert "<<" not in text  # heredocs: unknown to docker 20.10 and podman 4
    stages = {*re.findall(r"^FROM \S+ AS (\S+)", text, re.M), "scratch", "${BASE_IMAGE}"}
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) <= stages


def test_a_tag_is_the_version_and_a_hash_of_the_locks() -> None:
    tags = {}
    for target in ("cpu", "cuda", "serve", "app"):
        done = subprocess.run(
            ["sh", ROOT / "scripts" / "image_tag", target], capture_output=True, text=True, check=True
        )
        tags[target] = done.stdout.strip()
        assert re.fullmatch(rf"{target}-\d+\.\d+\.\d+-[0-9a-f]{{8}}", tags[target])
    assert len({tag.rpartition("-")[2] for tag in tags.values()}) == len(tags)
