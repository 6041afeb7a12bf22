"""LMDeploy: what it is told and given, run in an environment whose `lmdeploy` has the real one's flags and no GPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import ftx_lmdeploy
import ftx_quickstart
from conftest import TINY
from ftx import environments
from ftx.data.conversation import Message
from ftx.data.named import named_templates
from ftx.errors import FtxError, OutOfMemory, RecipeError, StorageError
from ftx.export.frames import frames_of, written
from ftx.export.opened import open_whole
from ftx.plugins import Registry, load_registry
from ftx_lmdeploy.prepared import prepared
from ftx_lmdeploy.process import Child
from ftx_lmdeploy.quantize import Quantizing, calibration_rows, sets_of
from ftx_lmdeploy.serve import Serving, arguments, image_command, refuse_taken, served
from ftx_lmdeploy.template import chat_template
from small_environments import OURS, lock_of, write_wheel

BASE = Path(ftx_quickstart.__file__).with_name("base")
LLAMA = TINY.with_name("llama_tiny")
RULES = Message("system", "Be brief.")
CHAT = [Message("user", "你好"), Message("assistant", "Yes."), Message("user", "1+1?")]

# Flags, kinds and choices as lmdeploy 0.18.0's own --help prints them.
CLI = """
import argparse, http.server, json, os, pathlib, sys

def run():
    parser = argparse.ArgumentParser("lmdeploy", allow_abbrev=False)
    commands = parser.add_subparsers()
    serve = commands.add_parser("serve").add_subparsers().add_parser("api_server", allow_abbrev=False)
    serve.add_argument("model_path")
    serve.add_argument("--server-name", default="0.0.0.0")
    serve.add_argument("--server-port", type=int)
    serve.add_argument("--model-name")
    serve.add_argument("--backend", choices=["pytorch", "turbomind"])
    serve.add_argument("--model-format", choices=["hf", "awq", "gptq", "compressed-tensors", "fp8", "mxfp4"])
    serve.add_argument("--chat-template")
    serve.add_argument("--tp", type=int)
    serve.add_argument("--cache-max-entry-count", type=float)
    serve.add_argument("--quant-policy", type=int, choices=[0, 4, 8])
    serve.add_argument("--session-len", type=int)
    serve.add_argument("--api-keys", nargs="*")
    given = parser.parse_args()
    told = {"given": vars(given), "pid": os.getpid(), "environ": dict(os.environ)}
    told["command line"] = pathlib.Path("/proc/self/cmdline").read_text()
    pathlib.Path(os.environ["FTX_TEST_RECORD"]).write_text(json.dumps(told))
    if words := os.environ.get("FTX_TEST_FAILS"):
        sys.exit(words)
    http.server.HTTPServer((given.server_name, given.server_port), Handler).serve_forever()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass
"""
AUTO_AWQ = """
import json, os, pathlib, signal, sys
from lmdeploy.lite.apis import calibrate

def auto_awq(model, work_dir, calib_samples, calib_seqlen, batch_size, w_bits, w_group_size, device, dtype,
             search_scale):
    told = dict(locals())
    if words := os.environ.get("FTX_TEST_FAILS"):
        sys.exit(words)
    if "FTX_TEST_WAITS" in os.environ:
        print("waiting", os.getpid(), flush=True)
        signal.pause()
    told["rows"] = calibrate.get_calib_loaders("wikitext2", None, nsamples=calib_samples, seqlen=calib_seqlen)
    pathlib.Path(os.environ["FTX_TEST_RECORD"]).write_text(json.dumps(told))
    out = pathlib.Path(work_dir)
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": w_bits, "group_size": w_group_size}
    (out / "config.json").write_text(json.dumps(config))
    (out / "model.safetensors").write_bytes(b"few bits")
    (out / "inputs_stats.pth").write_bytes(b"statistics")
    (out / "tokenizer_config.json").write_text("{}")
"""
FAKES = {
    "lmdeploy": {
        "lmdeploy/__init__.py": "",
        "lmdeploy/cli/__init__.py": CLI,
        "lmdeploy/lite/__init__.py": "",
        "lmdeploy/lite/apis/__init__.py": "",
        "lmdeploy/lite/apis/calibrate.py": "def get_calib_loaders(*_, **__): raise RuntimeError('no hub here')\n",
        "lmdeploy/lite/apis/auto_awq.py": AUTO_AWQ,
    },
    "torch": {"torch/__init__.py": "def tensor(rows): return rows\n"},
    "transformers": {"transformers/__init__.py": ""},
    "triton": {"triton/__init__.py": ""},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache with the environment in it, and its lock."""
    folder = tmp_path_factory.mktemp("lmdeploy")
    lock = lock_of(folder, *(write_wheel(folder, name, files) for name, files in FAKES.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTX_CACHE", str(folder / "cache"))
        patch.setattr(ftx_lmdeploy, "LOCK", lock)
        environment = environments.named("lmdeploy", load_registry("none"))
        assert OURS in environment.pythons
        environments.create(environment, None, lambda line: None)
    return folder / "cache", lock


@pytest.fixture
def record(cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment's lmdeploy writes down what it was told."""
    monkeypatch.setenv("FTX_CACHE", str(cache[0]))
    monkeypatch.setattr(ftx_lmdeploy, "LOCK", cache[1])
    monkeypatch.setenv("FTX_TEST_RECORD", str(tmp_path / "record.json"))
    return tmp_path / "record.json"


def told(record: Path) -> Any:
    return json.loads(record.read_text("utf-8"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def registry() -> Registry:
    return load_registry("none")


@pytest.mark.parametrize("base", [TINY, BASE])
def test_any_engine_s_ids_are_those_of_training(base: Path, registry: Registry) -> None:
    """As LMDeploy does it: its template `hf` renders the folder's, its tokenizer encodes the text with its specials."""
    from transformers import AutoTokenizer

    whole = open_whole(base, registry)
    hf = AutoTokenizer.from_pretrained(prepared(whole), local_files_only=True)
    for messages in ([RULES, *CHAT], CHAT, CHAT[:1]):
        asked = [{"role": m.role, "content": m.content} for m in messages]
        text = hf.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert hf.encode(text) == whole.template.prompt(messages, whole.tokenizer)


def test_a_folder_is_prepared_once_without_code_and_stops_as_trained(registry: Registry) -> None:
    whole = open_whole(TINY, registry)
    folder = prepared(whole)
    before = folder.stat().st_ino
    assert prepared(whole) == folder
    assert folder.stat().st_ino == before
    assert not list(folder.glob("*.py"))
    assert json.loads((folder / "config.json").read_text("utf-8"))["architectures"] == ["LlamaForCausalLM"]
    eos = json.loads((folder / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    assert eos == whole.stop_ids


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_file_that_was_corrected_is_prepared_anew(name: str, registry: Registry, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(LLAMA, model)
    before = prepared(open_whole(model, registry))
    path = model / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "corrected": True}), "utf-8")
    assert prepared(open_whole(model, registry)) != before


def test_weights_are_linked_where_no_other_layout_is_needed(registry: Registry) -> None:
    mode = (LLAMA / "model.safetensors").stat().st_mode
    folder = prepared(open_whole(LLAMA, registry))
    assert (folder / "model.safetensors").resolve() == (LLAMA / "model.safetensors").resolve()
    assert (LLAMA / "model.safetensors").stat().st_mode == mode


def test_the_arguments(registry: Registry) -> None:
    what = served(TINY, registry)
    how = Serving(port=4242, model_name="cats", tp=2, cache_share=0.5, session_len=512, quant_policy=8)
    given = dict(zip(arguments(what, how)[3::2], arguments(what, how)[4::2], strict=True))
    assert arguments(what, how)[:3] == ["serve", "api_server", str(what.folder)]
    assert given == {
        "--server-name": "127.0.0.1",
        "--server-port": "4242",
        "--model-name": "cats",
        "--backend": "turbomind",
        "--model-format": "hf",
        "--chat-template": "hf",
        "--tp": "2",
        "--cache-max-entry-count": "0.5",
        "--quant-policy": "8",
        "--session-len": "512",
    }


def test_a_model_that_sees_is_served_with_its_template_as_json(registry: Registry) -> None:
    what = served(BASE.with_name("vision_base"), registry)
    config = json.loads((what.folder / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["InternVLForConditionalGeneration"]
    values = json.loads(Path(what.template).read_text("utf-8"))
    whole = open_whole(BASE.with_name("vision_base"), registry)
    assert lmdeploys(values, CHAT) == written(whole.template, whole.tokenizer, CHAT)
    assert (values["stop_words"], what.format) == (["</s>", "<|im_end|>"], "hf")


def test_the_image_s_command_mounts_what_is_linked(registry: Registry) -> None:
    words = image_command(served(LLAMA, registry), Serving(port=4242), registry)
    assert words.startswith("docker run --rm --gpus all --ipc=host -p 127.0.0.1:4242:4242 -e FTX_API_KEY -v ")
    assert f"-v {LLAMA.resolve()}:{LLAMA.resolve()}:ro" in words
    assert "start.py:/ftx_start.py:ro" in words
    assert "python3 /ftx_start.py serve api_server /model --server-name 0.0.0.0" in words


def lmdeploys(values: dict[str, Any], messages: Sequence[Message]) -> str:
    """The prompt that LMDeploy 0.18 makes of such a JSON, as its documentation describes it."""
    start = {"system": values["system"], "user": values["user"], "assistant": values["assistant"]}
    end = {"system": values["eosys"], "user": values["eoh"], "assistant": values["eoa"] + values["separator"]}
    opening = "" if messages[0].role == "system" else values["system"] + values["meta_instruction"] + values["eosys"]
    return opening + "".join(start[m.role] + m.content + end[m.role] for m in messages) + values["assistant"]


@pytest.mark.parametrize("name", [name for name, one in named_templates().items() if one.default_system])
def test_a_template_with_a_system_text_is_said_in_json(name: str, registry: Registry) -> None:
    whole = open_whole(TINY, registry)
    frames = frames_of(named_templates()[name], whole.tokenizer, whole.stop_ids)
    values = chat_template(frames, name, bos=True)
    assert values["meta_instruction"] == named_templates()[name].default_system
    assert values["stop_words"] == list(frames.stop)
    for messages in ([RULES, *CHAT], CHAT, CHAT[:1]):
        assert lmdeploys(values, messages) == frames.prompt(messages)
    assert chat_template(frames, name, bos=False)["system"] == values["system"].removeprefix("<s>")


def test_a_template_that_json_cannot_say_is_refused(ftx: Any, tmp_path: Path) -> None:
    result = ftx("lmdeploy", "template", TINY, "--out", tmp_path / "t.json")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "serve with the folder's chat_template.jinja" in result.err
    assert not (tmp_path / "t.json").exists()


def started(lock: Path, words: list[str], stdout: int | None = None, **variables: str) -> subprocess.Popen[str]:
    """The real program in a process of its own."""
    code = (
        "import sys, pathlib, ftx_lmdeploy; ftx_lmdeploy.LOCK = pathlib.Path(sys.argv.pop(1)); "
        "from ftx.cli import main; main()"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    command = [sys.executable, "-c", code, str(lock), *words]
    return subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_serve_answers_hands_signals_over_and_hides_the_key(record: Path, cache: tuple[Path, Path]) -> None:
    port = free_port()
    words = ["lmdeploy", "serve", str(TINY), "--port", str(port), "--json"]
    with started(cache[1], words, stdout=subprocess.PIPE, FTX_API_KEY="not-for-eyes") as process:
        assert process.stdout is not None
        serving = json.loads(process.stdout.readline())
        assert serving == {"event": "serving", "url": f"http://127.0.0.1:{port}/v1", "model": TINY.name}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    seen = told(record)
    assert seen["given"]["api_keys"] == ["not-for-eyes"]
    assert "not-for-eyes" not in seen["command line"]
    assert "FTX_API_KEY" not in seen["environ"]
    assert "PYTHONPATH" not in seen["environ"]
    with pytest.raises(ProcessLookupError):
        os.kill(seen["pid"], 0)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("RuntimeError: No CUDA GPUs are available", 2, "LMDeploy finds no GPU here"),
        ("torch.OutOfMemoryError: CUDA out of memory.", 4, "lower --cache-share or --session-len"),
        ("OSError: [Errno 98] address already in use", 2, "name another with --port"),
        ("ValueError: it is raining", 2, "the server ended: ValueError: it is raining"),
    ],
)
@pytest.mark.usefixtures("record")
def test_a_server_that_falls_says_why(
    words: str, code: int, sentence: str, ftx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTX_TEST_FAILS", words)
    result = ftx("lmdeploy", "serve", TINY, "--port", free_port())
    assert (result.code, sentence in result.err.splitlines()[-1]) == (code, True)


@pytest.mark.usefixtures("record")
def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RecipeError, match=r"--port: .* cannot be listened on: .*; name another"):
            refuse_taken(Serving(port=taken.getsockname()[1]))


def test_without_its_environment_the_command_to_make_it_is_named(ftx: Any, tmp_path: Path) -> None:
    result = ftx("lmdeploy", "serve", TINY, "--port", free_port())
    assert (result.code, result.err) == (
        2,
        "ftx: environment 'lmdeploy' is not made yet; run: ftx env create lmdeploy\n",
    )
    assert "does not exist" in ftx("lmdeploy", "serve", tmp_path / "none").err


def test_print_needs_no_environment(ftx: Any) -> None:
    assert ftx("lmdeploy", "serve", TINY, "--print").out.startswith("lmdeploy serve api_server ")
    (event,) = ftx("lmdeploy", "serve", TINY, "--image", "--json").events
    assert event["command"].startswith("docker run")


@pytest.mark.parametrize(
    ("words", "error"),
    [("CUDA out of memory", OutOfMemory), ("No space left on device", StorageError), ("", FtxError)],
)
def test_why_a_process_ended(words: str, error: type[FtxError]) -> None:
    child = Child([sys.executable, "-c", f"raise SystemExit({words!r})"], lambda line: None)
    child.wait()
    assert isinstance(child.failure("it ended", "take less"), error)


def test_quantize_calibrates_on_the_training_s_rows(record: Path, ftx: Any, rows: Path, tmp_path: Path) -> None:
    more = ["--method", "full", "--max-steps", 1, "--out", tmp_path / "run"]
    assert ftx("train", "--model", TINY, "--data", rows, *more).code == 0
    sizes = ["--group-size", 32, "--samples", 3, "--length", 40]
    result = ftx("quantize", tmp_path / "run", "--out", tmp_path / "few", *sizes, "--json")
    assert result.events == [
        {"event": "quantized", "folder": str(tmp_path / "few"), "method": "awq", "bits": 4, "rows": 3}
    ]
    seen = told(record)
    wanted = {"w_bits": 4, "w_group_size": 32, "calib_samples": 3, "calib_seqlen": 40, "device": "cuda"}
    assert {key: seen[key] for key in wanted} == wanted
    whole = open_whole(tmp_path / "run", load_registry("none"))
    expected = calibration_rows(whole, sets_of(whole, [str(rows)], load_registry("none")), Quantizing(length=40))[:3]
    assert [row[0] for row in seen["rows"]] == expected
    assert whole.tokenizer.decode(expected[0]).startswith("<s><|im_start|>user\nWhat is 0?<|im_end|>")
    assert (tmp_path / "few" / "model.safetensors").read_bytes() == b"few bits"
    assert not list((tmp_path / "few").glob("*.pth"))
    note = json.loads((tmp_path / "few" / "quantized.json").read_text("utf-8"))
    assert (note["method"], note["bits"], note["rows"]) == ("awq", 4, 3)


def test_what_was_quantised_is_served_as_it_is(record: Path, ftx: Any, rows: Path, tmp_path: Path) -> None:
    flags = ["--data", rows, "--group-size", 32, "--out", tmp_path / "few"]
    assert ftx("quantize", TINY, *flags).code == 0
    printed = ftx("lmdeploy", "serve", tmp_path / "few", "--print").out
    assert "--model-format awq --chat-template hf" in printed
    assert str(tmp_path / "few") in printed
    config = json.loads((tmp_path / "few" / "tokenizer_config.json").read_text("utf-8"))
    assert config["add_bos_token"] is False
    assert "im_start" in (tmp_path / "few" / "chat_template.jinja").read_text("utf-8")
    assert record.is_file()


@pytest.mark.usefixtures("record")
def test_sigterm_ends_the_quantising_process_too(cache: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    words = ["quantize", str(TINY), "--data", str(rows), "--group-size", "32", "--out", str(tmp_path / "few")]
    with started(cache[1], words, FTX_TEST_WAITS="1") as process:
        assert process.stderr is not None
        waiting = next(line for line in process.stderr if line.startswith("waiting"))
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(waiting.split()[1]), 0)
    assert not list(tmp_path.glob("*few*"))


@pytest.mark.usefixtures("record")
def test_what_cannot_be_quantised_is_said(
    ftx: Any, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*more: object) -> str:
        result = ftx("quantize", *more, "--out", tmp_path / "few")
        assert not (tmp_path / "few").exists()
        return str(result.err.splitlines()[-1])

    assert "tells of no training data to calibrate on; give some with --data FILE" in refused(TINY)
    assert "--group-size: 128 does not divide the model's hidden_size, 64" in refused(TINY, "--data", rows)
    seeing = BASE.with_name("vision_base")
    assert "sees pictures" in refused(seeing, "--data", rows)
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n', "utf-8")
    assert "the data to calibrate on has" in refused(TINY, "--data", tmp_path / "short.jsonl", "--group-size", 32)
    monkeypatch.setenv("FTX_TEST_FAILS", "RuntimeError: No CUDA GPUs are available")
    assert "LMDeploy finds no GPU here" in refused(TINY, "--data", rows, "--group-size", 32)
    (tmp_path / "few").mkdir()
    assert "exists already" in ftx("quantize", TINY, "--data", rows, "--out", tmp_path / "few").err
