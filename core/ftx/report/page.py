"""One HTML page of what a training did, put together from blocks: tables, answers, curves, pictures, settings.

The page holds all it shows, runs no script and fetches nothing: it can be mailed, or opened on a phone without network.
Every block's function gives HTML with every text escaped, and depends on nothing but what it is given.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Titled:
    """A heading in English with its Chinese beside it, where it has one."""

    en: str
    zh: str = ""


@dataclass(frozen=True)
class Said:
    """An answer; `right` says whether it is what was expected, None where nobody can tell. `note` is said below it."""

    text: str
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """One question with its answers, all in `lang`. `pictures` are PNG or JPEG files' content, described by `alt`."""

    question: str
    answers: Sequence[Said]
    expected: str | None = None
    pictures: Sequence[bytes] = ()
    alt: str = ""
    lang: str = ""


@dataclass(frozen=True)
class Line:
    """A curve: (step, loss) in order."""

    name: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Block:
    """A heading and the HTML below it, as a function of this file makes it."""

    title: Titled
    content: str


BEFORE = Titled("Before", "微调前")
AFTER = Titled("After", "微调后")
IN_SHORT = Titled("In short", "总结")
SETTINGS = Titled("Settings", "设置")
LOSS = Titled("Loss", "损失曲线")
NEXT = Titled("How to go on", "下一步")
_PICTURE = Titled("Picture", "图片")
_QUESTION = Titled("Question", "问题")
_EXPECTED = Titled("Expected", "正确答案")
_STEP = Titled("Step", "步")
_ANSWER = Titled("Answer", "回答")

# Told apart by colour and by dashes; more curves begin again.
_STROKES = (("--curve", "none"), ("--second", "6 3"), ("--third", "2 3"), ("--good", "10 3 2 3"), ("--bad", "1 2"))

_STYLE = """
:root { color-scheme: light dark; --line: #c9ced6; --soft: #f3f5f8; --good: #11703a; --bad: #b3261e; --curve: #2456dc;
  --second: #b35900; --third: #7a3db8; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444b57; --soft: #20242b; --good: #6fd596; --bad: #ff9a91; --curve: #8fb0ff;
    --second: #ffb066; --third: #cfa4ff; }
}
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 span, h2 span, th span { font-weight: normal; opacity: .75; margin-left: .4em; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .5rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.figures td { overflow-wrap: break-word; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
svg { width: 100%; height: auto; background: var(--soft); border-radius: 4px; }
svg polyline { fill: none; stroke-width: 2; }
svg text { fill: currentColor; font-size: 13px; }
.right { color: var(--good); }
.wrong { color: var(--bad); }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; border-radius: 4px; }
@media (max-width: 40rem) {
  .asked thead { position: absolute; left: -9999px; }
  .asked tr { display: block; border-bottom: 2px solid var(--line); padding: .5rem 0; }
  .asked td { display: block; border: 0; padding: .2rem 0; }
  .asked td[data-label]::before { content: attr(data-label) ": "; opacity: .75; }
}
"""


def render(title: Titled, intro: Titled, blocks: Sequence[Block]) -> str:
    """The page as HTML."""
    body = [
        f"<h1>{titled(title)}</h1>",
        f'<p>{escape(intro.en)}</p>\n<p lang="zh">{escape(intro.zh)}</p>',
        *(f"<section>\n<h2>{titled(block.title)}</h2>\n{block.content}\n</section>" for block in blocks),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title.en)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def titled(title: Titled) -> str:
    """A heading's two languages."""
    return escape(title.en) + (f'<span lang="zh">{escape(title.zh)}</span>' if title.zh else "")


def table(heads: Sequence[Titled], rows: Iterable[tuple[Titled, Sequence[str]]]) -> str:
    """Rows of figures, each with its own heading, below `heads`, one for each figure."""
    told = [
        f'<tr><th scope="row">{titled(title)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for title, cells in rows
    ]
    return _table(["", *map(titled, heads)], told, "figures")


def settings(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    told = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows]
    return '<div class="wide">\n<table>\n<tbody>\n' + "\n".join(told) + "\n</tbody>\n</table>\n</div>"


def commands(rows: Iterable[tuple[str, str]]) -> str:
    """Sentences, each with what to type."""
    return "\n".join(f"<p>{escape(said)}</p>\n<pre>{escape(typed)}</pre>" for said, typed in rows)


def sentences(said: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>\n" + "\n".join(f"<li>{escape(one)}</li>" for one in said) + "\n</ul>"


def answers(heads: Sequence[Titled], asked: Sequence[Asked]) -> str:
    """Questions with their answers below `heads`, one for each answer; pictures and what was expected, if any is."""
    pictured, told = any(one.pictures for one in asked), any(one.expected is not None for one in asked)
    columns = [*([_PICTURE] if pictured else []), _QUESTION, *heads, *([_EXPECTED] if told else [])]
    return _table(map(titled, columns), (_row(one, heads, pictured=pictured, told=told) for one in asked), "asked")


def timeline(question: str, stretches: Sequence[tuple[int, int, Said]]) -> str:
    """What was answered to a question from one step up to another, in order."""
    rows = [
        f'<tr><th scope="row">{first if first == last else f"{first}&#8211;{last}"}</th>{_cell(_ANSWER, said, "")}</tr>'
        for first, last, said in stretches
    ]
    return f"<h3>{escape(question)}</h3>\n" + _table(map(titled, (_STEP, _ANSWER)), rows, "asked")


def _row(asked: Asked, heads: Sequence[Titled], *, pictured: bool, told: bool) -> str:
    cells = [f"<td>{_pictures(asked)}</td>"] if pictured else []
    cells.append(_cell(_QUESTION, Said(asked.question), asked.lang))
    cells += [_cell(head, said, asked.lang) for head, said in zip(heads, asked.answers, strict=True)]
    if told:
        cells.append(_cell(_EXPECTED, Said(asked.expected or ""), asked.lang))
    return f"<tr>{''.join(cells)}</tr>"


def _table(head: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    opened = f'<table class="{kind}">' if kind else "<table>"
    head_row = f"<thead><tr>{cells}</tr></thead>"
    return f'<div class="wide">\n{opened}\n{head_row}\n<tbody>\n' + "\n".join(rows) + "\n</tbody>\n</table>\n</div>"


def _pictures(asked: Asked) -> str:
    return "".join(_picture(content, asked.alt) for content in asked.pictures) or "&#8212;"


def _picture(content: bytes, alt: str) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'


def _cell(head: Titled, said: Said, lang: str) -> str:
    spoken = f' lang="{escape(lang)}"' if lang else ""
    verdict = "" if said.right is None else _verdict(said.right)
    note = f"<br><small>{escape(said.note)}</small>" if said.note else ""
    return f'<td data-label="{escape(head.en)}"><span{spoken}>{escape(said.text)}</span>{verdict}{note}</td>'


def _verdict(right: bool) -> str:
    # A word besides the colour, for those who see no difference between the two.
    kind, word = ("right", "&#10003; right") if right else ("wrong", "&#10007; wrong")
    return f'<br><small class="{kind}">{word}</small>'


_WIDTH, _HEIGHT, _LEFT, _EDGE = 720, 240, 48, 24


def curves(lines: Sequence[Line]) -> str:
    """Losses over the steps as SVG lines, from zero up, with a sentence for each."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return "<p>No step was recorded.</p>"
    first = min(step for line in drawn for step, _ in line.points)
    last = max(step for line in drawn for step, _ in line.points)
    top = max(loss for line in drawn for _, loss in line.points) or 1.0
    told = [_told(line) for line in drawn]
    polylines = [
        f'<polyline style="stroke: var({colour})" stroke-dasharray="{dashes}" '
        f'points="{_points(line, first, last, top)}"/>'
        for line, (colour, dashes) in zip(drawn, _strokes(len(drawn)), strict=True)
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape("; ".join(told))}">\n'
        f"<title>{escape('; '.join(told))}</title>\n"
        f'<text x="4" y="{_EDGE + 4}">{top:.2f}</text>\n<text x="4" y="{_HEIGHT - _EDGE}">0</text>\n'
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{first}</text>\n'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 4}" text-anchor="end">{last}</text>\n'
        + "\n".join(polylines)
        + "\n</svg>\n"
        + "\n".join(
            f'<p><span style="color: var({colour})">&#9632;</span> {escape(one)}.</p>'
            for one, (colour, _) in zip(told, _strokes(len(told)), strict=True)
        )
    )


def _strokes(count: int) -> list[tuple[str, str]]:
    return [_STROKES[i % len(_STROKES)] for i in range(count)]


def _told(line: Line) -> str:
    name = f"{line.name}: " if line.name else ""
    return f"{name}Loss over {len(line.points)} steps, from {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}"


def _points(line: Line, first: int, last: int, top: float) -> str:
    across = (_WIDTH - _LEFT - _EDGE) / max(1, last - first)
    return " ".join(
        f"{_LEFT + (step - first) * across:.1f},{_HEIGHT - _EDGE - loss / top * (_HEIGHT - 2 * _EDGE):.1f}"
        for step, loss in line.points
    )
