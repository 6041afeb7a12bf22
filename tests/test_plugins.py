"""The host: strangers by real entry points, a broken one named and skipped, duplicates refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ftx import DataSource, Record, hookimpl
from ftx.plugins import HOOKS, Origin, PluginError, load_registry

STRANGER = Path(__file__).parent / "fixtures" / "ftx_acme"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's distribution, installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    source = tmp_path_factory.mktemp("src") / "ftx_acme"
    shutil.copytree(STRANGER, source)
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    return target


def ftx(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(site), *(p for p in sys.path if p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FTX_PLUGINS": "all"}
    command = [sys.executable, "-m", "ftx", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_stranger_adds_a_source_and_a_family_and_trains(installed: Path, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "acme"}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {model}\nout: {tmp_path / 'run'}\n"
        "data: {sets: [{source: {name: acme_sums, count: 8}}]}\ntrain: {max_steps: 2}\n"
    )
    done = ftx(installed, "train", recipe, "--json")
    assert done.returncode == 0, done.stderr
    assert "plugin 'acme_broken' is left out: ModuleNotFoundError" in done.stderr
    manifest = json.loads((tmp_path / "run" / "adapter" / "ftx.json").read_text())
    assert manifest["plan"]["family"]["name"] == "acme"
    assert manifest["plan"]["data"]["sets"][0]["source"] == {"name": "acme_sums", "count": 8}
    assert manifest["plan"]["train"]["lr"] == 0.003  # the family's own default
    assert manifest["plan"]["origins"]["train.lr"] == "family acme"


def test_plugins_lists_origin_version_and_refusals(installed: Path) -> None:
    done = ftx(installed, "plugins", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    parts = {(e["kind"], e["name"]): e for e in lines if e["event"] == "part"}
    assert parts["family", "acme"]["distribution"] == "ftx-acme"
    assert parts["family", "acme"]["version"] == "1.2.3"
    assert parts["family", "internlm2"]["distribution"] == "built-in"
    (refused,) = (e for e in lines if e["event"] == "refused")
    assert refused["plugin"] == "acme_broken"
    assert "no_such_module" in refused["reason"]


def test_strangers_can_be_left_out(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    assert "acme" not in load_registry("none").parts["family"]
    assert "acme" in load_registry("acme").parts["family"]


class Twin(DataSource):
    """A source under a taken name."""

    name = "files"

    def records(self) -> Iterable[Record]:  # type: ignore[override]
        return iter(())

    def fingerprint(self) -> str:
        return ""


def test_a_duplicate_name_names_both_classes_and_registers_nothing() -> None:
    class Plugin:
        @hookimpl
        def ftx_data_sources(self) -> Iterable[type[DataSource]]:
            return [Twin]

    registry = load_registry("none")
    before = dict(registry.parts["source"])
    with pytest.raises(PluginError, match=r"ftx_sources\.files\.Files and test_plugins\.Twin"):
        registry.add(Plugin(), Origin("twin", "test", "0"))
    assert registry.parts["source"] == before


def test_a_misspelt_hook_is_refused() -> None:
    class Plugin:
        @hookimpl
        def ftx_data_sauces(self) -> None:
            pass

    with pytest.raises(Exception, match="ftx_data_sauces"):
        load_registry("none").add(Plugin(), Origin("typo", "test", "0"))


def test_a_part_of_the_wrong_kind_is_refused() -> None:
    class Plugin:
        @hookimpl
        def ftx_train_methods(self) -> Iterable[Any]:
            return [Twin]

    with pytest.raises(PluginError, match="no named method class"):
        load_registry("none").add(Plugin(), Origin("kind", "test", "0"))


def test_a_plugin_can_refuse_a_plan(ftx: Any, tiny: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx.cli import group

    class Plugin:
        @hookimpl
        def ftx_check_plan(self, plan: Any) -> Iterable[str]:
            return [f"{plan.steps} steps are too many for me"]

    def load() -> Any:
        registry = load_registry("none")
        registry.add(Plugin(), Origin("check", "test", "0"))
        return registry

    monkeypatch.setattr(group, "load_registry", load)
    result = ftx("plan", "--model", tiny, "--data", rows, "--max-steps", 7)
    assert (result.code, result.err) == (2, "ftx: 7 steps are too many for me\n")


def test_every_hook_is_documented_and_every_kind_has_one() -> None:
    from ftx import hookspecs

    hooks = {name: value for name, value in vars(hookspecs).items() if name.startswith("ftx_")}
    assert set(HOOKS.values()) <= set(hooks)
    for name, spec in hooks.items():
        assert "Since 0.1." in spec.__doc__, name
