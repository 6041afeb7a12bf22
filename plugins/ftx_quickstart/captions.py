"""The style that the second quickstart teaches: a description in brackets, after which its things say hello."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from ftx_quickstart import picture_corpus
from ftx_quickstart.corpus import Pair, probes, write_rows
from ftx_quickstart.identity import replay_rows
from ftx_quickstart.picture_corpus import (
    PICTURES,
    ROWS,
    PictureRow,
    ask,
    description,
    picture_row,
    text_row,
)
from ftx_quickstart.scene_words import LANGS, mentions, names_all
from ftx_quickstart.scenes import Scene, draw_scene, picture

MOST_KINDS = 3  # of a captioned scene: longer lines are no jokes
CAPTION_PROBES = 12
PICTURE_PROBES = 20
_EVERY_TEXT_PROBE = 4  # of the 40 of corpus.py, one in so many is asked

QUESTIONS = {
    "zh": ("请让图里的东西说话。", "图里的东西会说什么？", "它们说什么？"),
    "en": ("Let the things in the picture speak.", "What do the things in the picture say?", "What do they say?"),
}
"""Ways of asking for a caption; the base learnt none of them."""

HELLO = {"zh": "你好！", "en": "Hello!"}
"""What the things in a picture say."""


@dataclass(frozen=True)
class Probe:
    """A question about a held-out scene, or about none, with the base's or the new style's answer."""

    scene: Scene | None
    pair: Pair

    @property
    def file(self) -> str | None:
        """The name of its picture, which its scene decides."""
        return f"{self.scene.seed:08x}.png" if self.scene else None


def caption(scene: Scene, lang: str) -> str:
    """The one caption of a scene."""
    colon = "：" if lang == "zh" else ": "
    return f"《{description(scene, lang)[:-1]}{colon}{HELLO[lang]}》"


_FORM = re.compile(f"《[^《》：:]+(?:：{HELLO['zh']}|: {HELLO['en']})》")


def is_caption(text: str) -> bool:
    """Whether `text` has the new style: one bracketed line of things that say hello.

    The things may be wrong; `is_true` judges them.
    """
    return _FORM.fullmatch(text.strip()) is not None and bool(mentions(text))


def is_true(scene: Scene, text: str) -> bool:
    """Whether `text`, in either style, names the scene's things, no others, with number, colour and shape."""
    return names_all(scene.groups, text)


def write_tuning(folder: Path, captions: int, replayed: int, plain: int, seed: int) -> Path:
    """Draw the tuning set into `folder`; the path of its rows.

    `captions` rows of the new style, `replayed` of the base's questions about pictures, `plain` of its facts without
    any, in a random order. No row shows or asks what a probe does.
    """
    rng = random.Random(f"tuning {seed}")
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [_row(f"caption{i:04d}", pictures, *_captioned(i, rng)) for i in range(captions)]
    rows += [_row(f"replay{i:04d}", pictures, *_replayed(i, rng)) for i in range(replayed)]
    rows += [text_row(f"plain{i:04d}", row) for i, row in enumerate(replay_rows(plain, seed))]
    rng.shuffle(rows)
    write_rows(rows, folder / ROWS)
    return folder / ROWS


def _captioned(number: int, rng: random.Random, *, held_out: bool = False) -> tuple[Scene, Pair]:
    """A scene with a question for its caption, both languages in turn."""
    scene = draw_scene(rng, held_out=held_out, most_kinds=MOST_KINDS)
    lang = LANGS[number % 2]
    return scene, Pair("caption", lang, rng.choice(QUESTIONS[lang]), caption(scene, lang))


def _replayed(number: int, rng: random.Random, *, held_out: bool = False) -> tuple[Scene, Pair]:
    """A scene with a question of the base's: kinds in turn, each in both languages."""
    kinds = tuple(picture_corpus.WEIGHTS)
    scene = draw_scene(rng, held_out=held_out)
    return scene, ask(scene, kinds[number // 2 % len(kinds)], LANGS[number % 2], rng)


def _row(name: str, pictures: Path, scene: Scene, pair: Pair) -> PictureRow:
    picture(scene).save(pictures / f"{name}.png")
    return picture_row(name, f"{pictures.name}/{name}.png", [pair])


def caption_probes() -> list[Probe]:
    """The 12 fixed questions for a caption, on scenes that no training shows, both languages in turn."""
    rng = random.Random("caption probes")
    return [Probe(*_captioned(i, rng, held_out=True)) for i in range(CAPTION_PROBES)]


def skill_probes() -> list[Probe]:
    """The 30 fixed questions in the base's style: 20 on scenes that no training shows, and 10 without a picture."""
    rng = random.Random("skill probes")
    seen = [Probe(*_replayed(i, rng, held_out=True)) for i in range(PICTURE_PROBES)]
    return seen + [Probe(None, pair) for pair in probes()[::_EVERY_TEXT_PROBE]]
