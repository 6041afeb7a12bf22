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
from ftx.plan import configured
from ftx.plugins import load_registry
from ftx.publish.gate import Consent, allowed, check_contents, credentials_in
from ftx.publish.licence import permits
from ftx.publish.pickles import dangers
from ftx.publish.render import portable
from ftx.publish.road import Wish, prepared
from published import BASE, adapter_copy, made_once, merged_copy, verified  # noqa: F401 (fixtures)

HOST = "http://127.0.0.1:9"  # nobody listens: a dry run is told so, and goes on


WORDS = ("--repo", "ann/cats", "--set", f"host={HOST}", "--dry-run", "--json")


def plan(ftx: Any, folder: Path, *more: str) -> Any:
    """A dry run, which passes the gate and plans."""
    return ftx("publish", "openxlab", folder, "--base", BASE, *WORDS, *more)


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
    "GitLab token": "glpat-" + "a1b2C3d4e5" * 2,
    "Slack token": "xoxb-" + "1234567890-abcdefghij",
    "Google key": "AIza" + "a1B2c3D" * 5,
    "password or key": 'password = "' + 'tr0ub4dor&3-and-more"',
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


KEY = "a1b2c3d4e5f6g7h8i9"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"export OPENXLAB_AK={KEY}", True),
        (f"openxlab_ak: {KEY}", True),
        (f"ENV OPENXLAB_SK={KEY}", True),
        (f'os.environ["OPENXLAB_AK"] = "{KEY}"', True),
        (f"WANDB_API_KEY={'0a1b2c3d' * 5}", True),
        (f'API_KEY: str = "{KEY}"', True),
        (f"{{'client_secret': '{KEY.upper()}'}}", True),
        ('{"auths": {"x": {"auth": "YW5uOmh1bnRlcjIyMjI="}}}', True),
        ('TOKEN = os.environ["HF_TOKEN_2024_ABCDEF"]', False),
        ('TOKEN_VARIABLE = TOKEN = "SERVICE_API_TOKEN_22"', False),
        ("token: ${{ secrets.HF_TOKEN_12345678 }}", False),
        ("token = load_token_from_file22(path)", False),
        ("token=self.api_token_v22x, other=1", False),
        ('"eos_token": "<|im_end|>", "unk_token": "<|extra_204_and_more|>"', False),
        ('api_key = "YOUR-API-KEY-12345678"', False),
        ('{"password": 123456789012345678}', False),
        ("secret:\n  name-12345678901234", False),
    ],
)
def test_what_is_assigned(text: str, found: bool) -> None:
    assert bool(list(credentials_in(text.encode()))) is found


def test_tokenizers_and_templates_hold_no_secrets() -> None:
    root = Path(__file__).parent
    files = [*root.glob("fixtures/**/tok*.json"), *root.parent.glob("deploy_templates/**/*.*")]
    assert len(files) > 20
    assert [path.name for path in files if path.is_file() and list(credentials_in(path.read_bytes()))] == []


def test_secrets_and_paths_in_pickles(tmp_path: Path) -> None:
    names = []
    for new in (True, False):
        for number, text in enumerate((HF, "/cpfs01/ann/run")):
            names.append(f"{new}{number}.bin")
            kept = {"w": torch.zeros(2), "note": text}
            torch.save(kept, tmp_path / names[-1], _use_new_zipfile_serialization=new)
    found = check_contents(tmp_path, names, Consent(pickles=True), ["/cpfs01/ann/run"])
    token, place = "holds what looks like a Hugging Face token", "names a path of this machine, /cpfs01/ann/run"
    assert [told.partition(";")[0] for told in found] == [
        f"{name} {what}" for name, what in zip(names, (token, place) * 2, strict=True)
    ]


def test_secrets_in_packed_data(tmp_path: Path) -> None:
    import gzip

    import pyarrow
    from pyarrow import parquet

    row = f'{{"text": "my token is {HF}"}}\n'.encode() * 3
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row))
    with pyarrow.output_stream(str(tmp_path / "b.jsonl.zst"), compression="zstd") as file:
        file.write(row)
    parquet.write_table(pyarrow.table({"text": [f"my token is {HF}"]}), tmp_path / "c.parquet")
    with zipfile.ZipFile(tmp_path / "d.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/sharedStrings.xml", row)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(row)[:-12])
    names = sorted(path.name for path in tmp_path.iterdir())
    found = check_contents(tmp_path, names, Consent(data=True), [])
    assert [told.split(" ")[0] for told in found[:4]] == names[:4]
    assert all("holds what looks like a Hugging Face token" in told for told in found[:4])
    assert "e.jsonl.gz cannot be looked into" in found[4]


def test_a_workbook_leaves_when_it_is_asked_for(ftx: Any, adapter: Path) -> None:
    with zipfile.ZipFile(adapter / "rows.xlsx", "w") as book:
        book.writestr("xl/sharedStrings.xml", "<a/>")
    assert "rows.xlsx is data" in refused(ftx, resealed(adapter))
    (event,) = plan(ftx, adapter, "--with-data").events
    assert "rows.xlsx" in {file["path"] for file in event["files"]}


@pytest.mark.parametrize(
    ("name", "text", "data"),
    [
        ("train.json", '[{"conversation": []}]', True),
        ("train.json", '\ufeff[\n  {\n"a": 1}]', True),
        ("train.json", '{"a": 1}\n{"a": 2}\n', True),
        ("settings.json", '{\n"a": {"b": 1},\n"c": [{"d": 1}]}\n', False),
        ("examples.json", '["a", "b"]', False),
        ("encoder/modules.json", '[{"idx": 0}]', False),
    ],
)
def test_rows_in_json(tmp_path: Path, name: str, text: str, data: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, "utf-8")
    assert any("--with-data" in told for told in check_contents(tmp_path, [name], Consent(), [])) is data
    assert check_contents(tmp_path, [name], Consent(data=True), []) == []


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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann/root-model, ann/root, ../root, ~/root, https://root/x, /rooted, /root.d, /root-2", False),
        ("in /root/base", True),
        ("at /root.", True),
        ("'/root'", True),
        ("PATH=/root:/bin", True),
        ("a:/root", True),
        ("file:///root/x", True),
        (r"two\n/root/x", True),
        ("> it lies in /root", False),
        ("> as /home/ann has it", False),
        ("as /home/ann has it", True),
    ],
)
def test_which_places_a_text_names(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "README.md").write_text(f"{text}\n", "utf-8")
    assert bool(check_contents(tmp_path, ["README.md"], Consent(), ["/root"])) is found


def test_names_on_hubs_are_no_places_and_answers_may_name_any(
    ftx: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))
    answers(adapter, "Look into /var/log/syslog and /root.")
    common = ("--set", f"host={HOST}", "--dry-run", "--json", "--repo", "ann/root-model", "--base", "ann/root")
    result = ftx("publish", "git", adapter, *common)
    assert result.code == 0, result.err
    answers(adapter, f"It is in {adapter.resolve()}")
    assert "verify.json names a path of this machine" in ftx("publish", "git", adapter, *common).err


def answers(adapter: Path, answer: str) -> None:
    """Let the receipt tell that answer."""
    receipt = json.loads((adapter / "verify.json").read_text("utf-8"))
    receipt["probes"][0]["answer"] = answer
    (adapter / "verify.json").write_text(json.dumps(receipt), "utf-8")


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
        assert f"the base {BASE} is not known" in refused(ftx, adapter) and "--license ID" in refused(ftx, adapter)
    assert "write it as the hubs do" in refused(ftx, adapter, "--license", "Apache 2")
    assert "answer for it with --license-agreed" in refused(ftx, adapter, "--license", "mit")
    (event,) = plan(ftx, adapter, "--license", "mit", "--license-agreed").events
    assert event["license"] == {"id": "mit", "base": None, "agreed": True}
    (base / "README.md").write_text("---\nlicense: unknown\n---\n", "utf-8")
    assert "is not known" in refused(ftx, adapter, "--license", "mit")
    (base / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n", "utf-8")
    assert "forbids to pass on what is made of it" in refused(ftx, adapter)
    assert plan(ftx, adapter, "--license-agreed").events[0]["license"]["id"] == "cc-by-nd-4.0"
    (base / "README.md").write_text("---\nlicense: Apache License 2.0\n---\n", "utf-8")
    assert plan(ftx, adapter).events[0]["license"]["id"] == "apache-2.0"


@pytest.mark.parametrize(
    ("base", "wanted", "may"),
    [
        ("apache-2.0", "mit", True),
        ("cc-by-nc-4.0", "apache-2.0", False),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", True),
        ("gemma", "gemma", True),
        ("gpl-3.0", "mit", False),
        ("other", "apache-2.0", False),
        ("cc-by-nd-4.0", "mit", False),
        ("cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0", False),
        ("lgpl-3.0", "mit", False),
        ("mpl-2.0", "mit", False),
        ("fair-noncommercial-research-license", "apache-2.0", False),
        ("bigcode-openrail-m", "mit", False),
        ("bigcode-openrail-m", "bigcode-openrail-m", True),
        ("apple-amlr", "mit", False),
        ("unheard-of", "mit", False),
        ("bsd-3-clause", "gpl-3.0", True),
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


def test_what_was_downloaded_is_published_again(ftx: Any, adapter: Path, tmp_path: Path) -> None:
    publisher = configured(load_registry("none").publisher("git"), {"name": "git", "host": HOST}, "publisher")
    with prepared(adapter, publisher, Wish("ann/cats", base=BASE), dry=True) as sent:
        fetched = Path(shutil.copytree(sent.bundle.folder, tmp_path / "fetched"))
    assert Artifact.open(fetched).manifest["base"]["path"] == BASE
    (event,) = ftx("publish", "git", fetched, *WORDS).events
    assert event["license"] == {"id": "apache-2.0", "base": "apache-2.0", "agreed": False}
    with prepared(fetched, publisher, Wish("ann/dogs", base="ann/other"), dry=True) as again:
        assert Artifact.open(again.bundle.folder).manifest["base"]["path"] == "ann/other"


def test_the_allow_list() -> None:
    for name in ("tokenizer.model", "model-00001-of-00002.safetensors", "modeling_internlm2.py", "LICENSE.txt"):
        assert allowed(name, "merged", Consent()), name
    for name in ("app.py", "sub/config.json", "x.onnx", "publish.json", "model.bin"):
        assert not allowed(name, "merged", Consent()), name
    assert allowed("app.py", "app", Consent()) and not allowed("rows.csv", "app", Consent())
    for name in (".streamlit/config.toml", ".gitignore", "sub/.gitattributes"):
        assert allowed(name, "app", Consent()), name
    for name in (".docker/config.json", ".config/app.yaml", "sub/.x/a.txt", "model/.x/config.json", ".hidden.py"):
        assert not allowed(name, "app", Consent()), name


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
