"""Shows an evaluation: a table on the screen, and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ftx.eval.evaluate import FORGET, HELD_OUT, PROBES, Column, Evaluation
from ftx.eval.match import Figures, Judged
from ftx.eval.questions import Question
from ftx.eval.subject import Subject, settings_of
from ftx.report import page
from ftx.report.page import Asked, Block, Line, Said, Titled
from ftx.report.thumbnail import thumbnail
from ftx.run import losses, samples

SHOWN = 60  # questions of a set that a page shows; eval.json has all

SETS = {
    PROBES: Titled("Probes", "探针问题"),
    HELD_OUT: Titled("Held-out", "留出数据"),
    FORGET: Titled("Others", "其他问题（遗忘检查）"),
}
FIGURES: Sequence[tuple[Titled, Callable[[Figures], str]]] = (
    (Titled("exact", "完全一致"), lambda one: _share(one.exact)),
    (Titled("near (difflib)", "近似度"), lambda one: _number(one.near)),
    (Titled("stopped", "正常结束"), lambda one: _share(one.stopped)),
    (Titled("tokens each", "平均词元数"), lambda one: f"{one.tokens:.1f}"),
)
LOST: Sequence[tuple[str, Titled]] = (
    ("changed", Titled("changed", "回答改变")),
    ("worse", Titled("less near", "偏离参考答案")),
    ("lost", Titled("no longer exact", "不再完全一致")),
)


def figure_rows(seen: Evaluation) -> Iterator[tuple[Titled, list[str]]]:
    """Each figure with its value in every column, as it is to be read."""
    columns = seen.columns
    if any(one.loss for one in columns):
        yield (
            Titled("Held-out: loss a token", "留出损失"),
            [f"{one.loss.loss:.4f}" if one.loss else "-" for one in columns],
        )
        yield (
            Titled("Held-out: perplexity", "困惑度"),
            [f"{one.loss.perplexity:,.2f}" if one.loss else "-" for one in columns],
        )
    for name, asked in seen.wanted.sets.items():
        of = SETS[name]
        for title, told in FIGURES:
            figures = [one.figures[name] for one in columns]
            if any(told(one) != "-" for one in figures):
                yield Titled(f"{of.en} ({len(asked)}): {title.en}", f"{of.zh}：{title.zh}"), list(map(told, figures))
    lost = [one.forgotten for one in columns]
    for key, title in LOST if any(lost) else ():
        yield (
            Titled(f"{SETS[FORGET].en}: {title.en}", title.zh),
            [f"{getattr(one, key)} of {one.asked}" if one else "-" for one in lost],
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def page_of(seen: Evaluation) -> str:
    """The page as HTML."""
    heads = [Titled(one.head) for one in seen.columns]
    blocks: list[Block] = []
    if seen.warnings:
        blocks.append(Block(Titled("To be read with care", "请注意"), page.sentences(seen.warnings)))
    if seen.columns:
        blocks.append(Block(page.IN_SHORT, page.table(heads, figure_rows(seen))))
    blocks += [_answers(seen, name, asked, heads) for name, asked in seen.wanted.sets.items()]
    blocks.append(Block(page.LOSS, page.curves([_line(one) for one in seen.subjects if one.run])))
    blocks += [block for one in seen.subjects for block in _samples(one)]
    blocks.append(Block(page.SETTINGS, _settings(seen)))
    names = ", ".join(one.name for one in seen.subjects)
    return page.render(
        Titled(f"Before and after: {names}", "微调前后"),
        Titled(
            f"What {names} answers, beside what the base said: greedy, each in a conversation of its own. Exact: the "
            "same characters as the reference, white space at the ends and the width of letters aside. Near: the ratio "
            "of Python's difflib, from 0 to 1. Loss: cross entropy a labelled token. All of it is in eval.json too.",
            "同样的问题，微调前后的回答与指标；全部结果见 eval.json。",
        ),
        blocks,
    )


def _answers(seen: Evaluation, name: str, asked: Sequence[Question], heads: Sequence[Titled]) -> Block:
    rows = [
        Asked(
            question.text,
            [_said(one.answers[name][i]) for one in seen.columns],
            question.reference,
            [thumbnail(path) for path in question.images],
            question.text,
        )
        for i, question in enumerate(asked[:SHOWN])
    ]
    more = [f"The first {SHOWN} of {len(asked)} are shown."] if len(asked) > SHOWN else []
    told = page.sentences(more) if more else ""
    return Block(SETS[name], page.answers(heads, rows) + told)


def _said(one: Judged) -> Said:
    near = f"near {one.near:.2f}" if one.near is not None and not one.exact else ""
    cut = "" if one.stopped else f"cut off after {one.tokens} tokens"
    # Another wording is not wrong by that: only the same is marked.
    return Said(one.text, one.exact or None, "; ".join(filter(None, (near, cut))))


def _line(subject: Subject) -> Line:
    assert subject.run is not None
    return Line(subject.name, sorted(losses(subject.run).items()))


def _samples(subject: Subject) -> Iterator[Block]:
    """The answers a run gave while it was trained, question by question; one that stays is told once."""
    asked = samples(subject.run) if subject.run else []
    if not asked:
        return
    by_question = groupby(sorted(asked, key=lambda e: (e["number"], e["step"])), key=lambda e: int(e["number"]))
    told = [_timeline(list(one)) for _, one in by_question]
    yield Block(Titled(f"Answers while {subject.name} was trained", "训练过程中的回答"), "\n".join(told))


def _timeline(asked: Sequence[Mapping[str, Any]]) -> str:
    stretches: list[tuple[int, int, Said]] = []
    for one in asked:
        said = Said(str(one["answer"]), None, "" if one["stopped"] else "cut off")
        if stretches and stretches[-1][2] == said:
            stretches[-1] = (stretches[-1][0], int(one["step"]), said)
        else:
            stretches.append((int(one["step"]), int(one["step"]), said))
    image = f" [{one['image']}]" if (one := asked[0]).get("image") else ""
    return page.timeline(str(one["question"]) + image, stretches)


def _settings(seen: Evaluation) -> str:
    told = [settings_of(one.artifact) for one in seen.subjects]
    names = [*seen.different, *dict.fromkeys(name for one in told for name in one if name not in seen.different)]
    rows = [(Titled(name), [one.get(name, "-") for one in told]) for name in names]
    return page.table([Titled(one.name) for one in seen.subjects], rows)


def terminal_rows(seen: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The heads and rows of the table on the screen; without questions, the settings that differ."""
    if not seen.columns:
        told = [settings_of(one.artifact) for one in seen.subjects]
        rows = [[name, *(one.get(name, "-") for one in told)] for name in seen.different]
        return ["setting", *(one.name for one in seen.subjects)], rows
    return ["", *(one.head for one in seen.columns)], [[title.en, *cells] for title, cells in figure_rows(seen)]


def columns_told(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The columns without their answers, for a line of JSON."""
    return [{key: value for key, value in one.as_dict().items() if key != "answers"} for one in columns]
