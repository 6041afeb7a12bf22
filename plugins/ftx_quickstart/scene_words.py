"""How things in scenes are called in English and Chinese, and which things a text speaks of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftx_quickstart.scenes import COLOURS, PLACES, SHAPES, Group

LANGS = ("en", "zh")
SHAPES_ZH = dict(zip(SHAPES, ("圆", "方块", "三角", "星星", "爱心", "月亮"), strict=True))
COLOURS_ZH = dict(zip(COLOURS, ("红色", "蓝色", "绿色", "黄色", "橙色", "紫色", "粉色", "黑色"), strict=True))
PLACES_EN = dict(
    zip(PLACES, ("on the left", "at the top", "in the middle", "at the bottom", "on the right"), strict=True)
)
PLACES_ZH = dict(zip(PLACES, ("左边", "上面", "中间", "下面", "右边"), strict=True))
COUNTS_EN = ("no", "one", "two", "three", "four")
COUNTS_ZH = ("没", "一", "两", "三", "四")

_NUMBERS = {"a": 1, "an": 1} | {word: i for i, word in enumerate(COUNTS_EN) if i}
_THING_EN = re.compile(
    rf"\b({'|'.join(_NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(s?)\b",
    re.IGNORECASE,
)
_THING_ZH = re.compile(
    f"([{''.join(COUNTS_ZH[1:])}])个({'|'.join(COLOURS_ZH.values())})的({'|'.join(SHAPES_ZH.values())})"
)


def shape_en(group: Group) -> str:
    """ "star", or "stars" where there are more."""
    return group.shape + "s" * (group.count > 1)


def counted_en(group: Group) -> str:
    """ "one red star", "two red stars"."""
    return f"{COUNTS_EN[group.count]} {group.colour} {shape_en(group)}"


def things_en(group: Group) -> str:
    """As `counted_en`, but with an article for a single thing: "a red star", "an orange star"."""
    article = "an" if group.colour[0] in "aeiou" else "a"
    return counted_en(group) if group.count > 1 else f"{article} {group.colour} {group.shape}"


def counted_zh(group: Group) -> str:
    """ "两个红色的星星"."""
    return f"{COUNTS_ZH[group.count]}个{COLOURS_ZH[group.colour]}的{SHAPES_ZH[group.shape]}"


def joined(parts: Sequence[str], comma: str, last: str) -> str:
    """The parts with `comma` between them and `last` before the last one."""
    return last.join([comma.join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def capitalised(text: str) -> str:
    """The text with a capital at its beginning, the rest as it was."""
    return text[:1].upper() + text[1:]


def mentions(text: str) -> list[tuple[int, str, str]]:
    """Count, colour and shape of all things that `text` names with all three, English before Chinese, in order."""
    english = [
        (_NUMBERS[number.lower()], colour.lower(), shape.lower())
        for number, colour, shape, plural in _THING_EN.findall(text)
        if bool(plural) == (_NUMBERS[number.lower()] > 1)
    ]
    colours, shapes = ({zh: en for en, zh in table.items()} for table in (COLOURS_ZH, SHAPES_ZH))
    chinese = [(COUNTS_ZH.index(n), colours[colour], shapes[shape]) for n, colour, shape in _THING_ZH.findall(text)]
    return english + chinese


def names_all(groups: Sequence[Group], text: str) -> bool:
    """Whether `text` names these groups with the right numbers, colours and shapes, in their order, and no others."""
    return mentions(text) == [(group.count, group.colour, group.shape) for group in groups]
