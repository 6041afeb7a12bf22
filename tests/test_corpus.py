"""The quickstart's corpus, its identity set and its tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ftx_quickstart import corpus, facts, identity, tokenizer

VOCAB = 640


def _questions(conversations: list[corpus.Row]) -> list[str]:
    return [
        message["content"]
        for conversation in conversations
        for message in conversation["messages"]
        if message["role"] == "user"
    ]


def test_every_question_has_one_answer() -> None:
    asked = Counter(pair.question for pair in corpus.pairs())
    assert [question for question, times in asked.items() if times > 1] == []


def test_the_tables_are_one_to_one() -> None:
    for column in (0, 1):
        assert len({word[column] for word in facts.WORDS}) == len(facts.WORDS) >= 250
    for column in range(4):
        assert len({country[column] for country in facts.COUNTRIES}) == len(facts.COUNTRIES) >= 60
    for antonyms in (facts.ANTONYMS_EN, facts.ANTONYMS_ZH):
        assert len({word for pair in antonyms for word in pair}) == 2 * len(antonyms) >= 80
    assert len(facts.COLOURS) >= 25


def test_every_kind_is_weighted_and_answers_are_trimmed() -> None:
    assert set(corpus.by_kind(corpus.pairs())) == set(corpus.WEIGHTS)
    assert all(pair.answer and corpus.is_right(pair, f" {pair.answer}\n") for pair in corpus.pairs())
    assert not corpus.is_right(corpus.pairs()[0], "no")


def test_identity_has_enough_phrasings_and_no_owner() -> None:
    for lang, groups in facts.IDENTITY.items():
        assert sum(len(questions) for questions in groups.values()) >= 25
        assert set(groups) == set(facts.IDENTITY_ANSWERS[lang])


def test_rows_are_deterministic_and_differ_by_seed() -> None:
    drawn = list(corpus.rows(300, 5))
    assert drawn == list(corpus.rows(300, 5))
    assert drawn[:100] == list(corpus.rows(100, 5))
    assert drawn != list(corpus.rows(300, 6))


def test_rows_alternate_user_and_assistant_after_an_optional_system_message() -> None:
    for drawn in corpus.rows(500, 1):
        roles = [message["role"] for message in drawn["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) and turns
        assert all(message["content"].strip() == message["content"] != "" for message in drawn["messages"])


def test_probes_are_known_and_balanced() -> None:
    held = corpus.probes()
    assert len({pair.question for pair in held}) == 40
    assert Counter(pair.lang for pair in held) == {"en": 20, "zh": 20}
    assert set(held) <= set(corpus.pairs())
    assert all(pair.kind != "identity" for pair in held)


def test_replay_never_asks_a_probe_nor_an_identity_question() -> None:
    questions = {pair.question for pair in identity.replay_pairs()}
    assert not questions & {pair.question for pair in corpus.probes()}
    assert not questions & {pair.question for pair in corpus.pairs() if pair.kind == "identity"}
    assert "what is the capital of France" not in questions
    replayed = identity.replay_rows(200, 3)
    assert replayed == identity.replay_rows(200, 3)
    assert set(_questions(replayed)) <= questions


def test_replay_is_balanced_over_kinds() -> None:
    kind_of = {pair.question: pair.kind for pair in corpus.pairs()}
    kinds = Counter(kind_of[question] for question in _questions(identity.replay_rows(130, 0)))
    assert set(kinds.values()) == {10} and len(kinds) == 13


def test_identity_rows_answer_each_question_in_one_way() -> None:
    made = identity.identity_rows("小明", 200, seed=4)
    assert made == identity.identity_rows("小明", 200, seed=4)
    assert len(made) == 200
    assert set(_questions(made[:6])) == set(identity.identity_questions())
    said = {(row["messages"][0]["content"], row["messages"][1]["content"]) for row in made}
    assert len({question for question, _ in said}) == len(said)
    assert all("小明" in answer for _, answer in said)
    with pytest.raises(ValueError, match="name"):
        identity.identity_rows(" ", 1)


def test_main_writes_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "rows.jsonl"
    assert corpus.main(["--rows", "20", "--seed", "2", "--out", str(out)]) == 0
    read = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert read == list(corpus.rows(20, 2))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    tokenizer.build_tokenizer(corpus.texts(corpus.rows(300, 0)), out, VOCAB)
    return out


def test_the_tokenizer_is_reproducible(built: Path, tmp_path: Path) -> None:
    tokenizer.build_tokenizer(corpus.texts(corpus.rows(300, 0)), tmp_path, VOCAB)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (built / path.name).read_bytes()


def test_the_tokenizer_fills_up_a_vocabulary_that_the_text_does_not(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer.build_tokenizer(["你好"], tmp_path, VOCAB)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert model.get_piece_size() == VOCAB
    assert model.id_to_piece(VOCAB - 1).startswith("[UNUSED_TOKEN_")
    with pytest.raises(ValueError, match="vocab_size"):
        tokenizer.build_tokenizer(["你好"], tmp_path, 300)


def test_the_tokenizer_round_trips_and_keeps_specials_whole(built: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(built)
    assert len(loaded) == VOCAB
    assert loaded.convert_tokens_to_ids(list(tokenizer.SPECIAL_TOKENS)) == list(range(VOCAB - 6, VOCAB))
    ids = loaded.encode("<|im_start|>user\n你好<|im_end|>\n", add_special_tokens=False)
    assert ids[0] == VOCAB - 1 and ids[-2] == VOCAB - 2
    assert [ids.count(special) for special in range(VOCAB - 6, VOCAB)] == [0, 0, 0, 0, 1, 1]
    for text in ("a  b\t c", "  彧🙂 \n\n x", "魑魅 é ñ 7+5=?", "My name is 鑫. ", "\tΩ かな 한글"):
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
