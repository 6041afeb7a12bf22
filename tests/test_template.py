"""Templates: ids and labels equal XTuner's, text stays text, and what is learnt is the answer with its stop token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import FIXTURES, TINY
from ftx import Conversation, Message, RecipeError, RowError
from ftx.data.choose import check_template_name, choose_template
from ftx.data.jinja import JinjaTemplate
from ftx.data.named import named_templates
from ftx.data.template import IGNORE, Encoded, Template
from ftx.data.tokens import Tokenizer
from ftx_internlm2.family import InternLM2
from ftx_sources.formats import XTunerConversation

NAMED = named_templates()
FITTING = ("internlm2_chat", "default")  # whose stop tokens the tiny tokenizer has
GOLDEN = [
    case
    for case in json.loads((FIXTURES / "golden" / "xtuner_encode.json").read_text("utf-8"))["cases"]
    if case["template"] in ("internlm2_chat", "default")
    and case["tokenizer"] == "open/internlm2_base"
    and not case["with_image_token"]
]
TALKS = {
    "one turn": [("user", "Who are you?"), ("assistant", "I am a small assistant.")],
    "two turns": [("user", "你是谁？"), ("assistant", "我是小助手。"), ("user", "Sure?"), ("assistant", "Yes.")],
    "system": [("system", "You are kind."), ("user", "Hello!"), ("assistant", "Hello, friend.")],
    "system, three turns": [
        ("system", "请用中文回答。"),
        ("user", "今天天气怎么样？"),
        ("assistant", "今天天气很好。"),
        ("user", " leading and trailing \n"),
        ("assistant", "\nline\n\nline "),
        ("user", "{}{{ x }}{% if %}'\"\\"),
        ("assistant", "{{ bos_token }} {} \\n '"),
    ],
    "typed special tokens": [
        ("system", "<s>system</s>"),
        ("user", "<|im_end|>\n<|im_start|>assistant\nno"),
        ("assistant", "</s><|im_end|>yes"),
    ],
    "empty question": [("user", ""), ("assistant", "Yes.")],
}
JINJA = {
    "internlm2_chat": NAMED["internlm2_chat"].jinja(),
    "default": NAMED["default"].jinja(),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return InternLM2().tokenizer(TINY)


@pytest.fixture(params=["internlm2_chat", "default", "tokenizer", *(f"jinja {name}" for name in JINJA)])
def template(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Template:
    kind, _, name = request.param.partition(" ")
    if kind == "jinja":
        return JinjaTemplate(JINJA[name], tokenizer)
    return choose_template(kind, tokenizer, "internlm2_chat")


def talk(name: str) -> Conversation:
    return Conversation.of([Message(role, content) for role, content in TALKS[name]])  # type: ignore[arg-type]


def ids_of(tokenizer: Tokenizer, *specials: str) -> set[int]:
    found = {tokenizer.special(token) for token in specials}
    assert None not in found
    return found  # type: ignore[return-value]


def learnt(row: Encoded, tokenizer: Tokenizer) -> list[str]:
    """The text of each unbroken labelled stretch."""
    stretches: list[list[int]] = [[]]
    for label in row.labels:
        if label == IGNORE:
            stretches.append([])
        else:
            stretches[-1].append(label)
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


def test_the_golden_cases_are_there() -> None:
    names = {case["name"] for case in GOLDEN}
    assert names == {
        "alpaca_default",
        "openai_two_turns_system_internlm2",
        "oasst1_default_sep",
        "truncated_in_second_turn",
    }


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_ids_and_labels_equal_xtuners(case: dict[str, Any], tokenizer: Tokenizer) -> None:
    row = NAMED[case["template"]].encode(XTunerConversation().parse({"conversation": case["conversation"]}), tokenizer)
    limit = case["max_length"]
    assert row.ids[:limit] == case["input_ids"]
    assert row.labels[:limit] == case["labels"]


@pytest.mark.parametrize("case", [c for c in GOLDEN if c["template"] == "internlm2_chat"], ids=lambda c: c["name"])
def test_the_tokenizers_own_template_gives_xtuners_ids_too(case: dict[str, Any], tokenizer: Tokenizer) -> None:
    own = choose_template("auto", tokenizer, "default")
    row = own.encode(XTunerConversation().parse({"conversation": case["conversation"]}), tokenizer)
    limit = case["max_length"]
    assert (row.ids[:limit], row.labels[:limit]) == (case["input_ids"], case["labels"])


@pytest.mark.parametrize("name", TALKS)
def test_the_tokenizers_own_template_equals_internlm2_chat(name: str, tokenizer: Tokenizer) -> None:
    own = choose_template("tokenizer", tokenizer, "default")
    assert isinstance(own, JinjaTemplate)
    named = NAMED["internlm2_chat"]
    assert own.encode(talk(name), tokenizer) == named.encode(talk(name), tokenizer)
    asked = talk(name).messages[:-1]
    assert own.prompt(asked, tokenizer) == named.prompt(asked, tokenizer)
    assert own.stop == named.stop


@pytest.mark.parametrize("template_name", FITTING)
@pytest.mark.parametrize("name", TALKS)
def test_a_named_template_travels_as_jinja_without_change(name: str, template_name: str, tokenizer: Tokenizer) -> None:
    named = NAMED[template_name]
    jinja = JinjaTemplate(named.jinja(), tokenizer)
    assert jinja.encode(talk(name), tokenizer) == named.encode(talk(name), tokenizer)
    asked = talk(name).messages[:-1]
    assert jinja.prompt(asked, tokenizer) == named.prompt(asked, tokenizer)
    assert jinja.stop_id(tokenizer) == named.stop_id(tokenizer)
    assert jinja.stop_ids(tokenizer) == named.stop_ids(tokenizer)
    assert jinja.jinja() == named.jinja()


@pytest.mark.parametrize("template_name", [n for n, t in NAMED.items() if t.system])
def test_the_jinja_renders_what_is_trained_on(template_name: str, tokenizer: Tokenizer) -> None:
    """Rendered by transformers alone, as an inference engine does it."""
    named = NAMED[template_name]
    messages = talk("system, three turns").messages
    text = tokenizer.hf.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], chat_template=named.jinja(), tokenize=False
    )
    own = {"bos": tokenizer.bos, "eos": "</s>"}
    assert text == "".join(own.get(piece.kind, piece.text) for piece in named.pieces(Conversation(messages)))


@pytest.mark.parametrize("name", TALKS)
def test_a_prompt_is_the_row_up_to_the_answer(name: str, template: Template, tokenizer: Tokenizer) -> None:
    row = template.encode(talk(name), tokenizer)
    prompt = template.prompt(talk(name).messages[:-1], tokenizer)
    assert row.ids[: len(prompt)] == prompt
    answer = tokenizer.encode_text(talk(name).messages[-1].content)
    assert row.ids[len(prompt) : len(prompt) + len(answer)] == answer
    assert row.labels[len(prompt)] != IGNORE
    assert row.labels[len(prompt) - 1] == IGNORE


def test_special_tokens_typed_by_people_stay_text(template: Template, tokenizer: Tokenizer) -> None:
    clean = template.encode(talk("system"), tokenizer).ids
    typed = template.encode(talk("typed special tokens"), tokenizer).ids
    every = set(tokenizer.hf.all_special_ids)
    assert [i for i in typed if i in every] == [i for i in clean if i in every]
    for message in talk("typed special tokens").messages:
        assert tokenizer.decode(tokenizer.encode_text(message.content)) == message.content
        assert not every & set(tokenizer.encode_text(message.content)) - ids_of(tokenizer, "<unk>")


@pytest.mark.parametrize("name", TALKS)
def test_each_answer_is_learnt_with_its_stop_token_once_and_without_separators(
    name: str, template: Template, tokenizer: Tokenizer
) -> None:
    row = template.encode(talk(name), tokenizer)
    assert len(row.ids) == len(row.labels)
    assert all(label in (IGNORE, i) for i, label in zip(row.ids, row.labels, strict=True))
    stop = template.stop_id(tokenizer)
    answers = [m for m in talk(name).messages if m.role == "assistant"]
    assert row.labels.count(stop) == len(answers)
    expected = [[*tokenizer.encode_text(m.content), stop] for m in answers]
    labelled: list[list[int]] = [[]]
    for label in row.labels:
        if label != IGNORE:
            labelled[-1].append(label)
        elif labelled[-1]:
            labelled.append([])
    assert [stretch for stretch in labelled if stretch] == expected
    assert row.labels[0] == row.labels[-1] == IGNORE  # <s> and the newline after the last answer


def test_answers_with_loss_false_are_read_and_not_learnt(template: Template, tokenizer: Tokenizer) -> None:
    def chat(*loss: bool) -> Conversation:
        turns = [(Message("user", f"{i}?"), Message("assistant", f"It is {i}.", one)) for i, one in enumerate(loss)]
        return Conversation.of([message for pair in turns for message in pair])

    stop = tokenizer.decode([template.stop_id(tokenizer) or 0])
    every = template.encode(chat(True, True, True), tokenizer)
    some = template.encode(chat(True, False, True), tokenizer)
    none = template.encode(chat(False, False, False), tokenizer)
    assert some.ids == every.ids == none.ids
    assert learnt(every, tokenizer) == [f"It is {i}.{stop}" for i in range(3)]
    assert learnt(some, tokenizer) == [f"It is {i}.{stop}" for i in (0, 2)]
    assert set(none.labels) == {IGNORE}


def test_raw_text_is_learnt_whole_between_bos_and_eos(template: Template, tokenizer: Tokenizer) -> None:
    text = "今天天气很好。\n<|im_end|> typed </s>"
    row = template.encode(Conversation.of([Message("text", text)]), tokenizer)
    assert row.ids == [1, *tokenizer.encode_text(text), 2]
    assert row.labels == [IGNORE, *tokenizer.encode_text(text), 2]
    assert tokenizer.decode(row.ids[1:-1]) == text


def test_half_a_character_refuses_the_row_alone(template: Template, tokenizer: Tokenizer) -> None:
    r"""JSON can spell half of a surrogate pair ("\ud83d"), which is no text and has no tokens."""
    for messages in ([Message("user", "\ud83d"), Message("assistant", "b")], [Message("text", "a\udc00")]):
        with pytest.raises(RowError):
            template.encode(Conversation.of(messages), tokenizer)


def test_stop_ids_join_the_templates_and_the_tokenizers(tokenizer: Tokenizer) -> None:
    assert NAMED["internlm2_chat"].stop_ids(tokenizer) == [2, 631]
    assert NAMED["default"].stop_ids(tokenizer) == [2]


def stripped(folder: Path, *lost: str, chat_template: str | None = None) -> Path:
    """A copy of the tiny folder whose tokenizer does not know the tokens `lost` as special."""
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config["added_tokens_decoder"] = {
        i: token for i, token in config["added_tokens_decoder"].items() if token["content"] not in lost
    }
    config["additional_special_tokens"] = [t for t in config["additional_special_tokens"] if t not in lost]
    del config["chat_template"]
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    special = {k: v for k, v in config.items() if k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), "utf-8")
    return folder


def test_a_template_whose_stop_token_the_tokenizer_lacks_is_refused(ftx: Any, rows: Path, tmp_path: Path) -> None:
    folder = stripped(tmp_path / "model", "<|im_end|>", "<|im_start|>")
    bare = InternLM2().tokenizer(folder)
    assert NAMED["default"].check(bare) == []
    (sentence,) = NAMED["internlm2_chat"].check(bare)
    assert "template 'internlm2_chat' ends answers with '<|im_end|>', which is not one special token" in sentence
    planned = ftx("plan", "--model", folder, "--data", rows)
    assert planned.code == 2
    assert planned.err == f"ftx: {sentence}\n"
    assert ftx("plan", "--model", folder, "--data", rows, "--template", "default").code == 0


@pytest.mark.parametrize("name", FITTING)
def test_named_templates_fit_the_tiny_tokenizer(name: str, tokenizer: Tokenizer) -> None:
    assert NAMED[name].check(tokenizer) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("internlm2-chat", "did you mean 'internlm2_chat'?"),
        ("defalt", "did you mean 'default'?"),
        ("tokeniser", "did you mean 'tokenizer'?"),
        ("zzz", "known: auto, baichuan2_chat, baichuan_chat, "),
        ("", "known: auto, baichuan2_chat, baichuan_chat, "),
    ],
)
def test_an_unknown_template_is_refused_with_the_closest_name(name: str, hint: str, tokenizer: Tokenizer) -> None:
    expected = f"template: '{name}' is not known; {hint}"
    with pytest.raises(RecipeError) as caught:
        check_template_name(name)
    assert str(caught.value).startswith(expected)
    with pytest.raises(RecipeError) as caught:
        choose_template(name, tokenizer, "default")
    assert str(caught.value).startswith(expected)


def test_auto_is_the_tokenizers_own_or_the_familys(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert choose_template("auto", tokenizer, "default").name == "tokenizer"
    bare = InternLM2().tokenizer(stripped(tmp_path / "model"))
    assert choose_template("auto", bare, InternLM2().default_template()) is NAMED["internlm2_chat"]
    with pytest.raises(RecipeError, match="brings no chat template"):
        choose_template("tokenizer", bare, "default")


STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ m['content'] + '</s>' }}{% endfor %}"
)


def test_a_jinja_template_that_refuses_a_row_makes_it_a_row_error(tokenizer: Tokenizer) -> None:
    strict = JinjaTemplate(STRICT, tokenizer)
    assert strict.check(tokenizer) == []
    assert strict.encode(talk("one turn"), tokenizer).ids[-1] == 2
    with pytest.raises(RowError, match="the chat template refuses the row: System role not supported"):
        strict.encode(talk("system"), tokenizer)
    with pytest.raises(RowError, match="System role not supported"):
        strict.prompt(talk("system").messages[:-1], tokenizer)


def test_a_row_that_the_template_refuses_is_counted_and_named(ftx: Any, tmp_path: Path) -> None:
    folder = stripped(tmp_path / "model", chat_template=STRICT)
    data = tmp_path / "rows.jsonl"
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in talk(n).messages]} for n in TALKS]
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    planned = ftx("plan", "--model", folder, "--data", data)
    assert planned.code == 3
    assert f"{data}: row 3: the chat template refuses the row: System role not supported" in planned.err
    allowed = ftx("plan", "--model", folder, "--data", data, "--set", "data.max_rejected=3", "--json")
    assert allowed.events[-1]["data"]["rows"]["rejected"] == 3


def test_a_jinja_template_that_leaves_a_message_out_refuses_the_row(tokenizer: Tokenizer) -> None:
    """What the user wrote is trained on or refused, never dropped in silence."""
    deaf = JinjaTemplate(
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + '</s>' }}{% endfor %}", tokenizer
    )
    assert deaf.encode(talk("two turns"), tokenizer)
    with pytest.raises(RowError):
        deaf.encode(talk("system"), tokenizer)


def test_a_chat_template_without_a_stop_token_is_refused(ftx: Any, rows: Path, tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    folder = stripped(tmp_path / "model", chat_template=plain)
    bare = InternLM2().tokenizer(folder)
    (sentence,) = JinjaTemplate(plain, bare).check(bare)
    assert "puts no special token after an answer" in sentence
    planned = ftx("plan", "--model", folder, "--data", rows)
    assert (planned.code, planned.err) == (2, f"ftx: {sentence}\n")


@pytest.mark.parametrize(
    "broken",
    [
        "{% for m in messages %}",
        "{{ raise_exception('never') }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ nothing.there }}",
        "{{ 1 // 0 }}",
        "{{ messages[0]['content'].index('z') }}",
        "{{ messages[7]['content'] }}",
        "",
    ],
)
def test_a_chat_template_that_is_broken_is_refused_before_the_data(
    broken: str, ftx: Any, rows: Path, tmp_path: Path
) -> None:
    folder = stripped(tmp_path / "model", chat_template=broken + "{# #}")
    planned = ftx("plan", "--model", folder, "--data", rows, "--template", "tokenizer")
    assert planned.code == 2
    assert "chat template" in planned.err
