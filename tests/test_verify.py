"""Verification: forms that are alike pass, and each planted fault is caught with its reason."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import chat
from ftx.artifact import RECEIPT, Artifact, seal
from ftx.console import Console
from ftx.data.conversation import Message
from ftx.errors import HubError, VerificationError
from ftx.export import proof
from ftx.export.forms import Endpoint, Said
from ftx.export.merge import merge
from ftx.export.probes import Probe
from ftx.export.proof import verify
from ftx.export.quantised import method_of, quantization_of
from ftx.export.receipt import read_receipt
from ftx.export.verify import reading_problems
from ftx.plugins import load_registry
from ftx.pretrained import load_tokenizer
from ftx.talk import open_talk
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from ftx_quickstart.first_run import BASE
from ftx_quickstart.picture_run import BASE as SEEING
from serving import serving
from test_natives import make
from test_train import plan_for


def tuned(folder: Path, **options: Any) -> Path:
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(chat(f"What is {i}?", f"It is {i}.")) for i in range(12)) + "\n")
    artifact = fit(plan_for(BASE, data, folder / "run", train__max_steps=10, train__lr=2e-3, **options))
    quantization = quantization_of(method_of(artifact, load_registry("none")), InternLM2())
    merge(artifact, InternLM2(), BASE, folder / "run" / "merged", Console(quiet=True), quantization)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A LoRA run over the quickstart's base, and its merged model.

    What training left in it is asked once for all tests that ask it the same: none of them changes it.
    """
    run = tuned(tmp_path_factory.mktemp("verify"))
    reference = proof._reference
    known: dict[Any, Any] = {}

    def asked(subject: proof.Subject, probes: Any, max_new_tokens: int, places: Path) -> Any:
        if run not in subject.folder.parents:
            return reference(subject, probes, max_new_tokens, places)
        key = subject.folder, tuple(one.key for one in probes or ()), max_new_tokens
        if key not in known:
            known[key] = reference(subject, probes, max_new_tokens, places)
        trained, finding = known[key]
        return trained, deepcopy(finding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "_reference", asked)
        yield run


@pytest.fixture(scope="module")
def few_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by QLoRA."""
    return tuned(tmp_path_factory.mktemp("few-bits"), method={"name": "qlora"})


def problems(run: Path, other: object) -> str:
    """What verification says against another form of the run's model."""
    *good, finding = verify(run, load_registry("none"), others=[str(other)])
    assert all(one.passed for one in good)
    assert not finding.passed
    return "\n".join(finding.problems)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The merged model, without its seal."""
    shutil.copytree(run / "merged", tmp_path / "form", ignore=shutil.ignore_patterns("ftx.json", RECEIPT))
    return tmp_path / "form"


def test_a_run_passes_and_leaves_receipts(run: Path, ftx: Callable[..., Any]) -> None:
    before = read_receipt(Artifact.open(run / "merged"))
    assert before is not None and before.passed  # merge wrote it
    result = ftx("verify", run, "--json")
    assert result.code == 0
    assert [(event["form"], event["passed"]) for event in result.events] == [
        ("adapter", True),
        ("the trainer's model", True),
        ("merged", True),
    ]
    for kind in ("adapter", "merged"):
        receipt = read_receipt(Artifact.open(run / kind))
        assert receipt is not None and receipt.passed
        assert [form["form"] for form in receipt.forms] == ["adapter", "the trainer's model", "merged"]
        assert receipt.probes[3].before == ["你是谁？", "我是小书。"]


def test_a_receipt_does_not_outlive_its_seal(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "merged", tmp_path / "merged")
    artifact = Artifact.open(tmp_path / "merged")
    assert read_receipt(artifact)
    facts = {key: artifact.manifest[key] for key in ("plan", "base", "data", "metrics")}
    seal(artifact.folder, "merged", **{**facts, "metrics": {}})
    assert read_receipt(Artifact.open(tmp_path / "merged")) is None


def test_another_template_is_caught(run: Path, copy: Path) -> None:
    path = copy / "chat_template.jinja"
    path.write_text(
        path.read_text().replace("<|im_start|>user", "<|im_start|>human").replace("'<|im_start|>'", "'[INST]'")
    )
    assert "the prompt differs from token" in problems(run, copy)


def test_a_system_prompt_of_the_templates_own_is_caught(run: Path, copy: Path) -> None:
    path = copy / "chat_template.jinja"
    path.write_text("<|im_start|>system\nBe kind.<|im_end|>\n" + path.read_text())
    assert "another template, system prompt or tokenizer" in problems(run, copy)


def test_a_dropped_stop_token_is_caught(run: Path, copy: Path) -> None:
    config = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
    said = problems(run, copy)
    assert "does not stop at 3582 '<|im_end|>': answers would not end" in said
    assert "it goes on where training stops" in said


def test_a_merge_in_another_precision_is_caught(run: Path, copy: Path) -> None:
    weights = copy / "model.safetensors"
    save_file({name: t.half() for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    said = problems(run, copy)
    assert "stores float16 where" in said and "stores bfloat16" in said


def test_a_padded_vocabulary_is_caught(run: Path, copy: Path) -> None:
    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    for name in ("model.tok_embeddings.weight", "output.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(64, tensors[name].shape[1], dtype=torch.bfloat16)])
    save_file(tensors, weights, metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 64}))
    assert "its vocabulary has 3,648 rows where training had 3,584" in problems(run, copy)


def test_a_changed_tokenizer_is_caught(run: Path, copy: Path, tiny: Path) -> None:
    shutil.copyfile(tiny / "tokenizer.model", copy / "tokenizer.model")
    assert "its tokenizer cuts text otherwise" in problems(run, copy)


def swap_words(content: dict[str, Any]) -> None:
    """Two words that are in no sample change their ids."""
    words = content["model"]["vocab"]
    words["一下"], words["介绍"] = words["介绍"], words["一下"]


def lose_a_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"].pop()


def make_ordinary(content: dict[str, Any]) -> None:
    next(token for token in content["added_tokens"] if token["content"] == "<|plugin|>")["special"] = False


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda _: None, None),
        (swap_words, "for the word"),
        (lose_a_merge, "otherwise than the one of training"),
        (make_ordinary, "has '<|plugin|>' as an ordinary word"),
    ],
)
def test_a_tokenizer_is_compared_beyond_a_sample(
    tiny: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None], sentence: str | None
) -> None:
    ours = load_tokenizer(tiny)  # of tokenizer.model: written as JSON it is the same one
    ours.hf.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    damage(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = list(reading_problems(tmp_path, (ours, None), (load_tokenizer(tmp_path), None)))
    assert [problem.partition(sentence or "")[1] for problem in found] == ([sentence] if sentence else [])


def test_weights_of_another_merge_are_caught(run: Path, copy: Path) -> None:
    shutil.copyfile(BASE / "model.safetensors", copy / "model.safetensors")
    assert "logits differ by" in problems(run, copy) or "the answer differs" in problems(run, copy)


def test_a_missing_processor_is_caught(tmp_path: Path) -> None:
    copy = tmp_path / "form"
    shutil.copytree(SEEING, copy)
    (copy / "preprocessor_config.json").unlink()
    assert "image processor" in problems(SEEING, copy)


def test_a_processor_that_path_itself_lost_is_caught(tmp_path: Path) -> None:
    copy = tmp_path / "form"
    shutil.copytree(SEEING, copy)
    (copy / "preprocessor_config.json").unlink()
    (finding,) = verify(copy, load_registry("none"), base=SEEING)
    assert "its image processor is missing; copy preprocessor_config.json" in "\n".join(finding.problems)


def test_a_changed_file_of_a_sealed_form_is_named(run: Path, tmp_path: Path, ftx: Callable[..., Any]) -> None:
    shutil.copytree(run / "merged", tmp_path / "merged")
    path = tmp_path / "merged" / "chat_template.jinja"
    path.write_text(path.read_text() + " ")
    result = ftx("verify", run, tmp_path / "merged")
    assert result.code == 7
    assert "chat_template.jinja was changed after it was sealed" in result.err


@pytest.fixture
def rounded(tmp_path: Path) -> tuple[Path, Path]:
    """A native model, and itself saved in 4 bits."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    whole, form = (
        make("llama", tmp_path / "whole", hidden_size=64, intermediate_size=128, head_dim=16),
        tmp_path / "four",
    )
    (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 631], "pad_token_id": 2}))
    shutil.copytree(whole, form)
    for weights in form.glob("*.safetensors"):
        weights.unlink()
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    AutoModelForCausalLM.from_pretrained(whole, quantization_config=config, dtype=torch.float32).save_pretrained(form)
    return whole, form


def test_a_rounded_form_passes(rounded: tuple[Path, Path]) -> None:
    whole, form = rounded
    *_, finding = verify(whole, load_registry("none"), others=[str(form)])
    assert finding.passed, finding.problems
    assert finding.difference


def test_a_damaged_quantised_layer_is_caught(rounded: tuple[Path, Path]) -> None:
    whole, form = rounded
    (weights,) = form.glob("*.safetensors")
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    tensors[name] = tensors[name].roll(7)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "layers.1.mlp.up_proj.weight: its weights are" in problems(whole, form)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.layers.1.mlp.up_proj.weight.absmax", lambda scales: scales * torch.nan),
        ("model.layers.1.mlp.up_proj.weight.absmax", lambda scales: scales * 1.2),
        ("lm_head.weight", lambda weight: weight.roll(5, 0)),
        ("model.embed_tokens.weight", lambda weight: weight.roll(5, 0)),
        ("model.layers.0.input_layernorm.weight", torch.zeros_like),
    ],
)
def test_any_damaged_weight_of_a_rounded_form_is_caught(
    rounded: tuple[Path, Path], name: str, damage: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    whole, form = rounded
    (weights,) = form.glob("*.safetensors")
    tensors = load_file(weights)
    tensors[name] = damage(tensors[name]).contiguous()
    save_file(tensors, weights, metadata={"format": "pt"})
    assert f"{name.removesuffix('.absmax')}: its weights are" in problems(whole, form)


@pytest.fixture(params=[None, "Answer with one word, in Chinese: 好"])
def endpoint(run: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str | None]]:
    """ftx's own server of the merged model, which may add a system prompt where none is given."""
    talk = open_talk(run / "merged", load_registry("none"))
    prompt = talk.prompt

    def with_system(messages: Sequence[Message]) -> list[int]:
        added = [Message("system", request.param)] if request.param and messages[0].role != "system" else []
        return prompt([*added, *messages])

    talk.prompt = with_system  # type: ignore[method-assign]
    with serving(talk, max_new_tokens=48, max_queue=4) as url:
        yield url, request.param


def test_a_server_answers_as_trained_or_its_system_prompt_shows(run: Path, endpoint: tuple[str, str | None]) -> None:
    url, added = endpoint
    *_, finding = verify(run, load_registry("none"), others=[url])
    assert finding.passed == (added is None), finding.problems
    if added:
        assert "probe 1: the prompt differs from token" in finding.problems[0]


def test_a_server_that_tells_lengths_alone_is_held_to_them(
    run: Path, endpoint: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, added = endpoint
    monkeypatch.setattr(Endpoint, "_prompt", lambda *_: None)  # as LMDeploy, which has no such route
    *_, finding = verify(run, load_registry("none"), others=[url])
    assert finding.passed == (added is None), finding.problems
    if added:
        assert "tokens where training had" in finding.problems[0]


@pytest.mark.parametrize(
    ("changed", "sentence", "passes"),
    [
        (lambda said: replace(said, text="Other words."), "where training says", True),
        (lambda said: replace(said, text=f"{said.text} and", stopped=False), "it goes on where training stops", False),
    ],
)
def test_other_words_of_a_rounded_server_are_told_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, changed: Callable[[Said], Said], sentence: str, passes: bool
) -> None:
    say = Endpoint.say
    monkeypatch.setattr(Endpoint, "say", lambda *asked: changed(say(*asked)))
    with serving(open_talk(run / "merged", load_registry("none")), max_new_tokens=48, max_queue=4) as url:
        *_, plain = verify(run, load_registry("none"), others=[url])
        *_, finding = verify(run, load_registry("none"), others=[url], rounded=True)
    assert not plain.passed
    assert finding.passed == passes
    assert sentence in "\n".join(finding.notes if passes else finding.problems)


def test_qlora_is_merged_as_training_saw_its_base(few_bits: Path, tmp_path: Path, ftx: Callable[..., Any]) -> None:
    run = shutil.copytree(few_bits, tmp_path / "run")
    metrics = Artifact.open(run / "merged").manifest["metrics"]
    assert metrics["max_logit_difference"] < 0.2 * metrics["max_logit_difference_of_stored_base"]
    result = ftx("verify", run, "--json")
    assert [event["form"] for event in result.events] == [
        "adapter",
        "the trainer's model",
        "adapter on the base as stored",
        "merged",
    ]
    assert result.code == 0
    assert ftx("merge", run, "--into", "stored", "--out", tmp_path / "stored").code == 0
    ours, stored = (load_file(folder / "model.safetensors") for folder in (run / "merged", tmp_path / "stored"))
    assert not torch.equal(ours["model.layers.0.attention.wqkv.weight"], stored["model.layers.0.attention.wqkv.weight"])
    assert torch.equal(ours["model.tok_embeddings.weight"], stored["model.tok_embeddings.weight"])


def test_a_base_in_8_bits_is_trained_merged_verified_and_asked(tmp_path: Path, ftx: Callable[..., Any]) -> None:
    run, rows = tmp_path / "run", tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(chat(f"What is {i}?", f"It is {i}.")) for i in range(12)) + "\n")
    eight = ["--method", "qlora", "--set", "method.bits=8", "--max-steps", 8, "--lr", 2e-3]
    assert ftx("train", "--model", BASE, "--data", rows, *eight, "--out", run).code == 0
    assert Artifact.open(run / "adapter").plan["method"]["bits"] == 8
    assert ftx("merge", run).code == 0
    metrics = Artifact.open(run / "merged").manifest["metrics"]
    assert 0 < metrics["max_logit_difference"] < 0.5 * metrics["max_logit_difference_of_stored_base"]
    result = ftx("verify", run, "--json")
    found = {event["form"]: event["max_logit_difference"] for event in result.events}
    assert (result.code, len(found)) == (0, 4), result.err
    # What training computed with is what verification holds, to the rounding of float32.
    assert found["the trainer's model"] < 1e-3 * found["adapter on the base as stored"]
    said = [ftx("chat", run, "--once", "What is 3?", *bits) for bits in ((), ("--bits", "8"))]
    assert [one.code for one in said] == [0, 0]
    assert said[0].out == said[1].out


@pytest.mark.parametrize("bits", [4, 8])
def test_a_head_in_few_bits_too_is_merged_as_training_saw_it(
    bits: int, tmp_path: Path, ftx: Callable[..., Any]
) -> None:
    run = tuned(tmp_path, method={"name": "qlora", "bits": bits, "quantize_head": True})
    ours, base = load_file(run / "merged" / "model.safetensors"), load_file(BASE / "model.safetensors")
    for name in ("output.weight", "model.tok_embeddings.weight"):
        off = float((ours[name].float() - base[name].float()).norm() / base[name].float().norm())
        assert 0.001 < off < (0.13 if name == "output.weight" and bits == 4 else 0.02)
    result = ftx("verify", run, "--json")
    found = {event["form"]: event["max_logit_difference"] for event in result.events}
    assert (result.code, len(found)) == (0, 4), result.err
    assert found["the trainer's model"] < 1e-3 * found["adapter on the base as stored"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no question"),
        ('{"q": 1}\n', "line 1 is no"),
        ('{"question": ["a", "b"]}\n', "turns go question"),
        ('{"question": "a", "image": "../x.png"}\n', "leaves the folder"),
        ('{"question": "a", "system": 5}\n', "is no text"),
        ('{"question": "\\ud800"}\n', "line 1 is no"),
    ],
)
def test_probes_of_ones_own(run: Path, ftx: Callable[..., Any], tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "probes.jsonl").write_text(text)
    result = ftx("verify", run, "--probes", tmp_path / "probes.jsonl")
    assert result.code == 3
    assert sentence in result.err
    if not text:
        (tmp_path / "probes.jsonl").write_text(json.dumps({"question": "What is 3? " * 1000}) + "\n")
        result = ftx("verify", run, "--probes", tmp_path / "probes.jsonl")
        assert (result.code, "--probes: the conversation has" in result.err) == (2, True)
    (tmp_path / "probes.jsonl").write_text('{"question": "What is 3?"}\n')
    assert ftx("verify", run, "--probes", tmp_path / "probes.jsonl").code == 0


def test_what_is_no_form_is_refused(run: Path, ftx: Callable[..., Any], tmp_path: Path) -> None:
    assert ftx("verify", tmp_path / "none").code == 2
    result = ftx("verify", run, "nothing")
    assert result.code == 2 and "neither a folder nor the address of a server" in result.err
    result = ftx("verify", run, "http://127.0.0.1:9/v1")
    assert result.code == 5 and "does not answer" in result.err
    assert ftx("verify", run / "adapter", "--base", tmp_path / "gone").code == 2
    result = ftx("verify", run, "--rounded")
    assert result.code == 2 and "--rounded says something of servers" in result.err


def test_an_adapter_that_is_not_what_was_trained_is_caught(run: Path, tmp_path: Path) -> None:
    """Its files are whole and sealed, and not what the trainer held."""
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("merged", "checkpoints"))
    folder = tmp_path / "run" / "adapter"
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name] = tensors[name] + 0.5
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    manifest = Artifact.open(run / "adapter").manifest
    seal(folder, "adapter", **{key: manifest[key] for key in ("plan", "base", "data", "metrics")})
    _, finding = verify(tmp_path / "run", load_registry("none"))
    assert finding.form == "the trainer's model"
    assert "logits differ by" in finding.problems[0]
    (tmp_path / "run" / "trainer.safetensors").write_bytes(b"{}")
    with pytest.raises(VerificationError, match="cannot be read"):
        verify(tmp_path / "run", load_registry("none"))


def test_a_wrong_form_does_not_speak_against_what_it_was_made_of(run: Path, copy: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    manifest = Artifact.open(run / "merged").manifest
    seal(copy, "merged", **{key: manifest[key] for key in ("plan", "base", "data", "metrics")})
    problems(run, copy)
    good, wrong = (read_receipt(Artifact.open(folder)) for folder in (run / "merged", copy))
    assert good is not None and good.passed
    assert wrong is not None and not wrong.passed


NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_template_without_system_messages_trains_merges_and_verifies(tmp_path: Path, ftx: Callable[..., Any]) -> None:
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    shutil.copytree(BASE, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": NO_SYSTEM}))
    rows.write_text("\n".join(json.dumps(chat(f"What is {i}?", f"It is {i}.")) for i in range(4)) + "\n")
    assert ftx("train", "--model", base, "--data", rows, "--max-steps", 1, "--out", tmp_path / "run").code == 0
    assert ftx("merge", tmp_path / "run").code == 0
    result = ftx("verify", tmp_path / "run", "--json")
    assert (result.code, len(result.events)) == (0, 3), result.err
    receipt = read_receipt(Artifact.open(tmp_path / "run" / "merged"))
    assert receipt is not None and all(probe.system is None for probe in receipt.probes)


def test_a_merge_into_the_stored_base_is_told_and_not_refused(
    few_bits: Path, tmp_path: Path, ftx: Callable[..., Any]
) -> None:
    run = shutil.copytree(few_bits, tmp_path / "run", ignore=shutil.ignore_patterns("merged"))
    assert ftx("merge", run, "--into", "stored").code == 0
    result = ftx("verify", run, "--json")
    assert result.code == 0, result.err
    assert result.events[-1]["max_logit_difference"] > 1


def test_the_trainers_model_of_another_run_or_question_is_left_out(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run / "merged", other / "merged")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(chat("What is 1?", "It is 1.")) + "\n")
    fit(plan_for(BASE, data, tmp_path / "second", train__max_steps=1))
    shutil.copyfile(tmp_path / "second" / "trainer.safetensors", other / "trainer.safetensors")
    assert [one.form for one in verify(other, load_registry("none"))] == ["merged"]
    found = verify(run, load_registry("none"), probes=[Probe(("What is 3?",))])
    assert [one.form for one in found] == ["adapter", "merged"]


@pytest.mark.parametrize("answer", [b"[]", b'{"data": []}', b"no JSON"])
def test_a_server_that_speaks_otherwise_is_refused(tmp_path: Path, answer: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        with pytest.raises(HubError):
            Endpoint(url, url, tmp_path).say(Probe(("a",)), 1)
        server.shutdown()
        thread.join()
    with pytest.raises(HubError):
        Endpoint("", "http://127.0.0.1:8x/v1", tmp_path).say(Probe(("a",)), 1)
