"""Shows what the quickstart saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftx.atomic import write_text
from ftx.console import Console, sparkline
from ftx.report.page import (
    AFTER,
    BEFORE,
    IN_SHORT,
    LOSS,
    NEXT,
    SETTINGS,
    Asked,
    Block,
    Line,
    Said,
    Titled,
    answers,
    commands,
    curves,
    render,
    settings,
    table,
)
from ftx_quickstart.corpus import is_right, probes
from ftx_quickstart.first_run import FirstRun
from ftx_quickstart.identity import identity_questions

PAGE = "page.html"


def show(result: FirstRun, console: Console) -> Path:
    """The before/after table, the loss curve, what was forgotten, what to type next; and the page with all of it."""
    before, after = result.before, result.after
    page = result.folder / PAGE
    write_text(page, page_of(result))
    console.event(
        {
            "event": "quickstart",
            "name": result.name,
            "questions": identity_questions(),
            "before": [a.text for a in before.identity],
            "after": [a.text for a in after.identity],
            "named": result.named,
            "probes_right_before": before.right,
            "probes_right_after": after.right,
            "stopped_before": before.stopped,
            "stopped_after": after.stopped,
            "merged": str(result.merged.folder),
            "page": str(page),
        }
    )
    rows = [
        [question, a.text, b.text]
        for question, a, b in zip(identity_questions(), before.identity, after.identity, strict=True)
    ]
    rows += [[title.en, *shares] for title, shares in _totals(result)]
    console.table("before and after", ["asked", "base", "tuned"], rows)
    console.say(f"loss {result.losses[0]:.2f} {sparkline(result.losses)} {result.losses[-1]:.3f}")
    console.say("\nnext:\n" + "\n".join(f"  {typed}" for _, typed in _next_steps(result)))
    console.say(f"  all questions with their answers: {page}")
    return page


def page_of(result: FirstRun) -> str:
    """The page of a run as HTML."""
    before, after, both = result.before, result.after, (BEFORE, AFTER)
    identity = [
        Asked(question, [Said(a.text, result.name in a.text), Said(b.text, result.name in b.text)])
        for question, a, b in zip(identity_questions(), before.identity, after.identity, strict=True)
    ]
    known = [
        Asked(p.question, [Said(a.text, is_right(p, a.text)), Said(b.text, is_right(p, b.text))], p.answer)
        for p, a, b in zip(probes(), before.probes, after.probes, strict=True)
    ]
    return render(
        Titled(f"The assistant of {result.name}", f"{result.name} 的小助手"),
        Titled(
            "A tiny InternLM2 learnt whose assistant it is. It should know the name, and forget nothing else.",
            "一个很小的 InternLM2 学会了自己是谁的助手；其他知识应当保留。",
        ),
        [
            Block(IN_SHORT, table(both, _totals(result))),
            Block(Titled("Who are you?", "你是谁？"), answers(both, identity)),
            Block(Titled("What it knew before", "原有的能力"), answers(both, known)),
            Block(LOSS, curves([Line("", list(enumerate(result.losses, 1)))])),
            Block(SETTINGS, settings(recipe_settings(result.folder / "recipe.yaml"))),
            Block(NEXT, commands(_next_steps(result))),
        ],
    )


def recipe_settings(recipe: Path) -> Sequence[tuple[str, str]]:
    """What a recipe of the quickstart sets, line by line."""
    plain = [line.strip() for line in recipe.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in plain) if value.strip()]


def _totals(result: FirstRun) -> Sequence[tuple[Titled, Sequence[str]]]:
    before, after = result.before, result.after
    figures = (
        (Titled(f"{len(before.probes)} unrelated probes right", "其他问题答对"), before.right, after.right),
        (Titled("answers ended by the stop token", "正常结束的回答"), before.stopped, after.stopped),
    )
    return [(title, [f"{was:.0%}", f"{now:.0%}"]) for title, was, now in figures]


def _next_steps(result: FirstRun) -> Sequence[tuple[str, str]]:
    folder, merged = result.folder, result.merged.folder
    recipe = folder / "recipe.yaml"
    return [
        ("Ask the tuned model.", f"ftx chat {merged}"),
        (
            "Tune the base to your own rows.",
            f"ftx plan {recipe} --out runs/mine --data YOUR_ROWS.jsonl",
        ),
        ("Tune it further.", f"ftx train --plugin internlm2 --model {merged} --data YOUR_ROWS.jsonl"),
        ("Compare it with its base.", f"ftx eval {folder / 'run'} --probes YOUR_QUESTIONS.txt"),
        ("What happened, step by step.", f"less {folder / 'run' / 'events.jsonl'}"),
    ]
