"""Scenes of simple coloured things, and the pictures drawn of them.

A scene decides its picture to the last pixel, and every answer about it can be computed.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon")
COLOURS = {
    "red": (222, 30, 38),
    "blue": (36, 84, 220),
    "green": (28, 150, 62),
    "yellow": (252, 208, 16),
    "orange": (250, 130, 14),
    "purple": (126, 44, 176),
    "pink": (252, 124, 190),
    "black": (26, 26, 30),
}
"""Each colour's RGB; a picture varies it a little."""

PLACES = ("left", "top", "middle", "bottom", "right")
"""Where a group can stand, in the order in which groups are told."""

TINTS = ((255, 255, 255), (238, 244, 250), (250, 246, 236), (238, 248, 238), (250, 240, 246), (236, 236, 238))
"""RGB of the backgrounds."""

SIZES = ((112, 112), (112, 112), (128, 96), (96, 128), (192, 104), (104, 192))
"""Width and height in pixels, the square twice as often; the last two make two tiles and a thumbnail, the rest one."""

MOST_KINDS = 4
MOST_THINGS = 4
_KINDS = (30, 35, 25, 10)  # how often a scene has one, two, three, four kinds of things
_COUNTS = (40, 25, 20, 15)  # how often a group has one, two, three, four things
_LARGEST = (4, 4, 3, 2)  # of a group in a scene of one, two, three, four kinds: more would be too small to tell apart
_HELD_OUT = 16  # one arrangement in so many is kept from training
_FINER = 4  # pixels drawn for one pixel kept, along each side
# things -> columns and lines they may stand in
_GRIDS = {1: ((1, 1),), 2: ((2, 1), (1, 2)), 3: ((3, 1), (1, 3), (2, 2)), 4: ((4, 1), (1, 4), (2, 2))}
_CELL = 0.27  # a thing's room at most, of the picture's shorter side


@dataclass(frozen=True)
class Group:
    """`count` things (1 to 4) of one shape and colour, standing together at one place."""

    shape: str
    colour: str
    count: int
    place: str


@dataclass(frozen=True)
class Scene:
    """One to four groups, no shape and no place twice, in the order of PLACES.

    `size` is the picture's width and height in pixels; `seed` decides tint, shades, sizes and jitter.
    Raises ValueError for groups that break these rules.
    """

    groups: tuple[Group, ...]
    size: tuple[int, int]
    seed: int

    def __post_init__(self) -> None:
        places = [PLACES.index(group.place) for group in self.groups]
        if not 1 <= len(places) <= MOST_KINDS or places != sorted(set(places)):
            raise ValueError("a scene has one to four groups at places of their own, in the order of PLACES")
        if len({group.shape for group in self.groups}) < len(places):
            raise ValueError("a shape stands in two groups")
        for group in self.groups:
            if group.shape not in SHAPES or group.colour not in COLOURS or not 1 <= group.count <= MOST_THINGS:
                raise ValueError(f"{group} is no group of known things")

    def of(self, shape: str) -> Group | None:
        """The group of that shape."""
        return next((group for group in self.groups if group.shape == shape), None)

    def at(self, place: str) -> Group | None:
        """The group at that place."""
        return next((group for group in self.groups if group.place == place), None)

    @property
    def held_out(self) -> bool:
        """Whether no training picture shows these groups at these places."""
        told = ";".join(f"{g.count} {g.colour} {g.shape} {g.place}" for g in self.groups)
        return zlib.crc32(told.encode()) % _HELD_OUT == 0


def draw_scene(rng: random.Random, *, held_out: bool = False, most_kinds: int = MOST_KINDS) -> Scene:
    """A scene of at most `most_kinds` groups drawn by `rng`, from those held out of training or from the others."""
    while (scene := _any_scene(rng, most_kinds)).held_out != held_out:
        pass
    return scene


def _any_scene(rng: random.Random, most_kinds: int) -> Scene:
    kinds = rng.choices(range(1, most_kinds + 1), _KINDS[:most_kinds])[0]
    shapes = rng.sample(SHAPES, kinds)
    places = sorted(rng.sample(range(len(PLACES)), kinds))
    largest = _LARGEST[kinds - 1]
    groups = tuple(
        Group(
            shape,
            rng.choice(tuple(COLOURS)),
            rng.choices(range(1, largest + 1), _COUNTS[:largest])[0],
            PLACES[place],
        )
        for shape, place in zip(shapes, places, strict=True)
    )
    return Scene(groups, rng.choice(SIZES), rng.getrandbits(32))


def picture(scene: Scene) -> Image:
    """The scene as an RGB picture of `scene.size`, drawn four times as fine and reduced."""
    from PIL import Image, ImageDraw

    rng = random.Random(scene.seed)
    width, height = scene.size[0] * _FINER, scene.size[1] * _FINER
    drawn = Image.new("RGB", (width, height), rng.choice(TINTS))
    pen = ImageDraw.Draw(drawn)
    for group in scene.groups:
        colour = _shade(COLOURS[group.colour], rng)
        for centre, radius in _stand(group.count, room(scene, group.place), min(width, height), rng):
            pen.polygon(_outline(group.shape, centre, radius, rng.uniform(-0.2, 0.2)), fill=colour)
    return drawn.reduce(_FINER)


def _shade(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + rng.randint(-10, 10))) for part in colour)
    return red, green, blue


def room(scene: Scene, place: str) -> Box:
    """The box, in drawn pixels, that a group may fill: left and right are columns, the others share what is between."""
    width, height = scene.size[0] * _FINER, scene.size[1] * _FINER
    reach = 0.19 if scene.at("left") or scene.at("right") else 0.46
    x0, y0, x1, y1 = {
        "left": (0.02, 0.06, 0.3, 0.94),
        "right": (0.7, 0.06, 0.98, 0.94),
        "top": (0.5 - reach, 0.02, 0.5 + reach, 0.32),
        "middle": (0.5 - reach, 0.35, 0.5 + reach, 0.65),
        "bottom": (0.5 - reach, 0.68, 0.5 + reach, 0.98),
    }[place]
    return x0 * width, y0 * height, x1 * width, y1 * height


def _stand(count: int, room: Box, side: int, rng: random.Random) -> list[tuple[Point, float]]:
    """Centre and radius of each thing: in the grid that leaves most space to each."""
    x0, y0, x1, y1 = room
    grids = rng.sample(_GRIDS[count], len(_GRIDS[count]))
    # Of equally good ones the first, which is any.
    cell, columns, lines = max(
        ((min((x1 - x0) / c, (y1 - y0) / r, _CELL * side), c, r) for c, r in grids), key=lambda found: found[0]
    )
    spare_x, spare_y = (x1 - x0) - cell * columns, (y1 - y0) - cell * lines
    left = x0 + spare_x * rng.uniform(0.35, 0.65)
    top = y0 + spare_y * rng.uniform(0.35, 0.65)
    cells = rng.sample([(i, j) for i in range(columns) for j in range(lines)], count)
    size = rng.uniform(0.78, 0.94)
    stands = []
    for i, j in cells:
        radius = cell / 2 * size * rng.uniform(0.93, 1)
        free = cell / 2 - radius
        centre = (
            left + cell * (i + 0.5) + rng.uniform(-free, free),
            top + cell * (j + 0.5) + rng.uniform(-free, free),
        )
        stands.append((centre, radius))
    return stands


def _outline(shape: str, centre: Point, radius: float, turn: float) -> list[Point]:
    """The shape's corners in pixels: inside a circle of `radius`, turned by `turn` radians."""
    cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
    return [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in _OUTLINES[shape]]


def _round(corners: int, radius: Callable[[int], float] = lambda i: 1.0, start: float = -math.pi / 2) -> list[Point]:
    """Corners at equal angles; y points down, as in pictures."""
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius(i) * math.cos(a), radius(i) * math.sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[Point]:
    steps = [2 * math.pi * i / 48 for i in range(48)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in steps
    ]


def _moon() -> list[Point]:
    """A crescent open to the right: most of a circle, and back along a smaller one that is shifted."""
    outer = [math.radians(45 + 270 * i / 32) for i in range(33)]
    inner = [math.radians(292 - 224 * i / 32) for i in range(33)]
    back = [(0.42 + 0.77 * math.cos(a), 0.77 * math.sin(a)) for a in inner]
    return [(math.cos(a), math.sin(a)) for a in outer] + back


_OUTLINES: dict[str, list[Point]] = {
    "circle": _round(40),
    "square": _round(4, lambda i: 1.12, -math.pi / 4),
    "triangle": _round(3, lambda i: 1.1),
    "star": _round(10, lambda i: 1.08 if i % 2 == 0 else 0.44),
    "heart": _heart(),
    "moon": _moon(),
}
"""Corners of each shape around the origin, about within the unit circle."""
