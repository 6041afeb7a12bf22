"""The bilingual corpus behind the quickstart's tiny vision model: plain questions about drawn scenes.

    python -m ftx_quickstart.picture_corpus --rows 1000 --out DIR

Rows are LLaVA's, their pictures beside them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ftx_quickstart import corpus, scene_words
from ftx_quickstart.corpus import Pair
from ftx_quickstart.scene_words import (
    COLOURS_ZH,
    COUNTS_ZH,
    LANGS,
    PLACES_EN,
    PLACES_ZH,
    SHAPES_ZH,
    capitalised,
    counted_zh,
    joined,
    shape_en,
    things_en,
)
from ftx_quickstart.scenes import COLOURS, PLACES, SHAPES, Group, Scene, draw_scene, picture

PictureRow = dict[str, Any]
"""One conversation in LLaVA's form: {"id": ..., "image": ..., "conversations": [{"from": ..., "value": ...}]}."""

ROWS = "rows.jsonl"
PICTURES = "pictures"
MARK = "<image>\n"

WEIGHTS = {"describe": 12, "count": 15, "colour": 25, "where": 18, "there": 12, "exists": 18}
"""How often each kind of question is drawn, relative to the others."""

TEXT_SHARE = 0.1  # of the rows, which are of corpus.py and have no picture, so that its answers stay known
_SECOND_TURN = 0.8  # of the rows with a picture
_ABSENT = 0.2  # of the questions for a count or a place ask for what is not there

_Q = dict[str, tuple[str, ...]]

_DESCRIBE: _Q = {
    "en": ("Describe the picture.", "What is in the picture?", "What do you see?", "Tell me what is in the picture."),
    "zh": ("图里有什么？", "图片里有什么？", "说说图里有什么。", "请介绍一下图片。"),
}
_COUNT: _Q = {
    "en": ("How many {a}s are there?", "How many {a}s do you see?", "How many {a}s are in the picture?"),
    "zh": ("有几个{a}？", "图里有几个{a}？", "请问有几个{a}？"),
}
_COLOUR: _Q = {
    "en": ("What color {is_are} the {a}?", "What colour {is_are} the {a}?", "Tell me the color of the {a}."),
    "zh": ("{a}是什么颜色的？", "{a}是什么颜色？", "请告诉我{a}的颜色。"),
}
_WHERE: _Q = {
    "en": ("Where {is_are} the {a}?", "Tell me where the {a} {is_are}.", "Where do you see the {a}?"),
    "zh": ("{a}在哪里？", "请问{a}在哪里？", "请告诉我{a}在哪里。"),
}
_THERE: _Q = {
    "en": ("What is {a}?", "What do you see {a}?", "Tell me what is {a}."),
    "zh": ("{a}有什么？", "图的{a}有什么？", "请告诉我{a}有什么。"),
}
_EXISTS: _Q = {
    "en": ("Is there {a}?", "Do you see {a}?", "Is there {a} in the picture?"),
    "zh": ("有{a}吗？", "图里有{a}吗？", "请问有{a}吗？"),
}


def description(scene: Scene, lang: str) -> str:
    """The plain sentence that names every group and its place, in the order of PLACES."""
    if lang == "zh":
        return "，".join(f"{PLACES_ZH[g.place]}有{counted_zh(g)}" for g in scene.groups) + "。"
    told = [f"{things_en(group)} {PLACES_EN[group.place]}" for group in scene.groups]
    return capitalised(joined(told, ", ", " and ")) + "."


def _describe(scene: Scene, lang: str, rng: random.Random) -> Pair:
    return Pair("describe", lang, rng.choice(_DESCRIBE[lang]), description(scene, lang))


def _count(scene: Scene, lang: str, rng: random.Random) -> Pair:
    absent = [shape for shape in SHAPES if scene.of(shape) is None]
    shape = rng.choice(absent) if rng.random() < _ABSENT else rng.choice(scene.groups).shape
    group = scene.of(shape)
    count = group.count if group else 0
    if lang == "zh":
        answer = f"有{COUNTS_ZH[count]}个{SHAPES_ZH[shape]}。" if count else f"没有{SHAPES_ZH[shape]}。"
        return Pair("count", lang, rng.choice(_COUNT[lang]).format(a=SHAPES_ZH[shape]), answer)
    is_are, plural = ("is", "") if count == 1 else ("are", "s")
    answer = f"There {is_are} {scene_words.COUNTS_EN[count]} {shape}{plural}."
    return Pair("count", lang, rng.choice(_COUNT[lang]).format(a=shape), answer)


def _colour(scene: Scene, lang: str, rng: random.Random) -> Pair:
    group = rng.choice(scene.groups)
    is_are = _is_are(group)
    if lang == "zh":
        answer = f"{SHAPES_ZH[group.shape]}是{COLOURS_ZH[group.colour]}的。"
    else:
        answer = f"The {shape_en(group)} {is_are} {group.colour}."
    return Pair("colour", lang, rng.choice(_COLOUR[lang]).format(a=_called(group, lang), is_are=is_are), answer)


def _where(scene: Scene, lang: str, rng: random.Random) -> Pair:
    group = rng.choice(scene.groups)
    is_are = _is_are(group)
    if lang == "zh":
        answer = f"{SHAPES_ZH[group.shape]}在{PLACES_ZH[group.place]}。"
    else:
        answer = f"The {shape_en(group)} {is_are} {PLACES_EN[group.place]}."
    return Pair("where", lang, rng.choice(_WHERE[lang]).format(a=_called(group, lang), is_are=is_are), answer)


def _there(scene: Scene, lang: str, rng: random.Random) -> Pair:
    empty = [place for place in PLACES if scene.at(place) is None]
    place = rng.choice(empty) if rng.random() < _ABSENT else rng.choice(scene.groups).place
    group = scene.at(place)
    if lang == "zh":
        answer = f"{counted_zh(group)}。" if group else "没有东西。"
        return Pair("there", lang, rng.choice(_THERE[lang]).format(a=PLACES_ZH[place]), answer)
    answer = capitalised(f"{things_en(group)}.") if group else "Nothing."
    return Pair("there", lang, rng.choice(_THERE[lang]).format(a=PLACES_EN[place]), answer)


def _exists(scene: Scene, lang: str, rng: random.Random) -> Pair:
    """Half of what is asked for is there; of the rest, half is there in another colour, half has another shape."""
    group = rng.choice(scene.groups)
    shape, colour, there = group.shape, group.colour, rng.random() < 0.5
    if not there and rng.random() < 0.5:
        colour = rng.choice([name for name in COLOURS if name != colour])
    elif not there:
        shape = rng.choice([name for name in SHAPES if scene.of(name) is None])
    if lang == "zh":
        thing, answer = f"{COLOURS_ZH[colour]}的{SHAPES_ZH[shape]}", "有。" if there else "没有。"
    else:
        thing, answer = things_en(Group(shape, colour, 1, group.place)), "Yes." if there else "No."
    return Pair("exists", lang, rng.choice(_EXISTS[lang]).format(a=thing), answer)


def _is_are(group: Group) -> str:
    return "is" if group.count == 1 else "are"


def _called(group: Group, lang: str) -> str:
    return SHAPES_ZH[group.shape] if lang == "zh" else shape_en(group)


_KINDS: dict[str, Callable[[Scene, str, random.Random], Pair]] = {
    "describe": _describe,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "there": _there,
    "exists": _exists,
}


def ask(scene: Scene, kind: str, lang: str, rng: random.Random) -> Pair:
    """A question of that kind about the scene, drawn by `rng`, with its one right answer."""
    return _KINDS[kind](scene, lang, rng)


def ask_any(scene: Scene, rng: random.Random) -> Pair:
    """A question of a kind drawn by WEIGHTS, in either language."""
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    return ask(scene, kind, rng.choice(LANGS), rng)


def picture_row(name: str, image: str, turns: Sequence[Pair]) -> PictureRow:
    """A LLaVA row `name` of these turns about the picture at `image`, which stands before the first question."""
    said = []
    for i, turn in enumerate(turns):
        said.append({"from": "human", "value": turn.question if i else MARK + turn.question})
        said.append({"from": "gpt", "value": turn.answer})
    return {"id": name, "image": image, "conversations": said}


def text_row(name: str, row: corpus.Row) -> PictureRow:
    """A row of corpus.py as a LLaVA row without a picture."""
    speakers = {"user": "human", "assistant": "gpt"}
    messages = row["messages"]
    said = [
        {"from": speakers[message["role"]], "value": message["content"]}
        for message in messages
        if message["role"] != "system"
    ]
    system = {"system": messages[0]["content"]} if messages[0]["role"] == "system" else {}
    return {"id": name, **system, "conversations": said}


def _rows(count: int, seed: int, per_picture: int, text_share: float, pictures: Path) -> Iterator[PictureRow]:
    """The rows, each picture written before the first row that shows it."""
    rng = random.Random(seed)
    plain = corpus.rows(count, seed)
    image, scene = "", draw_scene(rng)
    shown = 0
    for number in range(count):
        name = f"{number:06d}"
        if rng.random() < text_share:
            yield text_row(name, next(plain))
            continue
        if shown % per_picture == 0:
            scene = draw_scene(rng)
            image = f"{pictures.name}/{name}.png"
            picture(scene).save(pictures / f"{name}.png")
        shown += 1
        yield picture_row(name, image, _turns(scene, rng))


def _turns(scene: Scene, rng: random.Random) -> list[Pair]:
    first = ask_any(scene, rng)
    if rng.random() >= _SECOND_TURN:
        return [first]
    while (second := ask_any(scene, rng)).kind == first.kind:
        pass
    return [first, second]


def write_corpus(folder: Path, count: int, seed: int, *, per_picture: int = 2, text_share: float = TEXT_SHARE) -> Path:
    """Draw `count` rows into folder/rows.jsonl with their PNG files in folder/pictures; the rows' path.

    The same arguments write the same rows and the same pictures. Each picture is asked about in `per_picture` rows.
    """
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    corpus.write_rows(_rows(count, seed, per_picture, text_share, pictures), folder / ROWS)
    return folder / ROWS


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: writes --rows rows drawn with --seed, and their pictures, into the folder --out."""
    parser = argparse.ArgumentParser(prog="python -m ftx_quickstart.picture_corpus", description=__doc__)
    parser.add_argument("--rows", type=int, required=True, help="number of conversations")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    args = parser.parse_args(argv)
    print(f"wrote {args.rows} rows to {write_corpus(args.out, args.rows, args.seed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
