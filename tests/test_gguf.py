"""GGUF: what llama.cpp's converter is given, and a Modelfile whose prompts are those of the trained template."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY
from ftx.data.conversation import Message
from ftx.data.named import named_templates
from ftx.errors import ModelError
from ftx.export.frames import Frames, frames_of, written
from ftx.export.modelfile import go_template, modelfile
from ftx.export.opened import Whole, open_whole
from ftx.plugins import load_registry
from ftx_internlm2.family import InternLM2

# What the tests give for llama.cpp's converter: it writes down what it got, and that transformers reads it as a Llama.
CONVERTER = """
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "auto"], default="auto")
given = parser.parse_args()
config = json.loads((given.model / "config.json").read_text())
assert config["architectures"] == ["LlamaForCausalLM"], config
files = sorted(path.name for path in given.model.iterdir())
given.outfile.write_text(json.dumps({"type": given.outtype, "files": files}))
print("Model successfully exported")
"""
CHAT = [
    Message("user", "Who are you?"),
    Message("assistant", "ftx."),
    Message("user", "你好 {{ .System }}"),
    Message("assistant", "好"),
    Message("user", "1+1?"),
]
RULES = Message("system", "Be brief.")


def rendered(template: str, messages: Sequence[Message]) -> str:
    """What Go's text/template makes of the few words that our Modelfiles use."""
    begin, body = re.fullmatch(r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}", template, re.S).groups()  # type: ignore[union-attr]
    inner = re.fullmatch(r"\{\{ (if .*)\{\{ end \}\}", body, re.S)
    assert inner
    branches = {}
    for branch in inner[1].split("{{ else "):
        found = re.fullmatch(r'if eq \.Role "(\w+)" \}\}(.*?)\{\{ \.Content \}\}(.*)', branch, re.S)
        assert found
        branches[found[1]] = [part.replace('{{ "{{" }}', "{{") for part in found.groups()[1:]]
    return begin + "".join(m.content.join(branches[m.role]) for m in messages)


def directives(text: str) -> dict[str, list[str]]:
    """The directives of a Modelfile, by name."""
    found: dict[str, list[str]] = {}
    for name, quoted, plain in re.findall(
        r'^(FROM|TEMPLATE|SYSTEM|PARAMETER \w+) (?:"""(.*?)"""|([^\n]*))$', text, re.S | re.M
    ):
        found.setdefault(name, []).append(quoted or plain.strip('"'))
    return found


@pytest.fixture(scope="module")
def whole() -> Whole:
    """The tiny model with its own template."""
    return open_whole(TINY, load_registry("none"))


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    path = tmp_path / "convert_hf_to_gguf.py"
    path.write_text(CONVERTER, "utf-8")
    return path


@pytest.mark.parametrize("name", [*(n for n in named_templates() if n != "chatglm2")])
def test_modelfile_prompts_are_the_template_s(name: str, whole: Whole) -> None:
    """llama.cpp puts the first <s> there itself; every later one is in the template's text."""
    template = named_templates()[name]
    frames = frames_of(template, whole.tokenizer, whole.stop_ids)
    said = directives(modelfile("model.gguf", frames, whole))
    heads: list[list[Message]] = [[RULES]] if template.system else []
    for head in ([], *heads):
        for turns in (1, 3, 5):
            asked = [*head, *CHAT[:turns]]
            # as Ollama does: the Modelfile's SYSTEM stands where a conversation has none of its own
            default = [] if head else [Message("system", text) for text in said.get("SYSTEM", [])]
            ours = "<s>" + rendered(said["TEMPLATE"][0], [*default, *asked])
            assert ours == written(template, whole.tokenizer, asked)
            assert ours == frames.prompt(asked)


def test_the_tokenizer_s_own_template_and_its_stops(whole: Whole) -> None:
    frames = frames_of(whole.template, whole.tokenizer, whole.stop_ids)
    said = directives(modelfile("model.gguf", frames, whole))
    assert said["PARAMETER stop"] == ["</s>", "<|im_end|>"]
    assert said["PARAMETER num_ctx"] == [str(whole.facts.max_positions)]
    assert said["FROM"] == ["./model.gguf"]
    assert "<s>" + rendered(said["TEMPLATE"][0], [RULES, *CHAT]) == written(
        whole.template, whole.tokenizer, [RULES, *CHAT]
    )


def test_a_template_that_counts_its_turns_is_refused() -> None:
    tokenizer = InternLM2().tokenizer(TINY)
    with pytest.raises(ModelError, match="'chatglm2' is more than texts around messages"):
        frames_of(named_templates()["chatglm2"], tokenizer, [2])


def test_braces_of_the_template_are_not_go_s() -> None:
    frames = Frames("", "", None, ("{{ask}} ", " -> "), "\n", ())
    template = go_template(frames)
    assert rendered(template, CHAT[:1]) == frames.prompt(CHAT[:1]) == "{{ask}} Who are you? -> "


def test_what_a_modelfile_cannot_say_is_refused(whole: Whole) -> None:
    with pytest.raises(ModelError, match="no system message; Ollama has no place"):
        go_template(Frames("", "Once upon a time. ", None, ("", ""), "", ()))
    with pytest.raises(ModelError, match="quotation marks that a Modelfile cannot hold"):
        modelfile("model.gguf", Frames("<s>", "", None, ('"""', ""), "", ()), whole)
    with pytest.raises(ModelError, match="trained without <s> before a conversation"):
        modelfile("model.gguf", Frames("", "", None, ("", ""), "", ()), whole)


def test_the_converter_gets_a_llama_and_the_folder_is_whole(ftx: Any, converter: Path, tmp_path: Path) -> None:
    out = tmp_path / "gguf"
    result = ftx("export", "gguf", TINY, "--converter", converter, "--out", out, "--outtype", "q8_0", "--json")
    assert result.events == [{"event": "exported", "folder": str(out), "layout": "gguf", "outtype": "q8_0"}]
    got = json.loads((out / "model.gguf").read_text("utf-8"))
    assert got["type"] == "q8_0"
    assert {"config.json", "model.safetensors", "tokenizer.model", "tokenizer.json"} <= set(got["files"])
    assert sorted(path.name for path in out.iterdir()) == ["Modelfile", "model.gguf"]
    assert not list(tmp_path.glob(".gguf*"))


def test_num_ctx_is_the_user_s(ftx: Any, converter: Path, tmp_path: Path) -> None:
    assert ftx("export", "gguf", TINY, "--converter", converter, "--out", tmp_path / "g", "--num-ctx", 64).code == 0
    assert "PARAMETER num_ctx 64\n" in (tmp_path / "g" / "Modelfile").read_text("utf-8")
    much = ftx("export", "gguf", TINY, "--converter", converter, "--out", tmp_path / "h", "--num-ctx", 10**6)
    assert "--num-ctx: 1000000 is more than" in much.err


def refused(ftx: Any, *arguments: object) -> str:
    result = ftx("export", "gguf", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    return str(result.err)


def test_what_is_missing_is_one_sentence(ftx: Any, converter: Path, rows: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "gguf"]
    assert "--converter: none.py is no file; clone https://github.com/ggml-org/llama.cpp" in refused(
        ftx, TINY, "--converter", "none.py", *out
    )
    assert "does not exist or is no folder" in refused(ftx, tmp_path / "no", "--converter", converter, *out)
    assert "--outtype: 'q8' is not known; did you mean 'q8_0'" in refused(
        ftx, TINY, "--converter", converter, *out, "--outtype", "q8"
    )
    assert "exists already" in refused(ftx, TINY, "--converter", converter, "--out", tmp_path)
    ftx("train", "--model", TINY, "--data", rows, "--max-steps", 1, "--out", tmp_path / "run")
    assert "is an adapter; merge it first: ftx merge" in refused(ftx, tmp_path / "run", "--converter", converter, *out)
    import ftx_quickstart

    seeing = Path(ftx_quickstart.__file__).with_name("vision_base")
    assert "sees pictures" in refused(ftx, seeing, "--converter", converter, *out)
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit('Model XY is not supported')", "converter failed: Model XY is not supported"),
        ("import gguf_of_nobody", "name a Python that has llama.cpp's requirements with --python"),
        ("print('done')", "ended well and wrote no model.gguf"),
    ],
)
def test_a_converter_that_fails_leaves_nothing(code: str, why: str, ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(code, "utf-8")
    flags = ["--converter", tmp_path / "c.py", "--out", tmp_path / "gguf", "--python", sys.executable]
    result = ftx("export", "gguf", TINY, *flags)
    assert (result.code, why in result.err) == (2, True)
    assert not (tmp_path / "gguf").exists()
    assert not list(tmp_path.glob(".gguf*"))


def test_a_python_that_is_none_is_said(ftx: Any, converter: Path, tmp_path: Path) -> None:
    flags = ["--converter", converter, "--out", tmp_path / "gguf", "--python", tmp_path / "nowhere"]
    assert "--python: " in refused(ftx, TINY, *flags)


def test_a_layout_still_needs_no_name(ftx: Any, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    assert (
        "did you mean 'transformers'" in ftx("export", tmp_path / "model", "--layout", "transformer", "--out", "x").err
    )
    assert ftx("export", "--layout", "transformers", tmp_path / "model", "--out", tmp_path / "out").code == 0
    assert "gguf" in ftx("export", "--help").out
