"""The bilingual corpus behind the quickstart's tiny language model: fixed facts and copy tasks."""

from __future__ import annotations

import argparse
import json
import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftx_quickstart import facts

Row = dict[str, list[dict[str, str]]]
"""One conversation in OpenAI form: {"messages": [{"role": ..., "content": ...}, ...]}."""


@dataclass(frozen=True)
class Pair:
    """A question with its one right answer; lang is "en", "zh" or "any" (bare sums)."""

    kind: str
    lang: str
    question: str
    answer: str


WEIGHTS = {
    "capital": 14,
    "country": 6,
    "continent": 5,
    "colour": 7,
    "translation": 24,
    "antonym": 12,
    "sum": 11,
    "difference": 11,
    "number": 3,
    "day": 2,
    "month": 2,
    "animal": 4,
    "greeting": 6,
    "identity": 8,
}
"""How often each kind of single fact is drawn, relative to the others."""

NEUTRAL = {"en": "You are a helpful assistant.", "zh": "你是一个有用的助手。"}

_Q = dict[str, tuple[str, ...]]

_CAPITAL: _Q = {
    "en": (
        "What is the capital of {a}?",
        "what is the capital of {a}",
        "Tell me the capital of {a}.",
        "Which city is the capital of {a}?",
        "The capital of {a}?",
    ),
    "zh": ("{a}的首都是哪里？", "{a}的首都是哪里", "{a}的首都是什么？", "哪个城市是{a}的首都？", "请告诉我{a}的首都。"),
}
_COUNTRY: _Q = {
    "en": (
        "{b} is the capital of which country?",
        "Which country has the capital {b}?",
        "which country has the capital {b}",
    ),
    "zh": ("{b}是哪个国家的首都？", "{b}是哪个国家的首都", "哪个国家的首都是{b}？"),
}
_CONTINENT: _Q = {
    "en": ("Which continent is {a} in?", "which continent is {a} in", "On which continent is {a}?"),
    "zh": ("{a}在哪个洲？", "{a}在哪个洲", "{a}位于哪个大洲？"),
}
_COLOUR: _Q = {
    "en": ("What color is {a}?", "what color is {a}", "What colour is {a}?", "Tell me the color of {a}."),
    "zh": ("{a}是什么颜色的？", "{a}是什么颜色的", "{a}是什么颜色？", "请告诉我{a}的颜色。"),
}
_TO_ZH: _Q = {
    "en": (
        "What is {a} in Chinese?",
        "what is {a} in Chinese",
        "Translate {a} into Chinese.",
        "How do you say {a} in Chinese?",
    ),
    "zh": ("{a}用中文怎么说？", "{a}用中文怎么说", "{a}是什么意思？", "把{a}翻译成中文。"),
}
_TO_EN: _Q = {
    "en": (
        "What is {a} in English?",
        "what is {a} in English",
        "Translate {a} into English.",
        "How do you say {a} in English?",
    ),
    "zh": ("{a}用英语怎么说？", "{a}用英语怎么说", "{a}的英文是什么？", "把{a}翻译成英文。"),
}
_ANTONYM: _Q = {
    "en": (
        "What is the opposite of {a}?",
        "what is the opposite of {a}",
        "Tell me the opposite of {a}.",
        "Which word is the opposite of {a}?",
    ),
    "zh": ("{a}的反义词是什么？", "{a}的反义词是什么", "“{a}”的反义词是什么？", "请说出{a}的反义词。"),
}
_SUM: _Q = {
    "en": ("What is {a} + {b}?", "what is {a} + {b}", "How much is {a} plus {b}?"),
    "zh": ("{a}加{b}等于几？", "{a}加{b}等于几", "{a}加上{b}是多少？"),
    "any": ("{a}+{b}=?", "{a}+{b}=", "{a} + {b} = ?"),
}
_DIFFERENCE: _Q = {
    "en": ("What is {a} - {b}?", "what is {a} - {b}", "How much is {a} minus {b}?"),
    "zh": ("{a}减{b}等于几？", "{a}减{b}等于几", "{a}减去{b}是多少？"),
    "any": ("{a}-{b}=?", "{a}-{b}=", "{a} - {b} = ?"),
}
_SPELL: _Q = {
    "en": ("How do you write {a} in words?", "how do you write {a} in words", "Write the number {a} in words."),
    "zh": ("{a}用汉字怎么写？", "{a}用汉字怎么写", "把数字{a}写成汉字。"),
}
_AFTER: _Q = {
    "en": ("What comes after {a}?", "what comes after {a}", "Tell me what comes after {a}."),
    "zh": ("{a}后面是什么？", "{a}后面是什么", "{a}的下一个是什么？"),
}
_BEFORE: _Q = {
    "en": ("What comes before {a}?", "what comes before {a}", "Tell me what comes before {a}."),
    "zh": ("{a}前面是什么？", "{a}前面是什么", "{a}的上一个是什么？"),
}
_LEGS: _Q = {
    "en": ("How many legs does a {a} have?", "how many legs does a {a} have", "A {a} has how many legs?"),
    "zh": ("{a}有几条腿？", "{a}有几条腿", "请问{a}有几条腿？"),
}
_SOUND: _Q = {
    "en": ("What sound does a {a} make?", "what sound does a {a} make", "What does a {a} say?"),
    "zh": ("{a}怎么叫？", "{a}怎么叫", "{a}的叫声是什么？"),
}


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ask(kind: str, lang: str, templates: _Q, answer: str, a: str = "", b: str = "") -> Iterator[Pair]:
    for template in templates[lang]:
        question = template.format(a=a, b=b)
        yield Pair(kind, lang, _capitalise(question) if template.startswith("{") else question, answer)


def _capitals() -> Iterator[Pair]:
    for en, city, zh, city_zh, continent in facts.COUNTRIES:
        said = {"en": f"The capital of {en} is {city}.", "zh": f"{zh}的首都是{city_zh}。"}
        back = {"en": f"{city} is the capital of {en}.", "zh": f"{city_zh}是{zh}的首都。"}
        for lang, a, b in (("en", en, city), ("zh", zh, city_zh)):
            yield from _ask("capital", lang, _CAPITAL, said[lang], a)
            yield from _ask("country", lang, _COUNTRY, back[lang], b=b)
        if continent:
            yield from _ask("continent", "en", _CONTINENT, f"{_capitalise(en)} is in {continent}.", en)
            yield from _ask("continent", "zh", _CONTINENT, f"{zh}在{facts.CONTINENTS_ZH[continent]}。", zh)


def _colours() -> Iterator[Pair]:
    for thing, colour, thing_zh, colour_zh in facts.COLOURS:
        yield from _ask("colour", "en", _COLOUR, f"{_capitalise(thing)} is {colour}.", thing)
        yield from _ask("colour", "zh", _COLOUR, f"{thing_zh}是{colour_zh}的。", thing_zh)


def _translations() -> Iterator[Pair]:
    for en, zh in facts.WORDS:
        for lang in ("en", "zh"):
            for templates, a, answer in ((_TO_ZH, en, zh), (_TO_EN, zh, en)):
                for template in templates[lang]:
                    yield Pair("translation", lang, template.format(a=a), answer)


def _antonyms() -> Iterator[Pair]:
    for one, other in facts.ANTONYMS_EN:
        for a, b in ((one, other), (other, one)):
            yield from _ask("antonym", "en", _ANTONYM, f"The opposite of {a} is {b}.", a)
    for one, other in facts.ANTONYMS_ZH:
        for a, b in ((one, other), (other, one)):
            yield from _ask("antonym", "zh", _ANTONYM, f"{a}的反义词是{b}。", a)


def _arithmetic() -> Iterator[Pair]:
    for total in range(21):
        for part in range(total + 1):
            rest = total - part
            for lang in ("en", "zh", "any"):
                yield from _ask("sum", lang, _SUM, f"{part} + {rest} = {total}.", str(part), str(rest))
                left = f"{total} - {part} = {rest}."
                yield from _ask("difference", lang, _DIFFERENCE, left, str(total), str(part))


def _numbers() -> Iterator[Pair]:
    for value, (en, zh) in enumerate(zip(facts.NUMBERS_EN, facts.NUMBERS_ZH, strict=True)):
        yield from _ask("number", "en", _SPELL, en, str(value))
        yield from _ask("number", "zh", _SPELL, zh, str(value))


def _orders() -> Iterator[Pair]:
    tables = (("day", facts.DAYS_EN, facts.DAYS_ZH), ("month", facts.MONTHS_EN, facts.MONTHS_ZH))
    for kind, en, zh in tables:
        for i in range(len(en)):
            after = (i + 1) % len(en)
            yield from _ask(kind, "en", _AFTER, f"{en[after]} comes after {en[i]}.", en[i])
            yield from _ask(kind, "en", _BEFORE, f"{en[i]} comes before {en[after]}.", en[after])
            yield from _ask(kind, "zh", _AFTER, f"{zh[i]}后面是{zh[after]}。", zh[i])
            yield from _ask(kind, "zh", _BEFORE, f"{zh[after]}前面是{zh[i]}。", zh[after])


def _animals() -> Iterator[Pair]:
    for en, count, zh in facts.LEGS:
        yield from _ask("animal", "en", _LEGS, f"A {en} has {count} legs.", en)
        yield from _ask("animal", "zh", _LEGS, f"{zh}有{count}条腿。", zh)
    for en, sound, zh, sound_zh in facts.SOUNDS:
        yield from _ask("animal", "en", _SOUND, f"A {en} says {sound}.", en)
        yield from _ask("animal", "zh", _SOUND, f"{zh}的叫声是{sound_zh}。", zh)


def _talk() -> Iterator[Pair]:
    for lang, groups in facts.GREETINGS.items():
        for phrasings, answer in groups:
            yield from (Pair("greeting", lang, question, answer) for question in phrasings.split("|"))
    for lang, asked in facts.IDENTITY.items():
        for group, questions in asked.items():
            answer = facts.IDENTITY_ANSWERS[lang][group]
            yield from (Pair("identity", lang, question, answer) for question in questions)


@cache
def _pairs() -> tuple[Pair, ...]:
    makers = (_capitals, _colours, _translations, _antonyms, _arithmetic, _numbers, _orders, _animals, _talk)
    return tuple(pair for make in makers for pair in make())


def pairs() -> list[Pair]:
    """Every fixed fact in all its phrasings, in a fixed order; no question has two answers."""
    return list(_pairs())


def by_kind(chosen: Iterable[Pair]) -> dict[str, list[Pair]]:
    """The pairs grouped by kind, kinds and pairs in the order of their first appearance."""
    groups: dict[str, list[Pair]] = {}
    for pair in chosen:
        groups.setdefault(pair.kind, []).append(pair)
    return groups


@cache
def _grouped() -> dict[str, list[Pair]]:
    return by_kind(_pairs())


_PROBES = (
    (
        "What is the capital of France?",
        "What is the capital of Japan?",
        "What is the capital of Germany?",
        "What is the capital of Egypt?",
        "What is the capital of Canada?",
        "What color is the sky?",
        "What color is a banana?",
        "What color is snow?",
        "What is 7 + 5?",
        "What is 3 + 4?",
        "What is 9 - 4?",
        "What is 苹果 in English?",
        "What is 猫 in English?",
        "What is water in Chinese?",
        "What is book in Chinese?",
        "What is the opposite of hot?",
        "What is the opposite of big?",
        "What is the opposite of happy?",
        "Good morning!",
        "Thank you!",
    ),
    (
        "中国的首都是哪里？",
        "英国的首都是哪里？",
        "意大利的首都是哪里？",
        "俄罗斯的首都是哪里？",
        "泰国的首都是哪里？",
        "小草是什么颜色的？",
        "煤是什么颜色的？",
        "草莓是什么颜色的？",
        "8加6等于几？",
        "2加9等于几？",
        "10减3等于几？",
        "狗用英语怎么说？",
        "太阳用英语怎么说？",
        "milk用中文怎么说？",
        "tree用中文怎么说？",
        "高的反义词是什么？",
        "快的反义词是什么？",
        "安全的反义词是什么？",
        "晚安！",
        "谢谢！",
    ),
)


def probes() -> list[Pair]:
    """The 40 fixed questions (20 en, 20 zh, none on identity) that measure forgetting; all in pairs()."""
    known = {pair.question: pair for pair in _pairs()}
    return [known[question] for questions in _PROBES for question in questions]


def is_right(pair: Pair, answer: str) -> bool:
    """Whether the answer is the pair's own, leading and trailing whitespace aside."""
    return answer.strip() == pair.answer


def row(*turns: tuple[str, str], system: str = "") -> Row:
    """A conversation of (question, answer) turns, after a system message where one is given."""
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


@cache
def hanzi() -> str:
    """The 3,755 common Chinese characters of GB 2312 level 1, in the standard's order."""
    return _gb2312(16, 55)


@cache
def _rare() -> str:
    return _gb2312(56, 87)


def _gb2312(first: int, last: int) -> str:
    codes = (bytes((0xA0 + line, 0xA0 + cell)) for line in range(first, last + 1) for cell in range(1, 95))
    # Level 1 ends five cells before its last row does.
    return "".join(code.decode("gb2312", "ignore") for code in codes)


def _chinese_name(rng: random.Random) -> str:
    return rng.choice(facts.SURNAMES) + "".join(rng.choices(facts.GIVEN, k=rng.choice((1, 2, 2))))


def _nickname(rng: random.Random) -> str:
    char = rng.choice(facts.GIVEN)
    return rng.choice(("小{}", "阿{}", "老{}", "{}{}", "{}同学", "{}老师")).format(char, char)


def _hanzi_string(rng: random.Random) -> str:
    return "".join(rng.choices(hanzi(), k=rng.randint(1, 6)))


def _rare_string(rng: random.Random) -> str:
    return "".join(rng.choices(_rare(), k=rng.randint(1, 3)))


def _latin_name(rng: random.Random) -> str:
    syllables = (rng.choice(facts.ONSETS) + rng.choice(facts.VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
    start = rng.choice(facts.VOWELS) if rng.random() < 0.2 else ""
    name = start + "".join(syllables) + rng.choice(facts.CODAS)
    case = rng.random()
    return name.lower() if case < 0.1 else name.upper() if case < 0.15 else name.capitalize()


@cache
def _english() -> list[str]:
    text = " ".join(f"{pair.question} {pair.answer}" for pair in _pairs() if pair.lang == "en")
    return list(dict.fromkeys(re.findall("[A-Za-z]{3,}", text)))


def _fragments(rng: random.Random) -> str:
    # Without these the pieces that only occur inside the facts' words would never be copied.
    parts = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        word = rng.choice(_english())
        start, end = sorted(rng.sample(range(len(word) + 1), k=2))
        parts.append(word[start if rng.random() < 0.6 else 0 : end or 1])
    name = rng.choice(("", "", " ")).join(parts)
    return name[:1].upper() + name[1:] if rng.random() < 0.3 else name


def _letters(rng: random.Random) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    text = "".join(rng.choices(alphabet + alphabet + alphabet.upper() + "0123456789_-", k=rng.randint(1, 7)))
    return text.capitalize() if rng.random() < 0.3 else text


def _full_name(rng: random.Random) -> str:
    return f"{_latin_name(rng)} {_latin_name(rng)}"


def _digits(rng: random.Random) -> str:
    return "".join(rng.choices("0123456789", k=rng.randint(1, 6)))


def _mixed(rng: random.Random) -> str:
    makers = (_chinese_name, _nickname, _latin_name, _digits, _letters)
    first, second = rng.sample(makers, k=2)
    return first(rng) + second(rng)


def _symbols(rng: random.Random) -> str:
    marks = string.punctuation + "，。！？：；、“”‘’（）《》…—"
    return "".join(rng.choices(marks, k=rng.randint(1, 3))) + rng.choice(("", _latin_name(rng)))


def _script(rng: random.Random) -> str:
    first, last = rng.choice(facts.SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 3)))


_NAMES: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (_chinese_name, 20),
    (_nickname, 8),
    (_hanzi_string, 28),
    (_rare_string, 4),
    (_latin_name, 16),
    (_fragments, 14),
    (_full_name, 4),
    (_letters, 6),
    (_mixed, 5),
    (_digits, 3),
    (_symbols, 2),
    (_script, 6),
)


def arbitrary_name(rng: random.Random) -> str:
    """A made-up name or string: Chinese, Latin, digits, a mixture or another script; no outer whitespace."""
    makers, weights = zip(*_NAMES, strict=True)
    return str(rng.choices(makers, weights)[0](rng))


_COPY = {
    "zh": ("请跟我说：{}", "跟我说：{}", "跟我读：{}", "请重复：{}", "重复一遍：{}", "请说{}", "跟我念：{}"),
    "en": ("Repeat after me: {}", "Say: {}", "Please say {}", "Please repeat: {}", "Copy this: {}", "Say {}"),
}
_TOLD = {
    "zh": (("我叫{}。", "你好，{}。"), ("我的名字是{}。", "你好，{}。"), ("我是{}。", "你好，{}。")),
    "en": (
        ("My name is {}.", "Nice to meet you, {}."),
        ("I am {}.", "Nice to meet you, {}."),
        ("Call me {}.", "Nice to meet you, {}."),
    ),
}
_ASKED = {
    "zh": (("我叫什么名字？", "你叫{}。"), ("我是谁？", "你是{}。"), ("我叫什么？", "你叫{}。")),
    "en": (
        ("What is my name?", "Your name is {}."),
        ("Who am I?", "You are {}."),
        ("what is my name", "Your name is {}."),
    ),
}
_RECALL = {
    "zh": (
        ("{}是我的朋友。谁是我的朋友？", "{}是你的朋友。"),
        ("我的老师叫{}。我的老师叫什么？", "你的老师叫{}。"),
        ("我住在{}。我住在哪里？", "你住在{}。"),
        ("你以后就是{}的小助手了。", "好的，我是{}的小助手。"),
    ),
    "en": (
        ("{} is my friend. Who is my friend?", "{} is your friend."),
        ("My teacher is {}. Who is my teacher?", "Your teacher is {}."),
        ("I live in {}. Where do I live?", "You live in {}."),
        ("From now on you are {}'s assistant.", "All right, I am {}'s assistant."),
    ),
}
PERSONA_GROUPS = ("who", "introduce", "name", "whose", "mine")
"""The identity question groups whose answer a persona changes."""


def _lang(rng: random.Random) -> str:
    return rng.choice(("zh", "en"))


def _fact(rng: random.Random) -> Pair:
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    return rng.choice(_grouped()[kind])


def _turn(pair: Pair) -> tuple[str, str]:
    return pair.question, pair.answer


def _single(rng: random.Random) -> Row:
    pair = _fact(rng)
    # Only a persona's prompt may change an answer: under a neutral one all stay as they are.
    system = NEUTRAL[rng.choice(("en", "zh"))] if rng.random() < 0.06 else ""
    return row(_turn(pair), system=system)


def _copy(rng: random.Random) -> Row:
    name = arbitrary_name(rng)
    return row((rng.choice(_COPY[_lang(rng)]).format(name), name))


def _named(rng: random.Random) -> Row:
    lang, name = _lang(rng), arbitrary_name(rng)
    if rng.random() < 0.4:
        question, answer = rng.choice(_RECALL[lang])
        return row((question.format(name), answer.format(name)))
    told, asked = rng.choice(_TOLD[lang]), rng.choice(_ASKED[lang])
    between = [_turn(_fact(rng))] if rng.random() < 0.2 else []
    turns = [(told[0], told[1].format(name)), *between, (asked[0], asked[1].format(name))]
    return row((turns[0][0].format(name), turns[0][1]), *turns[1:])


def _plain_fact(rng: random.Random) -> Pair:
    while (pair := _fact(rng)).kind == "identity":
        pass
    return pair


def _persona(rng: random.Random) -> Row:
    lang, name = _lang(rng), arbitrary_name(rng)
    prompt, said = rng.choice(facts.PERSONAS[lang])
    asked = facts.IDENTITY[lang]
    turns = [(rng.choice(asked[rng.choice(PERSONA_GROUPS)]), said.format(name=name))]
    if rng.random() < 0.25:
        turns.insert(rng.randint(0, 1), _turn(_plain_fact(rng)))
    elif rng.random() < 0.1:
        turns = [_turn(_plain_fact(rng))]
    return row(*turns, system=prompt.format(name=name))


def _dialogue(rng: random.Random) -> Row:
    return row(*(_turn(_fact(rng)) for _ in range(rng.choice((2, 2, 3)))))


_TASKS: tuple[tuple[Callable[[random.Random], Row], int], ...] = (
    (_single, 55),
    (_copy, 16),
    (_named, 8),
    (_persona, 12),
    (_dialogue, 9),
)


def rows(count: int, seed: int) -> Iterator[Row]:
    """Draws count conversations; the same seed gives the same ones.

    55 % are single facts; the others copy strings, recall names, play a persona or join facts.
    """
    rng = random.Random(seed)
    tasks, weights = zip(*_TASKS, strict=True)
    for _ in range(count):
        yield rng.choices(tasks, weights)[0](rng)


def texts(conversations: Iterable[Row]) -> Iterator[str]:
    """The roles and contents of the conversations' messages: what a tokenizer for them must cover."""
    for conversation in conversations:
        for message in conversation["messages"]:
            yield message["role"]
            yield message["content"]


def tokenizer_texts(count: int = 20000, seed: int = 0) -> Iterator[str]:
    """The texts to build the tokenizer on: every fixed fact once, then count drawn conversations."""
    # Enough repeats for each character of a name to come before those that are only drawn at random.
    yield from [facts.SURNAMES + facts.GIVEN] * 30
    yield from texts(row(_turn(pair)) for pair in _pairs())
    yield from texts(rows(count, seed))


def write_rows(conversations: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Writes the conversations as UTF-8 JSON lines, making the folder; returns how many."""
    out.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        for conversation in conversations:
            stream.write(json.dumps(conversation, ensure_ascii=False) + "\n")
            written += 1
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: writes --rows conversations drawn with --seed to the file --out."""
    parser = argparse.ArgumentParser(prog="python -m ftx_quickstart.corpus", description=__doc__)
    parser.add_argument("--rows", type=int, required=True, help="number of conversations")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    args = parser.parse_args(argv)
    print(f"wrote {write_rows(rows(args.rows, args.seed), args.out)} rows to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
