"""`ftx eval`: before and after, held-out loss, what was forgotten, runs side by side, the page, harnesses' configs."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import TINY, chat, write_rows
from ftx.artifact import Artifact, model_name
from ftx.eval.heldout import loss_of
from ftx.eval.match import Forgotten, forgotten, is_exact, judged, nearness
from ftx.eval.subject import differing, settings_of
from ftx.export.merge import merge
from ftx.plugins import load_registry
from ftx.run import checkpoints_in, losses
from ftx.talk import Answer, Sampling, open_talk
from ftx.train.fit import fit
from ftx_quickstart.corpus import probes
from ftx_quickstart.first_run import BASE
from ftx_quickstart.picture_run import BASE as VISION_BASE
from picture_rows import write_picture_rows
from test_drawings import Reader
from test_train import plan_for

ROWS = [
    *(chat(f"Who made {name}?", "It was made by Ada.") for name in ("this", "that", "you", "it")),
    *(chat(f"谁做的{name}？", "是小明做的。") for name in ("这个", "那个", "你", "它")),
]
HELD = [chat("Who made the rug?", "It was made by Ada."), chat("谁做的地毯？", "是小明做的。")]


def put_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the embedded base, which really talks: `good` learns, `poor` hardly does; good/merged too."""
    from ftx.console import Console
    from ftx.plan import find_family

    folder = tmp_path_factory.mktemp("eval")
    data = put_rows(folder / "rows.jsonl", ROWS)
    asked = {"questions": ["Who made the rug?"], "every": 10, "max_new_tokens": 16}
    common = {"train__global_batch_size": 8, "train__micro_batch_size": 8, "train__save_every": 30}
    fit(plan_for(BASE, data, folder / "good", train__max_steps=30, train__lr=3e-3, eval=asked, **common))
    fit(plan_for(BASE, data, folder / "poor", train__max_steps=2, train__lr=1e-4, method={"rank": 4}, **common))
    adapter = Artifact.open(folder / "good" / "adapter")
    registry = load_registry("none")
    family = find_family(adapter.plan["family"], BASE, registry)
    merge(adapter, family, BASE, folder / "good" / "merged", Console(quiet=True))
    return folder


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return put_rows(tmp_path / "held.jsonl", HELD)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "eval.json").read_text("utf-8"))
    return found


def test_two_runs_stand_beside_their_base(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    known = probes()[::8]
    forget = put_rows(tmp_path / "other.jsonl", [{"question": p.question, "answer": p.answer} for p in known])
    (tmp_path / "p.txt").write_text("Who made the kite?\n\n谁做的风筝？\n", "utf-8")
    result = ftx(
        "eval", place / "good" / "adapter", place / "poor", "--data", held, "--probes", "p.txt", "--forget", forget
    )
    assert result.code == 0, result.err
    told = results(tmp_path / "runs" / "eval")
    base, good, poor = told["columns"]
    assert (base["kind"], base["name"], base["before"]) == ("base", "base", None)
    assert good["name"] == "good: rank 16, lr 0.003, max_steps 30"
    assert poor["name"] == "poor: rank 4, lr 0.0001, max_steps 2"
    assert good["before"] == poor["before"] == "base"
    assert good["heldout_loss"]["loss"] < poor["heldout_loss"]["loss"] < base["heldout_loss"]["loss"]
    assert good["heldout_loss"]["perplexity"] == pytest.approx(math.exp(good["heldout_loss"]["loss"]))
    assert base["heldout_loss"]["tokens"] == good["heldout_loss"]["tokens"]
    assert [a["text"] for a in good["answers"]["heldout"]] == ["It was made by Ada.", "是小明做的。"]
    assert good["figures"]["heldout"] == {"asked": 2, "exact": 1.0, "near": 1.0, "stopped": 1.0, "tokens": 0} | {
        "tokens": good["figures"]["heldout"]["tokens"]
    }
    assert base["figures"]["heldout"]["exact"] == 0.0
    assert base["figures"]["forget"]["exact"] == 1.0
    assert good["figures"]["probes"]["exact"] is None
    said = [[a["text"] for a in column["answers"]["forget"]] for column in (base, good)]
    assert good["forgotten"]["changed"] == sum(a != b for a, b in zip(*said, strict=True))
    assert good["forgotten"]["asked"] == len(known) and base["forgotten"] is None
    assert "perplexity" in result.out and "It was made" not in result.out
    assert "warning" not in result.err
    assert told["runs"][0]["losses"] == {str(k): v for k, v in losses(place / "good").items()}


def test_answers_are_those_of_chat(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    rows = put_rows(tmp_path / "asked.jsonl", [{"question": "谁做的风筝？", "system": "你是小明的助手。"}])
    assert ftx("eval", place / "good", "--probes", rows, "--out", "out", "--max-new-tokens", 7).code == 0
    told = results(tmp_path / "out")
    for column, model in zip(told["columns"], (BASE, place / "good"), strict=True):
        talk = open_talk(model, load_registry("none"))
        talk.system = "你是小明的助手。"
        answer = talk.ask("谁做的风筝？", Sampling(max_new_tokens=7))
        (seen,) = column["answers"]["probes"]
        assert (seen["text"], seen["stopped"], seen["tokens"]) == (answer.text, answer.stopped, answer.tokens)


def test_the_page_shows_all_and_needs_nothing(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    asked = put_rows(tmp_path / "p.jsonl", [{"question": evil, "answer": "x"}])
    result = ftx("eval", place / "good", place / "poor", "--data", held, "--probes", asked, "--out", "out")
    assert result.code == 0, result.err
    text = (tmp_path / "out" / "page.html").read_text("utf-8")
    seen = Reader(text)
    assert "script" not in seen.tags and "http:" not in text and "https:" not in text and "url(" not in text
    assert evil in seen.text and seen.langs >= {"en", "zh"}
    for column in results(tmp_path / "out")["columns"]:
        assert column["name"] in seen.text
        for answers in column["answers"].values():
            assert all(answer["text"] in seen.text for answer in answers)
    assert len(re.findall(r'points="[^"]+"', text)) == 2
    assert "Answers while good was trained" in seen.text and "训练过程中的回答" in seen.text
    assert "Who made the rug?" in seen.text and "method.rank" in seen.text


def test_without_questions_runs_are_compared_by_settings_and_curves(ftx: Any, place: Path, tmp_path: Path) -> None:
    fit(plan_for(TINY, place / "rows.jsonl", tmp_path / "other", train__max_steps=1))
    result = ftx("eval", place / "poor", "other", "--json")
    assert result.code == 0, result.err
    (event,) = result.events
    assert event["columns"] == [] and {"method.rank", "train.lr"} <= set(event["differing"])
    assert Path(event["page"]).read_text("utf-8").count("<polyline") == 2
    assert "method.rank" in ftx("eval", place / "poor", "other").out


def test_without_options_a_run_is_asked_what_its_recipe_asks(ftx: Any, place: Path, tmp_path: Path) -> None:
    (event,) = ftx("eval", place / "good", "--json").events
    told = results(Path(event["results"]).parent)
    assert [one["text"] for one in told["questions"]["probes"]] == ["Who made the rug?"]
    base, good = (column["answers"]["probes"][0]["text"] for column in told["columns"])
    asked = told["runs"][0]["samples"]
    assert (asked[0]["answer"], asked[-1]["answer"]) == (base, good)


def test_the_held_out_loss_is_the_trainers(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    """At its first step a run takes the base's loss of its rows, at its second that of what the first step made."""
    data = write_rows(tmp_path / "rows.jsonl", 12)
    whole = {"train__global_batch_size": 12, "train__max_steps": 2, "train__save_every": 1}
    fit(plan_for(tiny, data, tmp_path / "run", **whole))
    rows = data.read_text("utf-8").splitlines()
    shuffled = tmp_path / "held.jsonl"
    shuffled.write_text("\n".join(rows[::-1]), "utf-8")
    result = ftx("eval", "run", "--data", shuffled, "--out", "out", "--ask", 1)
    assert result.code == 0, result.err
    base, run = results(tmp_path / "out")["columns"]
    trained = losses(tmp_path / "run")
    assert base["heldout_loss"]["loss"] == pytest.approx(trained[1], abs=1e-6, rel=0)
    assert run["heldout_loss"]["loss"] < trained[2]
    plan = plan_for(tiny, data, tmp_path / "again")
    talk = open_talk(checkpoints_in(tmp_path / "run")[0] / "weights", load_registry("none"), base=tiny)
    found = loss_of(talk.model, plan.prepared.stores[0], talk.tokenizer.pad_id)
    assert found.loss == pytest.approx(trained[2], abs=1e-6, rel=0)
    assert (found.tokens, found.samples) == (plan.ledger.labelled, 12)
    assert "12 of the 12 held-out rows were trained on by run" in result.err


def test_a_merged_and_a_full_model_are_read_too(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    fit(plan_for(BASE, place / "rows.jsonl", tmp_path / "full", method="full", train__max_steps=1, train__lr=1e-4))
    result = ftx("eval", place / "good" / "merged", "full", "--data", held, "--out", "out", "--ask", 1)
    assert result.code == 0, result.err
    base, merged, full = results(tmp_path / "out")["columns"]
    assert (merged["kind"], full["kind"]) == ("merged", "model")
    assert merged["name"].startswith("good: method lora") and full["name"].startswith("full: method full")
    assert merged["heldout_loss"]["loss"] < full["heldout_loss"]["loss"] < base["heldout_loss"]["loss"]


def test_pictures_are_asked_about_and_shown(ftx: Any, tmp_path: Path) -> None:
    data = write_picture_rows(tmp_path / "data", 6)
    asked = {"questions": ["What is in the picture?"], "images": str(tmp_path / "data" / "0.png"), "max_new_tokens": 8}
    fit(plan_for(VISION_BASE, data, tmp_path / "run", train__max_steps=1, train__memory="fast", eval=asked))
    held = write_picture_rows(tmp_path / "held", 4)
    rows = [{"question": "What is in the picture?", "image": "2.png"}, {"question": "Who are you?"}]
    questions = put_rows(tmp_path / "data" / "p.jsonl", rows)
    result = ftx("eval", "run", "--probes", questions, "--data", held, "--out", "out", "--max-new-tokens", 8)
    assert result.code == 0, result.err
    told = results(tmp_path / "out")
    assert told["questions"]["probes"][0]["images"] == ["2.png"]
    assert told["questions"]["heldout"][1]["images"] == ["1.png", "0.png"]
    assert told["runs"][0]["samples"][0]["image"] == "0.png"
    assert "4 of the 4 held-out rows were trained on" in result.err
    text = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert len(Reader(text).images) == 5
    assert "data:image/jpeg;base64," in text
    (tmp_path / "data" / "2.png").write_bytes((tmp_path / "data" / "2.png").read_bytes()[:80])
    result = ftx("eval", "run", "--probes", questions, "--out", "next")
    assert (result.code, Path("next").exists()) == (2, False)
    assert "--probes: run cannot be asked 'What is in the picture?'" in result.err


def test_matches_are_counted_as_they_are_described() -> None:
    assert is_exact(" ＡＢ\n", "AB") and not is_exact("ab", "AB")
    assert nearness("AB", "ab") == 1.0
    assert nearness("abcd", "bcde") == pytest.approx(0.75)
    assert nearness("小明做的", "小红做的") == pytest.approx(0.75)
    assert nearness("abc", "xyz") == 0.0
    before = [judged(Answer(text, True, 1), "abcd") for text in ("abcd", "abcd", "abcx", "x")]
    after = [judged(Answer(text, True, 1), "abcd") for text in ("abcd", "abce", "xbcd", "x y")]
    assert forgotten(before, after) == Forgotten(asked=4, changed=3, worse=1, lost=1)
    unknown = [judged(Answer("a", True, 1), None)]
    assert forgotten(unknown, [judged(Answer("b", True, 1), None)]) == Forgotten(1, 1, 0, 0)


def test_settings_that_differ_come_in_the_order_of_what_they_say(place: Path) -> None:
    told = [settings_of(Artifact.open(place / name / "adapter")) for name in ("good", "poor")]
    assert differing(told)[:3] == ["method.rank", "train.lr", "train.max_steps"]
    assert not any(name.startswith(("eval", "out", "origins")) for name in told[0])


# What cannot be evaluated


def refusal(result: Any, code: int, out: Path = Path("out")) -> str:
    """The one sentence that a command ended with; nothing was written."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err and not out.exists()
    return str(result.err.splitlines()[-1])


def test_no_run_and_an_unfinished_one_are_refused(ftx: Any, place: Path, tmp_path: Path) -> None:
    assert "there is no run nothing; name the folder" in refusal(ftx("eval", "nothing", "--out", "out"), 2)
    assert "holds no finished run and no artefact" in refusal(ftx("eval", tmp_path, "--out", "out"), 2)
    shutil.copytree(place / "poor", tmp_path / "half", ignore=shutil.ignore_patterns("adapter"))
    said = refusal(ftx("eval", "half", "--out", "out"), 2)
    assert "the run in half was never finished; train it anew, then evaluate it" in said
    (tmp_path / "half" / "checkpoints" / "step-00000001").mkdir()
    assert "train it with --resume auto" in refusal(ftx("eval", "half", "--out", "out"), 2)


def test_an_artefact_that_was_changed_is_refused(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "poor", tmp_path / "run")
    (tmp_path / "run" / "adapter" / "chat_template.jinja").write_text("x", "utf-8")
    assert "changed after it was sealed" in refusal(ftx("eval", "run", "--data", held, "--out", "out"), 7)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "held.jsonl is empty"),
        (b"\xff\xfe\x00", "held.jsonl"),
        (b'{"messages": [\n', "held.jsonl"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n', "none of the 1 rows can be trained on"),
        (None, "--data: there is no file"),
    ],
)
def test_held_out_rows_that_cannot_be_read_are_refused(
    content: bytes | None, sentence: str, ftx: Any, place: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "held.jsonl").write_bytes(content)
    result = ftx("eval", place / "poor", "--data", "held.jsonl", "--out", "out", "--after-only")
    refusal(result, 3)
    assert sentence in result.err


def test_some_broken_held_out_rows_are_refused_or_allowed(ftx: Any, place: Path, tmp_path: Path) -> None:
    put_rows(tmp_path / "held.jsonl", [HELD[0], {"messages": []}])
    arguments = ("eval", place / "poor", "--data", "held.jsonl", "--out", "out", "--after-only")
    result = ftx(*arguments)
    refusal(result, 3)
    assert "--max-rejected 1" in result.err
    assert ftx(*arguments, "--max-rejected", 1).code == 0
    assert results(tmp_path / "out")["columns"][0]["heldout_loss"]["samples"] == 1


def test_rows_that_were_trained_on_are_counted_and_told(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    same = ftx("eval", place / "poor", "--data", place / "rows.jsonl", "--ask", 1, "--out", "same", "--after-only")
    assert same.code == 0
    assert "--data is the very file that poor was trained on: all 8 rows" in " ".join(same.err.split())
    spoken = {"conversations": [{"from": "human", "value": "谁做的它？"}, {"from": "gpt", "value": "是小明做的。"}]}
    put_rows(tmp_path / "mixed.jsonl", [*HELD, ROWS[0], ROWS[5]])
    mixed = ftx("eval", place / "poor", "--data", "mixed.jsonl", "--ask", 1, "--out", "mixed", "--after-only")
    assert "2 of the 4 held-out rows were trained on by poor; take them out" in mixed.err
    told = results(tmp_path / "mixed")
    assert told["runs"][0]["overlap"] == {"rows": 4, "shared": 2, "same_file": False, "unread": None}
    assert any("2 of the 4" in one for one in told["warnings"])
    assert "2 of the 4" in html.unescape((tmp_path / "mixed" / "page.html").read_text("utf-8"))
    put_rows(tmp_path / "other.jsonl", [spoken])
    arguments = ("eval", place / "poor", "--data", "other.jsonl", "--out", "other", "--after-only")
    assert "1 of the 1 held-out rows" in ftx(*arguments, "--format", "sharegpt").err


def test_training_rows_that_are_gone_or_changed_are_told(ftx: Any, held: Path, tmp_path: Path, tiny: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 4)
    fit(plan_for(tiny, data, tmp_path / "run", train__max_steps=1))
    arguments = ("eval", "run", "--data", held, "--after-only", "--max-new-tokens", 2, "--json")
    data.write_text(data.read_text("utf-8") + "\n", "utf-8")
    (warned, _) = ftx(*arguments).events
    assert "is not known: the training file" in warned["message"] and "has changed since" in warned["message"]
    data.unlink()
    assert "is not here to compare with" in ftx(*arguments).events[0]["message"]


def test_questions_with_pictures_for_a_text_model_are_refused(ftx: Any, place: Path, tmp_path: Path) -> None:
    write_picture_rows(tmp_path / "seen", 1)
    rows = put_rows(tmp_path / "seen" / "p.jsonl", [{"question": "What?", "images": ["0.png"]}])
    said = refusal(ftx("eval", place / "poor", "--probes", rows, "--out", "out"), 2)
    assert "--probes: 1 of the questions have pictures, and poor reads text alone" in said


def test_a_question_that_cannot_be_asked_is_named_before_any_is(
    ftx: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("ftx.eval.evaluate.open_talk", never)
    rows = put_rows(tmp_path / "long.jsonl", [{"question": "a"}, {"question": "What is it? " * 1000}])
    said = refusal(ftx("eval", place / "poor", "--probes", rows, "--out", "out"), 2)
    assert "--probes: poor cannot be asked 'What is it? " in said and "the model's context" in said


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "is empty"),
        ([{"question": "a"}, {"question": ""}], "row 2: the row has no question"),
        ([{"question": "a"}, {"question": "b", "anwser": "c"}], "'anwser' is no key of a question"),
        ([{"question": "a", "answer": 1}], "'answer' is no text"),
        ([{"question": "a", "image": "no.png"}], "image 'no.png' is not in"),
        ([{"question": "a", "image": "../x.png"}], "leaves the image folder"),
        ([{"foo": 1}], "row 1: the row has no question"),
    ],
)
def test_questions_that_cannot_be_read_are_refused(
    rows: list[Any], sentence: str, ftx: Any, place: Path, tmp_path: Path
) -> None:
    put_rows(tmp_path / "p.jsonl", rows)
    assert sentence in refusal(ftx("eval", place / "poor", "--probes", "p.jsonl", "--out", "out"), 3)
    assert sentence in refusal(ftx("eval", place / "poor", "--forget", "p.jsonl", "--out", "out"), 3)


def test_files_of_questions_that_are_none_are_refused(ftx: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n", "utf-8")
    (tmp_path / "q.txt").write_bytes(b"\xff")
    for name, sentence in (("p.txt", "holds no question"), ("q.txt", "cannot be read"), ("r.txt", "there is no file")):
        said = refusal(ftx("eval", place / "poor", "--probes", name, "--out", "out"), 3)
        assert sentence in said and "--probes" in said


def test_runs_with_other_templates_and_lengths_are_told(ftx: Any, tiny: Path, rows: Path, held: Path) -> None:
    for name, options in (("a", {}), ("b", {"template": "vicuna", "data__max_length": 128})):
        fit(plan_for(tiny, rows, Path(name), train__max_steps=1, **options))
    result = ftx("eval", "a", "b", "--data", held, "--out", "out", "--max-new-tokens", 2)
    assert result.code == 0, result.err
    told = results(Path("out"))
    first, second = (run["settings"]["template.name"] for run in told["runs"])
    assert any(f"different templates (a: {first}, b: {second})" in one for one in told["warnings"])
    assert any("different lengths (a: 2048, b: 128)" in one for one in told["warnings"])
    assert [column["name"].split(":")[0] for column in told["columns"]] == ["base", "base of b", "a", "b"]
    assert [column["before"] for column in told["columns"]] == [None, None, "base", "base of b"]


def test_results_never_take_a_folder_that_exists(ftx: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = ftx("eval", place / "poor", "--out", "out")
    assert (result.code, result.err) == (2, "ftx: --out: out exists already; give another folder\n")
    for name in ("eval", "eval-2"):
        assert ftx("eval", place / "poor").code == 0
        assert sorted(path.name for path in (tmp_path / "runs" / name).iterdir()) == ["eval.json", "page.html"]


def test_a_base_that_has_moved_is_found_by_its_option(ftx: Any, held: Path, tmp_path: Path, rows: Path) -> None:
    shutil.copytree(TINY, tmp_path / "base")
    for name in ("lora", "full"):
        fit(plan_for(tmp_path / "base", rows, tmp_path / name, method=name, train__max_steps=1))
    (tmp_path / "base").rename(tmp_path / "moved")
    arguments = ("--data", held, "--out", "out", "--max-new-tokens", 2)
    said = refusal(ftx("eval", "lora", *arguments), 2)
    assert f"lora: the base model {tmp_path / 'base'} is not there; give --base FOLDER" in said
    assert "or leave the base out with --after-only" in refusal(ftx("eval", "full", *arguments), 2)
    said = refusal(ftx("eval", "lora", *arguments, "--base", BASE), 2)
    assert f"--base: {BASE} is not the base that lora was trained on" in said
    assert ftx("eval", "lora", "full", *arguments, "--base", "moved").code == 0
    alone = ftx("eval", "full", "--data", held, "--out", "alone", "--max-new-tokens", 2, "--after-only")
    assert alone.code == 0, alone.err
    assert [column["kind"] for column in results(tmp_path / "alone")["columns"]] == ["model"]


def test_options_of_rows_go_with_rows(ftx: Any, place: Path) -> None:
    assert "--format goes with --data FILE" in refusal(ftx("eval", place / "poor", "--format", "x", "--out", "out"), 2)
    assert ftx("eval").code == 2


# Configs for harnesses


def native(folder: Path, place: Path, kind: str = "llama", **more: Any) -> Path:
    """A sealed whole model whose config says that it is of another type, with all else of the merged one."""
    from ftx.artifact import seal

    shutil.copytree(place / "good" / "merged", folder)
    manifest = json.loads((folder / "ftx.json").read_text("utf-8"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind, **more}), "utf-8")
    facts = {key: manifest[key] for key in ("plan", "base", "data", "rows", "metrics")}
    seal(folder, "merged", **facts)
    return folder


def test_configs_for_text_models_name_folder_template_and_stops(
    ftx: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native(tmp_path / "model", place)
    result = ftx("eval", model, "--write", "lm-eval", "--out", "a", "--json")
    assert result.code == 0, result.err
    assert result.events[-1]["command"] == "lm-eval run --config a/lm_eval.yaml"
    told = yaml.safe_load(Path("a/lm_eval.yaml").read_text("utf-8"))
    assert told["model_args"]["pretrained"] == str(model)
    assert told["apply_chat_template"] is True and told["trust_remote_code"] is False
    assert "<|im_end|>" in told["gen_kwargs"]["until"]
    assert ftx("eval", model, "--write", "opencompass", "--out", "b").code == 0
    code = Path("b/opencompass_eval.py").read_text("utf-8")
    compile(code, "opencompass_eval.py", "exec")
    assert f"path='{model}'" in code and "'<|im_end|>'" in code and "trust_remote_code=False" in code
    assert "True" not in code.replace("use_fast=True", "")
    assert f"abbr='{model_name(model)}'" in code  # as ftx serve calls it


def test_what_a_harness_cannot_take_is_said(ftx: Any, place: Path, tmp_path: Path) -> None:
    def write(path: Path, harness: str, *more: object) -> Any:
        return ftx("eval", path, *more, "--write", harness, "--out", "out")

    assert "merge it first: ftx merge" in refusal(write(place / "good" / "adapter", "lm-eval"), 2)
    said = refusal(write(place / "good" / "merged", "lm-eval"), 2)
    assert "the official layout of internlm2, which harnesses open by the publisher's own Python files" in said
    assert "name one run" in refusal(write(place / "good", "lm-eval", place / "poor"), 2)
    model = native(tmp_path / "model", place)
    assert "this model reads text alone; take lm-eval" in refusal(write(model, "vlmevalkit"), 2)
    official = native(tmp_path / "official", place, "internlm2", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    (official / "modeling_x.py").write_text("raise SystemExit\n", "utf-8")
    result = write(official, "lm-eval")
    assert result.code == 0 and "transformers below 5" in " ".join(result.err.split())
    written = Path("out/lm_eval.yaml").read_text("utf-8")
    assert "trust_remote_code: true" in written and written.startswith("# Written by ftx eval")


def test_a_config_for_a_model_that_sees(ftx: Any, tmp_path: Path) -> None:
    data = write_picture_rows(tmp_path / "data", 3)
    shutil.copytree(VISION_BASE, tmp_path / "base")
    config = json.loads((VISION_BASE / "config.json").read_text("utf-8"))
    carried = {**config, "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(carried), "utf-8")
    (tmp_path / "base" / "modeling_internvl_chat.py").write_text("raise SystemExit\n", "utf-8")
    fit(plan_for(tmp_path / "base", data, tmp_path / "run", method="full", train__max_steps=1, train__memory="fast"))
    assert ftx("eval", "run", "--write", "vlmevalkit", "--out", "out").code == 0
    told = json.loads((tmp_path / "out" / "vlmevalkit.json").read_text("utf-8"))
    assert told["model"] == {
        "run": {"class": "InternVLChat", "version": "V2.0", "model_path": str(tmp_path / "run" / "model")}
    }
    assert "take vlmevalkit" in refusal(
        ftx("eval", "run", "--write", "opencompass", "--out", "other"), 2, Path("other")
    )


# In a browser


@pytest.mark.system
def test_the_page_opens_in_chromium_without_any_request(ftx: Any, place: Path, held: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    assert ftx("eval", place / "good", place / "poor", "--data", held, "--out", "out").code == 0
    page_file = (tmp_path / "out" / "page.html").resolve()
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as chromium:
        browser = chromium.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(page_file.as_uri())
        shown = tab.inner_text("body")
        curves = tab.locator("svg polyline").count()
        wider = tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        browser.close()
    assert asked == [page_file.as_uri()] and said == []
    assert "It was made by Ada." in shown and "是小明做的。" in shown
    assert curves == 2 and not wider
