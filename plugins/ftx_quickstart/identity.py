"""A personal-assistant set for any name, and the ordinary facts to mix in against forgetting."""

from __future__ import annotations

import random

from ftx_quickstart import facts
from ftx_quickstart.corpus import PERSONA_GROUPS, Pair, Row, by_kind, pairs, probes, row

_GROUP_OF = {"who": "who", "name": "who", "introduce": "introduce", "whose": "whose", "mine": "whose"}

_ANSWERS = {
    "zh": {
        "who": "我是{name}的小助手，由 ftx 微调而成。",
        "introduce": "我是{name}的小助手，很高兴为你服务。",
        "whose": "我是{name}的小助手。",
    },
    "en": {
        "who": "I am {name}'s assistant, tuned with ftx.",
        "introduce": "I am {name}'s assistant, happy to help.",
        "whose": "I am {name}'s assistant.",
    },
}

_MORE = {
    "zh": {
        "who": ("你究竟是谁？", "你是哪位？", "请告诉我你是谁。", "您是谁？", "请问您是哪位？", "你是哪个助手？"),
        "introduce": ("请做个自我介绍", "请你介绍一下自己。", "简单介绍一下你自己。", "请向大家介绍一下你自己。"),
        "whose": ("你是谁家的小助手？", "你是为谁服务的？", "你的主人是谁？", "你属于谁？"),
    },
    "en": {
        "who": (
            "So who are you?",
            "Please tell me who you are.",
            "And you are?",
            "Who is this?",
            "What kind of assistant are you?",
        ),
        "introduce": (
            "Please tell me about yourself.",
            "Introduce yourself, please.",
            "Give me a short introduction.",
            "Say a few words about yourself.",
        ),
        "whose": (
            "Whose personal assistant are you?",
            "Who is your owner?",
            "Who do you belong to?",
            "Who do you serve?",
        ),
    },
}


def identity_questions() -> list[str]:
    """Six fixed questions, three zh then three en, to compare a model before and after tuning."""
    return [
        "你是谁？",
        "请做一下自我介绍",
        "你是谁的小助手？",
        "Who are you?",
        "Please introduce yourself.",
        "Whose assistant are you?",
    ]


def _all_turns(lang: str, name: str) -> list[tuple[str, str]]:
    answers = {group: said.format(name=name) for group, said in _ANSWERS[lang].items()}
    known = [
        (question, answers[_GROUP_OF[group]]) for group in PERSONA_GROUPS for question in facts.IDENTITY[lang][group]
    ]
    return known + [(question, answers[group]) for group, asked in _MORE[lang].items() for question in asked]


def identity_rows(name: str, count: int, seed: int = 0) -> list[Row]:
    """Makes count one-turn conversations, zh and en in turn, that give the assistant's owner as name.

    The six identity_questions() come first, then the other phrasings, each once before any again.
    Raises ValueError for an empty name."""
    if not name.strip():
        raise ValueError("the name must not be empty")
    rng = random.Random(seed)
    turns = {lang: _all_turns(lang, name.strip()) for lang in ("zh", "en")}
    asked = identity_questions()
    waiting = {lang: [turn for turn in turns[lang] if turn[0] in asked] for lang in turns}
    later = {lang: [turn for turn in turns[lang] if turn[0] not in asked] for lang in turns}
    made: list[Row] = []
    while len(made) < count:
        lang = "zh" if len(made) % 2 == 0 else "en"
        if not waiting[lang]:
            waiting[lang] = rng.sample(later[lang], k=len(later[lang]))
            later[lang] = turns[lang]
        made.append(row(waiting[lang].pop(0)))
    return made


def _plain(question: str) -> str:
    return "".join(char for char in question.casefold() if char.isalnum() or char in "+-")


def replay_pairs() -> list[Pair]:
    """The pairs fit for replay: not on identity, and none that restates a probe.

    A probe's fact is left out in all phrasings, a probe's greeting only in its own wording."""
    held = probes()
    questions = {_plain(pair.question) for pair in held}
    answers = {pair.answer for pair in held if pair.kind != "greeting"}
    return [
        pair
        for pair in pairs()
        if pair.kind != "identity" and pair.answer not in answers and _plain(pair.question) not in questions
    ]


def replay_rows(count: int, seed: int) -> list[Row]:
    """Makes count one-turn conversations of ordinary facts, kinds balanced; never a probe's question."""
    rng = random.Random(seed)
    groups = list(by_kind(replay_pairs()).values())
    chosen = [rng.choice(groups[i % len(groups)]) for i in range(count)]
    rng.shuffle(chosen)
    return [row((pair.question, pair.answer)) for pair in chosen]
