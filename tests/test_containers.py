"""What `ftx run` makes of a command line, before and without an engine; the files of `ftx deploy`."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import TINY, closed, write_rows
from engines import ROOT
from ftx.containers import run
from ftx.containers.command import Call
from ftx.containers.engine import ContainerError, End, Engine, Image
from ftx.containers.mounts import Mount, make_folders, missing_of, refuse_unreadable
from ftx.containers.secret_files import secret_files
from ftx.errors import RecipeError, StorageError
from ftx.publish.credentials import token
from ftx.publish.logins import save


def mounts(argv: list[str]) -> dict[str, bool]:
    """The mounted folders of an engine's command, and whether each may be written."""
    given = [word.removeprefix("--mount=").split(",") for word in argv if word.startswith("--mount=")]
    return {one[1].removeprefix("source="): "readonly" not in one for one in given}


def test_the_note_on_the_network_is_for_what_had_none(
    ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.containers.call.carry_out", lambda *given: 5)
    for words, noted in (
        (["train"], True),
        (["torchrun", "-m", "ftx", "train"], True),
        (["publish", "git"], False),
        (["serve", "x"], False),
    ):
        assert ("it had no network in the container" in ftx("run", "--", *words).err) == noted, words
    assert "no network" not in ftx("run", "--network", "--", "train").err


@pytest.fixture
def argv(ftx: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Docker's command for a command line, whatever answers here: argv("train", ..., options=("--gpus", "all"))."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")

    def of(*words: object, options: tuple[object, ...] = ()) -> list[str]:
        result = ftx("run", "--dry-run", "--engine", "docker", *options, "--", *words, "--json")
        assert result.code == 0, result.err
        command: list[str] = result.events[0]["command"]
        return command

    return of


def test_what_is_read_cannot_be_written_and_what_is_written_can(
    argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "rows.jsonl", 2)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = mounts(argv("train", "--model", TINY, "--data", "../data/rows.jsonl", "--out", "runs/a"))
    read = {str(TINY): False, str(tmp_path / "data"): False, str(tmp_path / "here"): False}
    assert found == {**read, str(tmp_path / "here/runs"): True, os.environ["FTX_CACHE"]: True}
    assert not (tmp_path / "here/runs").exists()


def test_a_recipe_brings_along_what_it_names(argv: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    recipe = {"model": str(TINY), "data": {"sets": [{"path": str(rows)}]}, "out": "../kept/a"}
    (tmp_path / "here" / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "out": str(tmp_path / "kept" / "a")}))
    found = mounts(argv("train", "here/recipe.yaml"))
    assert found[str(TINY)] is False
    assert found[str(tmp_path)] is False
    assert found[str(tmp_path / "kept")] is True


def test_an_adapter_brings_its_base_and_links_what_they_lead_to(
    argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, blobs, run = (tmp_path / name for name in ("base", "blobs", "work/run"))
    for folder in (base, blobs, run / "adapter"):
        folder.mkdir(parents=True)
    (blobs / "weights").write_text("x")
    (base / "model.safetensors").symlink_to(blobs / "weights")
    (run / "adapter" / "ftx.json").write_text(json.dumps({"base": {"path": str(base)}}))
    monkeypatch.chdir(tmp_path / "work")
    found = mounts(argv("merge", "run"))
    assert found[str(run)] is True
    assert found[str(base)] is False
    assert found[str(blobs)] is False
    assert str(run) not in mounts(argv("serve", "run"))  # it lies in the folder that is read


def test_what_goes_on_is_written_where_it_lies(argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "runs/x/checkpoints/step-000002"
    step.mkdir(parents=True)
    (tmp_path / "runs/x/adapter").mkdir()
    (tmp_path / "runs/x/adapter/ftx.json").write_text("{}")
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path / "cats")
    runs, cache = tmp_path / "runs", os.environ["FTX_CACHE"]
    for name in (runs / "x", step):
        resumed = mounts(argv("train", "--model", TINY, "--out", runs / "x", "--resume", name))
        assert resumed == {str(runs): True, str(TINY): False, str(tmp_path / "cats"): False, cache: True}
    alone = mounts(argv("train", "--resume", step))
    assert alone[str(runs / "x")] is True
    assert str(step) not in alone
    for words in (["verify", "../runs/x/adapter"], ["merge", runs / "x/adapter"]):
        found = mounts(argv(*words))
        assert found[str(runs / "x")] is True
        assert str(runs / "x/adapter") not in found  # it lies in what is written
    here = mounts(argv("train", "--model", TINY, "--out", "."))
    assert here == {str(tmp_path): True, str(TINY): False, cache: True}


def test_what_is_converted_is_written_before_the_options(argv: Any, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    (tmp_path / "other").mkdir()
    found = mounts(argv("data", "convert", rows, "other/out.jsonl", "--format", "alpaca"))
    assert found[str(tmp_path / "other")] is True
    assert found[str(tmp_path)] is False


def test_links_do_not_hand_over_what_is_not_handed_over(
    ftx: Any, argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sub", "home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    for name, target in {"h": tmp_path / "home", "t": Path("/tmp"), "loop": tmp_path / "sub/loop"}.items():
        (tmp_path / "sub" / name).symlink_to(target)
    found = mounts(argv("data", "check", tmp_path / "sub"))
    assert found == {str(tmp_path / "sub"): False, str(tmp_path / "work"): False, os.environ["FTX_CACHE"]: True}
    for name in ("h", "t"):
        refused = ftx("run", "--dry-run", "--", "data", "check", tmp_path / "sub" / name)
        assert refused.code == 2
        assert "is not handed to a container as a whole" in refused.err
    refused = ftx("run", "--dry-run", "--", "train", "--out", tmp_path / "sub/loop/a")
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize("model", ["huggingface:ann/base", {"name": "huggingface", "repo": "ann/base"}])
def test_a_base_that_a_recipe_fetches_has_the_hubs_cache(
    argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: object
) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": model, "data": "rows.jsonl"}))
    assert f"--env=HF_HUB_CACHE={tmp_path / 'cache'}" in argv("train", "recipe.yaml")
    assert f"--env=HF_HUB_CACHE={tmp_path / 'cache'}" not in argv("train", "--model", TINY)


def test_a_recipe_of_any_name_is_read(argv: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cats.recipe").write_text(yaml.safe_dump({"model": str(TINY), "out": str(tmp_path / "a/b")}))
    for words in (["here/cats.recipe"], ["--json", "here/cats.recipe"]):
        found = mounts(argv("train", *words))
        assert (found[str(TINY)], found[str(tmp_path / "a")]) == (False, True)


def test_what_is_published_unnamed_is_written_beside(argv: Any, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "runs" / name / "adapter").mkdir(parents=True)
        (tmp_path / "runs" / name / "adapter" / "ftx.json").write_text("{}")
    os.utime(tmp_path / "runs/old/adapter/ftx.json", (1, 1))
    (tmp_path / "ann" / "cats").mkdir(parents=True)
    found = mounts(argv("publish", "git", "--repo", "ann/cats"))
    written = {path for path, writable in found.items() if writable}
    assert written == {os.environ["FTX_CACHE"], str(tmp_path / "runs/new")}


@pytest.mark.parametrize("pattern", ["../data/r?ws.jsonl", "../data/[r]ows.jsonl", "../data/**/rows.jsonl"])
def test_a_pattern_brings_the_folder_that_it_starts_from(
    argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("data", "here"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "data" / "rows.jsonl", 1)
    monkeypatch.chdir(tmp_path / "here")
    assert str(tmp_path / "data") in mounts(argv("train", "--data", pattern))


def test_a_question_is_no_pattern(argv: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path) not in mounts(argv("chat", TINY, "--once", "What is it?"))


def test_up_again_from_a_link_is_refused(ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "far" / "sub").mkdir(parents=True)
    write_rows(tmp_path / "far" / "rows.jsonl", 1)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "sub")
    for words in (["--data", "link/../rows.jsonl"], ["--out", "link/../runs"]):
        refused = ftx("run", "--dry-run", "--", "train", *words)
        assert refused.code == 2
        assert f"goes through a link and up again; write it as {tmp_path}/far/r" in refused.err


@pytest.mark.parametrize(
    ("words", "recipe", "sentence"),
    [
        (["--out", "x" * 300], "", "cannot be looked at: File name too long"),
        ([], 'out: "a\\0b/c"', "is no path: it holds a NUL"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_told(
    ftx: Any, tmp_path: Path, words: list[str], recipe: str, sentence: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"model: base\n{recipe}\n")
    refused = ftx("run", "--dry-run", "--", "train", "recipe.yaml", *words)
    assert (refused.code, sentence in refused.err) == (2, True), refused.err
    assert len(refused.err.splitlines()) == 1


def test_a_recipe_that_cannot_be_read_is_told_inside(argv: Any, tmp_path: Path) -> None:
    for text in ("model: &a [*a]", "model: 2020-13-45", "model: [unclosed"):
        (tmp_path / "recipe.yaml").write_text(text)
        argv("train", "recipe.yaml")


def test_a_closed_folder_is_told(ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed(tmp_path / "closed", monkeypatch)
    for words in (
        ["run", "--dry-run", "--", "train", "--out", "closed/x"],
        ["deploy", "compose", "--out", "closed/in"],
    ):
        refused = ftx(*words)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert "cannot be looked at: Permission denied" in refused.err


def test_a_removed_working_folder_is_told(ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused = ftx("run", "--dry-run", "--", "plan")
    assert (refused.code, refused.err) == (2, "ftx: the working folder was removed; change into one that is there\n")


def test_nothing_lies_over_the_images_programs(
    ftx: Any, argv: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "opt" / "ftx"
    (own / "project").mkdir(parents=True)
    monkeypatch.setattr("ftx.containers.mounts.IMAGES_OWN", (own,))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(own)
    monkeypatch.chdir(tmp_path / "work")
    assert str(own) not in mounts(argv("plan"))  # a link that nobody named
    for words in (["--", "train", "--out", own / "a"], ["--mount", own / "project", "--", "plan"]):
        refused = ftx("run", "--dry-run", *words)
        assert (refused.code, f"would lie over {own}" in refused.err) == (2, True), refused.err


def test_another_users_folder_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[Path, tuple[int, int]] = {}
    monkeypatch.setattr(os, "chown", lambda path, user, group: given.update({path: (user, group)}))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    missing = missing_of([Mount(tmp_path / "a/runs", True), Mount(tmp_path / "b")])
    assert missing == [tmp_path / "a/runs", tmp_path / "a"]
    make_folders(missing, (12345, 54321))
    assert given == dict.fromkeys(missing, (12345, 54321))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RecipeError, match=f"run: mkdir -p -m 777 {tmp_path}/c, or name another with --user"):
        make_folders([tmp_path / "c"], (12345, 54321))
    assert not (tmp_path / "c").exists()


def test_a_dry_run_says_what_to_make_first(ftx: Any, tmp_path: Path) -> None:
    shown = ftx("run", "--dry-run", "--", "train")
    assert f"note: first make what it writes to: mkdir -p {tmp_path}/runs" in " ".join(shown.err.split())
    (tmp_path / "runs").mkdir()
    assert "mkdir" not in ftx("run", "--dry-run", "--", "train").err


def test_standard_input_is_no_file_to_mount(argv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = argv("data", "check", "/dev/stdin")
    assert not [path for path in mounts(command) if path.startswith(("/dev", "/proc"))]
    assert "--interactive" in command


def test_a_path_with_a_comma_or_a_line_break_is_quoted(argv: Any, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("a,b", "a\nb"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        path = tmp_path / name
        assert f'--mount=type=bind,"source={path}","target={path}",readonly' in argv("plan")


def test_the_users_other_groups_go_along(argv: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getgroups", lambda: [os.getegid(), 54321])
    assert "--group-add=54321" in argv("plan")
    assert f"--group-add={os.getegid()}" not in argv("plan")
    assert "--group-add=54321" not in argv("plan", options=("--user", "1234:5678"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o750)
    group = (tmp_path / "shared").stat().st_gid
    refuse_unreadable([Mount(tmp_path / "shared")], (12345, 54321), (group,))
    with pytest.raises(RecipeError, match="is not open to the user 12345:54321"):
        refuse_unreadable([Mount(tmp_path / "shared")], (12345, 54321))


def test_training_has_no_network_and_what_is_for_it_has(argv: Any) -> None:
    assert "--network=none" in argv("train")
    assert "--env=HF_HUB_OFFLINE=1" in argv("train")
    assert "--network=host" in argv("train", options=("--network",))
    assert "--network=mine" in argv("train", options=("--network", "mine"))
    for words in (["publish", "huggingface"], ["download", "x"], ["serve", "x"], ["app", "run", "x"]):
        assert "--network=host" in argv(*words), words


def test_tokens_are_files_and_only_where_there_is_a_network(
    argv: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    (tmp_path / "key").write_text("key-secretsecret\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("FTX_API_KEY_FILE", str(tmp_path / "key"))
    assert not any("HF_TOKEN" in word for word in argv("train"))
    publishing, serving = argv("publish", "huggingface"), argv("serve", "x")
    assert "--env=HF_TOKEN_FILE=/run/secrets/HF_TOKEN" in publishing
    assert "--env=HF_TOKEN_PATH=/run/secrets/HF_TOKEN" in publishing
    assert "--env=FTX_API_KEY_FILE=/run/secrets/FTX_API_KEY" in serving
    assert not any("HF_TOKEN" in word for word in serving)
    assert not any("secretsecret" in word for word in [*publishing, *serving])


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NCCL_DEBUG", "PYTORCH_ALLOC_CONF", "TORCH_DEVICE"])
def test_how_to_compute_goes_in(argv: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    words = argv("train")
    assert f"--env={name}" in words
    assert "--env=SOMETHING_ELSE" not in words


def test_a_login_goes_in_as_a_file_too(argv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert not any("HF_TOKEN" in word for word in argv("publish", "huggingface"))
    save("https://huggingface.co", "huggingface", "ann", "hf_secretsecret", "file")
    publishing = argv("publish", "huggingface")
    assert "--env=HF_TOKEN_FILE=/run/secrets/HF_TOKEN" in publishing
    assert not any("secretsecret" in word for word in publishing)


def test_an_apps_tokens_and_secrets_go_in_too(argv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GITHUB_TOKEN", "OPENXLAB_AK", "OPENXLAB_SK", "SEARCH_KEY", "SEARCH_WORD")
    for name in names:
        monkeypatch.setenv(name, "ghp-secretsecret")
    monkeypatch.setenv("GITHUB_USER", "ann")
    publishing = argv("publish", "openxlab", "--secret", "SEARCH_KEY", "--secret=SEARCH_WORD")
    for name in names:
        assert f"--env={name}_FILE=/run/secrets/{name}" in publishing
    assert "--env=GITHUB_USER" in publishing
    assert not any("secretsecret" in word for word in publishing)
    assert not any("SEARCH_" in word for word in argv("publish", "openxlab"))


def test_a_secret_file_is_its_readers_alone_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with secret_files({"HF_TOKEN": "hf_secretsecret"}, (os.geteuid(), os.getegid())) as files:
        assert stat.S_IMODE(files["HF_TOKEN"].stat().st_mode) == 0o600
        assert stat.S_IMODE(files["HF_TOKEN"].parent.stat().st_mode) == 0o700
        monkeypatch.setenv("HF_TOKEN_FILE", str(files["HF_TOKEN"]))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        assert token("HF_TOKEN") == "hf_secretsecret"
    assert not files["HF_TOKEN"].parent.exists()


def test_a_full_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ftx.containers.secret_files._write", full)
    with (
        pytest.raises(StorageError, match="takes no files: No space left on device; name another with TMPDIR"),
        secret_files({"HF_TOKEN": "x"}, (os.geteuid(), os.getegid())),
    ):
        pytest.fail("it has a file")


def test_the_users_own_uid_few_rights_and_gpus_on_request(argv: Any) -> None:
    plain = argv("plan", options=("--user", "1234:5678", "--gpus", "none"))
    assert {"--user=1234:5678", "--cap-drop=ALL", "--read-only", "--security-opt=no-new-privileges"} <= set(plain)
    assert not any(word.startswith(("--gpus", "--cap-add")) for word in plain)
    assert "--gpus=all" in argv("plan", options=("--gpus", "all"))
    assert '--gpus="device=0,2"' in argv("plan", options=("--gpus", "0,2"))


def test_the_image_is_named_the_variables_or_ftxs_own(argv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ftx:cpu" in argv("plan", options=("--gpus", "none"))
    assert "ftx:cuda" in argv("plan", options=("--gpus", "all"))
    assert "ftx:serve" in argv("lmdeploy", "serve", "x")
    monkeypatch.setenv("FTX_IMAGE", "registry/mine:1")
    assert "registry/mine:1" in argv("plan")
    assert "registry/other:2" in argv("plan", options=("--image", "registry/other:2"))
    assert "ftx:serve" in argv("plan", options=("--image", "lmdeploy"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--image", "xtuner"], "--image xtuner: its image is without ftx; use: ftx xtuner run --image ftx:xtuner"),
        (["--image", "openxlab"], "--image openxlab: this environment has no image"),
        (["--netwrok"], "--netwrok"),
    ],
)
def test_what_cannot_be_run_inside_is_not_sent_there(ftx: Any, options: list[str], sentence: str) -> None:
    result = ftx("run", "--dry-run", *options, "--", "plan")
    assert result.code == 2
    assert sentence in result.err


def test_an_image_that_no_registry_has_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = subprocess.CompletedProcess([], 1, "", "")
    monkeypatch.setattr(Engine, "ask", lambda *words: lacking)
    engine = Engine("docker", "amd64", rootless=False)
    with pytest.raises(ContainerError, match="build it from a checkout: make image-serve, or name another with"):
        engine.image("ftx:serve")
    with pytest.raises(ContainerError, match="fetch it: docker pull registry/mine:1, or name another with"):
        engine.image("registry/mine:1")
    assert str(engine.foreign(Image("ftx:cuda", "arm64", ""))).endswith("build it here: make image-cuda")


def test_in_a_terminal_too_an_image_for_another_machine_is_told() -> None:
    engine, image = Engine("docker", "amd64", rootless=False), Image("mine:1", "arm64", "")
    call = Call("mine:1", ["plan"], Path.cwd(), (1, 1), terminal=True)
    end = End(code=255, out_of_memory=False, started=True, running=False, error="")
    with pytest.raises(ContainerError, match="image mine:1 is for arm64 and this machine is amd64"):
        run._code(call, engine, image, end, "")
    assert run._code(call, engine, replace(image, architecture="amd64"), end, "") == 255


def test_a_closed_terminal_asks_to_save_unless_it_is_ignored() -> None:
    sent: list[int] = []
    arrived = threading.Event()

    class Listening(Engine):
        def signal(self, container: str, number: int) -> bool:
            sent.append(number)
            arrived.set()
            return True

    engine = Listening("docker", "amd64", rootless=False)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with run._handing_in(engine, "any"):
            os.kill(os.getpid(), signal.SIGHUP)
            assert arrived.wait(30)
        assert sent == [signal.SIGTERM]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with run._handing_in(engine, "any"):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_torchrun_takes_the_place_of_the_images_entry(argv: Any, tmp_path: Path) -> None:
    command = argv("torchrun", "--nproc-per-node", 2, "-m", "ftx", "train", "--model", TINY)
    at = command.index("--entrypoint=torchrun")
    assert command[at - 1] == "--init"
    assert command[at + 2 : at + 7] == ["--nproc-per-node", "2", "-m", "ftx", "train"]
    assert mounts(command)[str(tmp_path / "runs")] is True


def test_in_container_hands_on_the_same_words(ftx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that prints what it is told to make, in the place of a real one."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\ncase $1 in info) echo x86_64;; image) echo amd64;; *) echo "$@" >&2; exit 1;; esac\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    result = ftx("train", "--in-container=mine:1", "recipe.yaml", "--set", "train.lr=1e-3")
    assert result.code == 2
    assert result.err.rstrip().endswith("mine:1 train recipe.yaml --set train.lr=1e-3")
    result = ftx("train", "--in-container", "recipe.yaml")
    assert result.err.rstrip().endswith("ftx:cpu train recipe.yaml")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--gpus", "two"], "--gpus two: write all, none, or numbers as 0,1"),
        (["--memory", "lots"], "--memory lots: write a number with k, m or g, as 16g"),
        (["--user", "ann"], "--user ann: write numbers below 2147483648, as 1000:1000"),
        (["--user", "99999999999:1"], "--user 99999999999:1: write numbers below 2147483648, as 1000:1000"),
        (["--user", "1:2147483648"], "--user 1:2147483648: write numbers below 2147483648, as 1000:1000"),
        (["--mount", "nowhere:rw"], "nowhere is not there"),
        (["--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: no such variable is set"),
        (["--env", "HF_TOKEN"], "--env HF_TOKEN: tokens are handed over as files"),
    ],
)
def test_wrong_options_are_refused(ftx: Any, options: list[str], sentence: str) -> None:
    result = ftx("run", "--dry-run", *options, "--", "plan")
    assert result.code == 2
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1


def test_no_folder_of_the_system_is_handed_over(ftx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    for words in (["train", "--out", "cats"], ["train", "--data", "/etc"], ["train", "--model", "/"]):
        result = ftx("run", "--dry-run", "--", *words)
        assert result.code == 2
        assert "is not handed to a container as a whole" in result.err
    shown = ftx("run", "--dry-run", "--", "plan", "--data", rows)
    assert f"source={rows}," in shown.out  # the file alone


def test_without_an_engine_one_sentence_says_so(ftx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = ftx("run", "--", "plan", "--json")
    assert result.code == 2
    assert result.events == [
        {
            "event": "error",
            "kind": "container",
            "code": 2,
            "problems": [
                "there is no Docker or Podman here to run an image with; install it (docs.docker.com/engine/install), "
                "or run the command without an image"
            ],
        }
    ]


def test_an_empty_key_file_does_not_open_the_server(ftx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("FTX_API_KEY_FILE", str(tmp_path / "key"))
    result = ftx("serve", TINY)
    assert result.code == 2
    assert "FTX_API_KEY_FILE holds no key" in result.err


@pytest.fixture
def deployed(ftx: Any, tmp_path: Path) -> Path:
    for kind in ("compose", "kubernetes"):
        assert ftx("deploy", kind, "--out", tmp_path / "made").code == 0
    return tmp_path / "made"


def test_deploy_writes_valid_files(ftx: Any, deployed: Path) -> None:
    assert len(list(deployed.iterdir())) == 5
    checked = [
        ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", "compose.gpu.yaml"],
        ["kubernetes_validate", "--strict", "work.yaml", "job.yaml"],
    ]
    for words in checked:
        done = subprocess.run([sys.executable, "-m", *words], cwd=deployed, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    refused = ftx("deploy", "compose", "--out", deployed)
    assert refused.code == 2
    assert "compose.yaml is there already" in refused.err


def test_compose_takes_paths_with_spaces_and_colons(deployed: Path) -> None:
    services = yaml.safe_load((deployed / "compose.yaml").read_text("utf-8"))["services"]
    for name, service in services.items():
        for one in service["volumes"]:
            assert isinstance(one, dict) or "$" not in one, name
        command = service.get("command", [])
        words = (
            shlex.split(command) if isinstance(command, str) else command
        )  # as Compose takes it apart, once filled in
        assert "${FTX_RECIPE:-recipe.yaml}" in words or "train" not in words
    for name in ("node0", "node1"):
        assert '"${FTX_RECIPE:-recipe.yaml}"' in services[name]["command"]


def test_the_dev_container_refers_to_what_is_there() -> None:
    read = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert set(read) == {"name", "image", "features", "containerEnv", "mounts", "postCreateCommand", "customizations"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (made,) = re.findall(r"make (\S+)", read["postCreateCommand"])
    venv = re.findall(r"^VENV \?= (\S+)$", makefile, re.MULTILINE)[0]
    assert f"TEST := {made.replace(venv, '$(VENV)')}\n" in makefile
    assert all(f"{name} ?=" in makefile for name in read["containerEnv"])
    editor = read["customizations"]["vscode"]["settings"]
    assert editor["python.defaultInterpreterPath"] == f"${{workspaceFolder}}/{venv}/bin/python"
    (version,) = re.findall(r"-3\.(\d+)-", read["image"])
    assert int(version) >= 11  # Python's, as setup.cfg asks for
    user = re.findall(r"target=/home/(\w+)/", read["mounts"][0])[0]
    assert f"chown {user}: /home/{user}/.cache" in read["postCreateCommand"]


def test_the_train_job_says_nothing_that_the_trainer_does_not_know(deployed: Path) -> None:
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    written = yaml.safe_load((deployed / "trainjob.yaml").read_text("utf-8"))
    read = TrainerV1alpha1TrainJob.from_dict(written)
    assert read is not None
    assert read.to_dict() == written  # unknown keys would be lost


def test_what_jobs_retry_are_the_ends_that_a_retry_can_mend(deployed: Path) -> None:
    from ftx import errors

    job = yaml.safe_load((deployed / "job.yaml").read_text("utf-8"))
    final = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    never = (errors.RecipeError, errors.DataError, errors.VerificationError, errors.TrainingError)
    assert final == sorted(one.exit_code for one in never)


@pytest.mark.parametrize(
    ("kept", "more"),
    [([], []), ([".step-00000002.x1y2"], []), ([".step-00000004.x", "step-00000002"], ["--resume", "auto"])],
)
def test_jobs_go_on_from_whole_checkpoints_alone(
    deployed: Path, tmp_path: Path, kept: list[str], more: list[str]
) -> None:
    job = yaml.safe_load((deployed / "job.yaml").read_text("utf-8"))["spec"]["template"]["spec"]["containers"][0]
    nodes = yaml.safe_load((deployed / "trainjob.yaml").read_text("utf-8"))["spec"]["trainer"]
    for name in kept:
        (tmp_path / "workspace/runs/model/checkpoints" / name).mkdir(parents=True)
    for name in ("ftx", "torchrun"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    for one in (job, nodes):
        script = one["args"][0].replace("/workspace/", f"{tmp_path}/workspace/")
        env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", script, "ftx"], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-len(more) or -1 :] == (more or ["--json"]), done.stdout


def test_lmdeploy_takes_its_key_from_a_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ftx_lmdeploy.start import api_key

    monkeypatch.delenv("FTX_API_KEY", raising=False)
    assert api_key() == ""
    monkeypatch.setenv("FTX_API_KEY_FILE", str(tmp_path / "key"))
    (tmp_path / "key").write_text("secretsecret\n")
    assert api_key() == "secretsecret"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SystemExit, match="holds no key"):
        api_key()
