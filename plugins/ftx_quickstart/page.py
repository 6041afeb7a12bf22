"""One HTML page of a run with pictures: what was asked, what was answered before and after.

The page holds all it shows, runs no script and fetches nothing: it can be mailed, or opened on a phone without network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Titled:
    """A heading in English with its Chinese beside it."""

    en: str
    zh: str


@dataclass(frozen=True)
class Shown:
    """One question with its answers, which are in `lang`. `picture` is a PNG file's content, described by `alt`."""

    picture: bytes | None
    alt: str
    lang: str
    question: str
    before: str
    after: str
    expected: str
    right_before: bool
    right_after: bool


@dataclass(frozen=True)
class Section:
    """The questions of one kind."""

    title: Titled
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Total:
    """A figure before and after, as it is to be read."""

    title: Titled
    before: str
    after: str


@dataclass(frozen=True)
class Page:
    """All that the page says. `losses` are in order of the steps; `next_steps` are sentences with their commands."""

    title: Titled
    intro: Titled
    settings: Sequence[tuple[str, str]]
    losses: Sequence[float]
    totals: Sequence[Total]
    sections: Sequence[Section]
    next_steps: Sequence[tuple[str, str]]


_TOTALS = Titled("In short", "总结")
_SETTINGS = Titled("Settings", "设置")
_LOSS = Titled("Loss", "损失曲线")
_NEXT = Titled("How to go on", "下一步")
_COLUMNS = (
    Titled("Picture", "图片"),
    Titled("Question", "问题"),
    Titled("Before", "微调前"),
    Titled("After", "微调后"),
    Titled("Expected", "正确答案"),
)

_STYLE = """
:root { color-scheme: light dark; --line: #c9ced6; --soft: #f3f5f8; --good: #11703a; --bad: #b3261e; --curve: #2456dc; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444b57; --soft: #20242b; --good: #6fd596; --bad: #ff9a91; --curve: #8fb0ff; }
}
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 span, h2 span, th span { font-weight: normal; opacity: .75; margin-left: .4em; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .5rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
svg { width: 100%; height: auto; background: var(--soft); border-radius: 4px; }
svg polyline { fill: none; stroke: var(--curve); stroke-width: 2; }
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


def render(page: Page) -> str:
    """The page as HTML, every text escaped. A pure function."""
    body = [
        f"<h1>{_titled(page.title)}</h1>",
        f'<p>{escape(page.intro.en)}</p>\n<p lang="zh">{escape(page.intro.zh)}</p>',
        _block(_TOTALS, _totals(page.totals)),
        *(_block(section.title, _asked(section.shown)) for section in page.sections),
        _block(_LOSS, _curve(page.losses)),
        _block(_SETTINGS, _settings(page.settings)),
        _block(
            _NEXT, "\n".join(f"<p>{escape(said)}</p>\n<pre>{escape(typed)}</pre>" for said, typed in page.next_steps)
        ),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(page.title.en)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _titled(title: Titled) -> str:
    return f'{escape(title.en)}<span lang="zh">{escape(title.zh)}</span>'


def _block(title: Titled, content: str) -> str:
    return f"<section>\n<h2>{_titled(title)}</h2>\n{content}\n</section>"


def _table(head: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    opened = f'<table class="{kind}">' if kind else "<table>"
    return f"{opened}\n<thead><tr>{cells}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"


def _totals(totals: Sequence[Total]) -> str:
    rows = [
        f'<tr><th scope="row">{_titled(t.title)}</th><td>{escape(t.before)}</td><td>{escape(t.after)}</td></tr>'
        for t in totals
    ]
    return _table(["", _titled(_COLUMNS[2]), _titled(_COLUMNS[3])], rows)


def _asked(shown: Sequence[Shown]) -> str:
    return _table(map(_titled, _COLUMNS), map(_row, shown), "asked")


def _row(shown: Shown) -> str:
    picture = _picture(shown.picture, shown.alt) if shown.picture else "&#8212;"
    cells = [
        f"<td>{picture}</td>",
        _said("Question", shown.question, shown.lang),
        _said("Before", shown.before, shown.lang, shown.right_before),
        _said("After", shown.after, shown.lang, shown.right_after),
        _said("Expected", shown.expected, shown.lang),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _picture(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _said(label: str, text: str, lang: str, right: bool | None = None) -> str:
    verdict = "" if right is None else _verdict(right)
    return f'<td data-label="{label}"><span lang="{escape(lang)}">{escape(text)}</span>{verdict}</td>'


def _verdict(right: bool) -> str:
    # A word besides the colour, for those who see no difference between the two.
    kind, word = ("right", "&#10003; right") if right else ("wrong", "&#10007; wrong")
    return f'<br><small class="{kind}">{word}</small>'


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in settings]
    return "<table>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"


def _curve(losses: Sequence[float]) -> str:
    """The losses as an SVG line over the steps, from zero up."""
    width, height, left, edge = 720, 240, 48, 24
    if not losses:
        return "<p>No step was recorded.</p>"
    top = max(losses) or 1.0
    across = (width - left - edge) / max(1, len(losses) - 1)
    points = [
        f"{left + i * across:.1f},{height - edge - loss / top * (height - 2 * edge):.1f}"
        for i, loss in enumerate(losses)
    ]
    told = f"Loss over {len(losses)} steps, from {losses[0]:.3f} to {losses[-1]:.3f}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{told}">\n<title>{told}</title>\n'
        f'<text x="4" y="{edge + 4}">{top:.2f}</text>\n<text x="4" y="{height - edge}">0</text>\n'
        f'<text x="{left}" y="{height - 4}">1</text>\n'
        f'<text x="{width - edge}" y="{height - 4}" text-anchor="end">{len(losses)}</text>\n'
        f'<polyline points="{" ".join(points)}"/>\n</svg>\n<p>{told}.</p>'
    )
