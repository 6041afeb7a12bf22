"""What may leave this machine, and what may not: every refusal with its sentence and exit code."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ftx.artifact import Artifact, seal
from ftx.publish.gate import Consent, allowed, check_contents
from ftx.publish.licence import permits
from ftx.publish.pickles import dangers
from ftx.publish.render import portable
from published import BASE, adapter_copy, made_once, merged_copy, verified  # noqa: F401 (fixtures)

HOST = "http://127.0.0.1:9"  # nobody listens: a dry run is told so, and goes on


def plan(ftx: Any, folder: Path, *more: str) -> Any:
    """A dry run, which passes the gate and plans."""
    common = ["--repo", "ann/cats", "--base", BASE, "--set", f"host={HOST}", "--dry-run", "--json"]
    return ftx("publish", "openxlab", folder, *common, *more)


def refused(ftx: Any, folder: Path, *more: str, code: int = 2) -> str:
    """All sentences of the refusal."""
    result = plan(ftx, folder, *more)
    assert result.code == code, result.err
    assert not [event for event in result.events if event["event"] == "publish_plan"]
    return str(result.err)


def resealed(folder: Path) -> Path:
    """The artefact sealed over what now lies in it, and verified."""
    artifact = json.loads((folder / "ftx.json").read_text("utf-8"))
    (folder / "verify.json").unlink(missing_ok=True)
    facts = {key: value for key, value in artifact.items() if key not in ("files", "kind", "created", "versions")}
    seal(folder, artifact["kind"], **facts)
    return verified(folder)


@pytest.fixture(autouse=True)
def _git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A git-lfs to be found where there is none: no run here gets as far as using it."""
    if shutil.which("git-lfs") is None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "git-lfs").symlink_to("/bin/true")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_a_verified_artefact_passes(ftx: Any, adapter: Path) -> None:
    result = plan(ftx, adapter)
    assert result.code == 0, result.err
    (event,) = result.events
    assert event["license"] == {"id": "apache-2.0", "base": "apache-2.0", "agreed": False}
    paths = {file["path"] for file in event["files"]}
    assert paths == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "ftx.json",
        "generation_config.json",
        "metafile.yml",
        "verify.json",
    }
    assert event["public"] is False and event["by_hand"][0].startswith("1. ")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".env", "named as keys and tokens"),
        (".env.local", "named as keys and tokens"),
        ("sub/.env", "named as keys and tokens"),
        ("server.pem", "named as keys and tokens"),
        ("id_ed25519", "named as keys and tokens"),
        (".netrc", "named as keys and tokens"),
        (".git-credentials", "named as keys and tokens"),
        ("hf_token", "named as keys and tokens"),
        ("optimizer.pt", "a state of the training"),
        ("scheduler.pt", "a state of the training"),
        ("rng_state_0.pth", "a state of the training"),
        ("trainer_state.json", "a state of the training"),
        ("global_step5/x.json", "a state of the training"),
        ("wandb/run.json", "a state of the training"),
        ("rows.jsonl", "--with-data"),
        ("train.parquet", "--with-data"),
        ("extra.bin", "--allow-pickle"),
        ("iter_100.pth", "--allow-pickle"),
        ("__pycache__/x.pyc", "lies in a cache"),
        (".ms_upload_cache/x", "lies in a cache"),
        (".git/config", "a git repository"),
    ],
)
def test_names_that_stop_it_even_unsealed(ftx: Any, adapter: Path, name: str, told: str) -> None:
    (adapter / name).parent.mkdir(parents=True, exist_ok=True)
    (adapter / name).write_text("x", "utf-8")
    sentence = refused(ftx, adapter)
    assert told in sentence and name.split("/")[0] in sentence


def test_what_is_not_sealed_stays_behind(ftx: Any, adapter: Path) -> None:
    (adapter / "notes.txt").write_text("mine", "utf-8")
    (event,) = plan(ftx, adapter).events
    assert event["left_behind"] == ["notes.txt"]
    assert "notes.txt" not in {file["path"] for file in event["files"]}


def test_what_is_sealed_but_not_on_the_list(ftx: Any, adapter: Path) -> None:
    (adapter / "notes.txt").write_text("mine", "utf-8")
    assert "notes.txt is not among the files that may leave with an adapter" in refused(ftx, resealed(adapter))


HF = "hf_" + "Ab3dE" * 7
SECRETS = {
    "Hugging Face token": HF,
    "ModelScope token": "ms-0a1b2c3d-0a1b-4c2d-8e3f-0a1b2c3d4e5f",
    "OpenXLab key": 'sk = "' + "z8x7c6v5b4n3m2a1" + '"',
    "AWS key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "AWS secret key": 'aws_secret_access_key="' + "a1B2" * 10 + '"',
    "private key": "-----BEGIN OPENSSH PRIVATE " + "KEY-----",
    "API key": "sk-" + "a1b2c3d4" * 4,
    "password in a URL": "https://ann:hunter22@git.example.org/x",
}


@pytest.mark.parametrize("kind", list(SECRETS))
def test_secrets_in_a_file(ftx: Any, adapter: Path, kind: str) -> None:
    path = adapter / "chat_template.jinja"
    path.write_text(path.read_text("utf-8") + "{# " + SECRETS[kind] + " #}", "utf-8")
    sentence = refused(ftx, resealed(adapter))
    assert f"chat_template.jinja holds what looks like a {kind}" in sentence
    assert SECRETS[kind] not in sentence


def test_a_secret_of_this_environment_is_found_whatever_it_looks_like(
    ftx: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery")
    path = adapter / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 2, "x": "correct horse battery"}), "utf-8")
    sentence = refused(ftx, resealed(adapter))
    assert "generation_config.json holds the value of MY_SERVICE_TOKEN" in sentence and "horse" not in sentence


def test_a_secret_that_a_file_holds_is_found_too(
    ftx: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("battery-staple-9\n", "utf-8")
    (tmp_path / "mine").chmod(0o600)
    monkeypatch.setenv("OPENXLAB_TOKEN_FILE", str(tmp_path / "mine"))
    path = adapter / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 2, "x": "battery-staple-9"}), "utf-8")
    monkeypatch.setenv("ANOTHER_PASSWORD_FILE", str(tmp_path / "nothing"))
    assert "holds the value of OPENXLAB_TOKEN" in refused(ftx, resealed(adapter))


def test_secrets_across_the_chunks_and_in_utf16(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b" " * ((1 << 20) - 10) + HF.encode() + b" " * 5000)
    (tmp_path / "vocab.txt").write_bytes(HF.encode("utf-16"))
    found = check_contents(tmp_path, ["tokenizer.json", "vocab.txt"], Consent(), None)
    assert [problem.split(" ")[0] for problem in found] == ["tokenizer.json", "vocab.txt"]


def test_secrets_and_paths_in_the_header_of_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a": torch.zeros(2)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"note": HF})
    save_file(tensors, tmp_path / "b.safetensors", metadata={"from": "/home/ann/base"})
    save_file(tensors, tmp_path / "c.safetensors", metadata={"format": "pt"})
    found = check_contents(tmp_path, ["a.safetensors", "b.safetensors", "c.safetensors"], Consent(), [])
    assert len(found) == 2
    assert "a.safetensors: its header holds what looks like a Hugging Face token" in found[0]
    assert "b.safetensors: its header names a path of this machine, /home/ann" in found[1]


def test_vocabularies_may_hold_any_word(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"/home/ann": 1, str(Path.home()): 2}), "utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"x": "/home/ann"}), "utf-8")
    found = check_contents(tmp_path, ["tokenizer.json", "config.json"], Consent(), [str(Path.home())])
    assert len(found) == 1 and "config.json" in found[0]


def test_damaged_weights(ftx: Any, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "not as long as its header says" in refused(ftx, resealed(adapter))
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n")
    assert "a Git LFS pointer" in refused(ftx, resealed(adapter))
    weights.write_bytes(b"")
    assert "adapter_model.safetensors is empty" in refused(ftx, resealed(adapter))
    weights.write_bytes(b"\x80\x04]\x94.")
    assert "no safetensors file" in refused(ftx, resealed(adapter))


def test_shards_and_their_index(ftx: Any, merged: Path) -> None:
    weights = merged / "model.safetensors"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    weights.rename(merged / "model-00001-of-00002.safetensors")
    assert "model.safetensors.index.json, the index of the shards, is missing" in refused(ftx, resealed(merged))
    (merged / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    assert "model-00002-of-00002.safetensors, which model.safetensors.index.json lists, is missing" in refused(
        ftx, resealed(merged)
    )


def test_links(ftx: Any, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}", "utf-8")
    (adapter / "config.json").symlink_to(tmp_path / "secret.json")
    assert "config.json is a link that leads out of the folder" in refused(ftx, adapter)
    (adapter / "config.json").unlink()
    (adapter / "folder").symlink_to(tmp_path)
    assert "folder is a link that leads out of the folder" in refused(ftx, adapter)
    (adapter / "folder").unlink()
    (adapter / "config.json").symlink_to("nowhere.json")
    assert "config.json is a link to nothing" in refused(ftx, adapter)


def test_files_changed_since_they_were_sealed(ftx: Any, adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text("other", "utf-8")
    assert "was changed after it was sealed" in refused(ftx, adapter, code=7)
    (adapter / "chat_template.jinja").unlink()
    assert "is missing from the sealed artefact" in refused(ftx, adapter, code=7)


def test_what_is_not_proven(ftx: Any, adapter: Path) -> None:
    (adapter / "verify.json").unlink()
    assert f"was never verified, and what is not proven is not published; run: ftx verify {adapter}" in refused(
        ftx, adapter, code=7
    )
    verified(adapter, passed=False)
    assert "did not pass its verification: the merged form answers otherwise" in refused(ftx, adapter, code=7)
    verified(adapter)
    (adapter / "ftx.json").write_text((adapter / "ftx.json").read_text("utf-8") + "\n", "utf-8")
    assert "was sealed anew since it was verified" in refused(ftx, adapter, code=7)


class _Call:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


class _Hidden:
    """Comes to its function by another."""

    def __reduce__(self) -> Any:
        return getattr, (_Call, "__reduce__")


def test_pickles(ftx: Any, merged: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(merged / "model.safetensors")
    (merged / "model.safetensors").unlink()
    torch.save(tensors, merged / "pytorch_model.bin")
    resealed(merged)
    assert "pytorch_model.bin is a pickle" in refused(ftx, merged)
    result = plan(ftx, merged, "--allow-pickle")
    assert result.code == 0, result.err
    torch.save({"a": tensors, "b": _Call()}, merged / "pytorch_model.bin")
    sentence = refused(ftx, resealed(merged), "--allow-pickle")
    assert "would call posix.system when it is loaded" in sentence


def test_what_pickles_would_call(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(_Call(), protocol=protocol))
        assert dangers(path) == ["posix.system"], protocol
        path.write_bytes(pickle.dumps({"a": [1, "b"]}, protocol=protocol))
        assert dangers(path) == [], protocol
    path.write_bytes(pickle.dumps(_Hidden()))
    assert "builtins.getattr" in dangers(path)
    path.write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.")
    assert dangers(path) == ["os.system"], "through the memo"
    path.write_bytes(b"\x80\x04]\x94")
    assert "cannot be read" in dangers(path)[0]
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    assert dangers(path) == []
    torch.save({"w": torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))}, path)
    assert dangers(path) == []
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("m/data.pkl", pickle.dumps({}))
        packed.writestr("m/code/x.py", "import os")
    assert dangers(path) == ["the code in m/code/x.py"]
    path.write_bytes(pickle.dumps(_Call()))
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("m/data.pkl", pickle.dumps({}))
    assert "posix.system" in dangers(path), "before a zip"
    path.write_bytes(pickle.dumps(1) + b"cposix\nsystem\n(S'x'\ntR.")
    assert dangers(path) == ["posix.system"], "in a later stream of the oldest protocol"
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue()[:-20])
    assert "cannot be read" in dangers(path)[0], "cut off"


def test_data_leaves_when_it_is_asked_for(ftx: Any, adapter: Path) -> None:
    (adapter / "rows.jsonl").write_text('{"text": "a"}\n', "utf-8")
    resealed(adapter)
    assert "rows.jsonl is data" in refused(ftx, adapter)
    (event,) = plan(ftx, adapter, "--with-data").events
    assert "rows.jsonl" in {file["path"] for file in event["files"]}


def test_the_licence_of_the_base(ftx: Any, adapter: Path, made: Path) -> None:
    manifest = json.loads((adapter / "ftx.json").read_text("utf-8"))
    base = Path(shutil.copytree(made / "base", adapter.parent.parent / "base"))
    manifest["base"]["path"] = str(base)
    (adapter / "ftx.json").write_text(json.dumps(manifest), "utf-8")
    verified(adapter)
    (base / "README.md").write_text("---\nlicense: llama3\n---\n", "utf-8")
    sentence = refused(ftx, adapter, "--license", "apache-2.0")
    assert "the base is under llama3, which does not allow that" in sentence and "--license-agreed" in sentence
    (event,) = plan(ftx, adapter, "--license", "apache-2.0", "--license-agreed").events
    assert event["license"] == {"id": "apache-2.0", "base": "llama3", "agreed": True}
    (event,) = plan(ftx, adapter).events
    assert event["license"]["id"] == "llama3"
    for card in ("# no head", "---\nlicense: [\n---\n", "---\n- a\n---\n"):
        (base / "README.md").write_text(card, "utf-8")
        assert "is not known" in refused(ftx, adapter) and "--license ID" in refused(ftx, adapter)
    assert "write it as the hubs do" in refused(ftx, adapter, "--license", "Apache 2")
    assert plan(ftx, adapter, "--license", "mit").code == 0


@pytest.mark.parametrize(
    ("base", "wanted", "may"),
    [
        ("apache-2.0", "mit", True),
        ("cc-by-nc-4.0", "apache-2.0", False),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", True),
        ("gemma", "gemma", True),
        ("gpl-3.0", "mit", False),
        ("other", "apache-2.0", False),
    ],
)
def test_which_licence_allows_which(base: str, wanted: str, may: bool) -> None:
    assert permits(base, wanted) is may


def test_names_of_repositories(ftx: Any, adapter: Path) -> None:
    for repo in (
        "cats",
        "a/b/c",
        "../x",
        "ann/.x",
        "ann/x.git",
        "ann/a--b",
        "ann/a b",
        "-a/b",
        "https://x/y",
        "ann/猫",
    ):
        result = ftx("publish", "openxlab", adapter, "--repo", repo, "--base", BASE, "--dry-run")
        assert (result.code, "OWNER/NAME" in result.err) == (2, True), repo


def test_what_is_no_artefact(ftx: Any, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no sealed artefact" in refused(ftx, tmp_path / "empty")
    assert "does not exist" in refused(ftx, tmp_path / "none")
    (adapter / "ftx.json").write_text("{", "utf-8")
    assert "ftx.json cannot be read" in refused(ftx, adapter)
    result = ftx("publish", "openxlab")
    assert (result.code, "--repo" in result.err or "no sealed artefact" in result.err) == (2, True)
    result = ftx("publish", "hugingface", adapter)
    assert (result.code, "did you mean" in result.err) == (2, True)


def test_an_adapter_needs_its_bases_name(ftx: Any, adapter: Path) -> None:
    common = ("publish", "openxlab", adapter, "--repo", "ann/cats", "--dry-run")
    result = ftx(*common)
    assert (result.code, "with --base OWNER/NAME" in result.err) == (2, True), result.err
    result = ftx(*common, "--base", "/root/base")
    assert (result.code, "write the base as OWNER/NAME" in result.err) == (2, True), result.err


def test_a_foreign_receipt_is_not_overwritten(ftx: Any, adapter: Path) -> None:
    (adapter / "publish.json").write_text("[]", "utf-8")
    assert "is no receipt of ftx publish" in refused(ftx, adapter, code=7)


def test_paths_of_this_machine_are_replaced() -> None:
    swaps = {"/root/share/base": "org/base"}
    value = {"a": "/root/share/base", "b": ["see /root/share/base now", "/data/rows.jsonl", "~/x"], "c": 1, "d": "a/b"}
    assert portable(value, swaps) == {
        "a": "org/base",
        "b": ["see org/base now", "rows.jsonl", "x"],
        "c": 1,
        "d": "a/b",
    }


def test_a_path_that_is_left_stops_it(ftx: Any, merged: Path) -> None:
    path = merged / "generation_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "assistant": "at /mnt/models/small"}), "utf-8")
    sentence = refused(ftx, resealed(merged))
    assert "generation_config.json names a path of this machine, /mnt/models" in sentence


def test_the_allow_list() -> None:
    for name in ("tokenizer.model", "model-00001-of-00002.safetensors", "modeling_internlm2.py", "LICENSE.txt"):
        assert allowed(name, "merged", Consent()), name
    for name in ("app.py", "sub/config.json", "x.onnx", "publish.json", "model.bin"):
        assert not allowed(name, "merged", Consent()), name
    assert allowed("app.py", "app", Consent()) and not allowed("rows.csv", "app", Consent())
    assert allowed(".streamlit/config.toml", "app", Consent())


def test_an_app_is_checked_by_its_own_rules(ftx: Any, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / ".streamlit").mkdir(parents=True)
    (app / "app.py").write_text("import os\nTOKEN = os.environ['HF_TOKEN']\n", "utf-8")
    (app / "requirements.txt").write_text("gradio==6.31.0\n", "utf-8")
    (app / ".streamlit" / "config.toml").write_text("[server]\nport = 7860\n", "utf-8")
    common = ("publish", "git", app, "--repo", "ann/app", "--set", f"host={HOST}", "--dry-run", "--json")
    (event,) = ftx(*common).events
    assert event["kind"] == "app" and len(event["files"]) == 3 and event["license"] is None
    (app / ".streamlit" / "secrets.toml").write_text("a = 1\n", "utf-8")
    assert "secrets.toml is named as keys" in ftx(*common).err
    (app / ".streamlit" / "secrets.toml").unlink()
    (app / "app.py").write_text(f"TOKEN = '{HF}'\n", "utf-8")
    assert "app.py holds what looks like a Hugging Face token" in ftx(*common).err


def test_the_card(ftx: Any, adapter: Path, merged: Path) -> None:
    from ftx.publish.card import card_text, head
    from ftx.publish.licence import Licence

    artifact = Artifact.open(adapter)
    front = head(
        artifact, BASE, Licence("other", "other", False), {"license_name": "internlm", "license_link": "LICENSE"}
    )
    assert front["license_name"] == "internlm" and front["library_name"] == "peft"
    assert front["base_model_relation"] == "adapter" and "datasets" not in front
    text = card_text(front, artifact, "ann/cats", None)
    assert yaml.safe_load(text.split("---")[1]) == front
    assert "| last_loss |" in text and "/tmp" not in text
    assert head(Artifact.open(merged), BASE, Licence("mit", None, False), {})["base_model_relation"] == "finetune"


def test_what_may_not_be_read(ftx: Any, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx.publish import road

    (tmp_path / "lost+found").mkdir()
    may, listed = os.access, Path.iterdir
    closed = ("lost+found",)

    def entries(path: Path) -> Any:
        if path.name in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name not in closed and may(path, mode))
    monkeypatch.setattr(Path, "iterdir", entries)
    assert road.newest(tmp_path) == merged
    monkeypatch.undo()

    def unreadable(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("ftx.artifact.sha256_of", unreadable)
    assert "cannot be read: Permission denied" in refused(ftx, merged, code=10)
