"""Shows what the second quickstart saw: a table on the screen, and a page with the pictures."""

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
from ftx.talk import Answer
from ftx_quickstart.captions import Probe, caption_probes, skill_probes
from ftx_quickstart.corpus import is_right
from ftx_quickstart.picture_corpus import description
from ftx_quickstart.picture_run import PictureRun, caption_right
from ftx_quickstart.report import recipe_settings

PAGE = "page.html"


def show(result: PictureRun, console: Console) -> Path:
    """Write the page into the run's folder, and say in short what is on it; the page's path."""
    page = result.folder / PAGE
    write_text(page, page_of(result))
    before, after = result.before, result.after
    console.event(
        {
            "event": "quickstart",
            "plugin": "internvl",
            "questions": [probe.pair.question for probe in caption_probes()],
            "before": [a.text for a in before.captions],
            "after": [a.text for a in after.captions],
            "styled_before": before.styled,
            "styled_after": after.styled,
            "true_before": before.true,
            "true_after": after.true,
            "probes_right_before": before.right,
            "probes_right_after": after.right,
            "stopped_before": before.stopped,
            "stopped_after": after.stopped,
            "merged": str(result.merged.folder),
            "page": str(page),
        }
    )
    rows = [
        [probe.pair.question, a.text, b.text]
        for probe, a, b in zip(caption_probes(), before.captions, after.captions, strict=True)
    ]
    rows += [[title.en, *shares] for title, shares in _totals(result)]
    console.table("before and after", ["asked", "base", "tuned"], rows)
    console.say(f"loss {result.losses[0]:.2f} {sparkline(result.losses)} {result.losses[-1]:.3f}")
    console.say("\nnext:\n" + "\n".join(f"  {typed}" for _, typed in _next_steps(result)))
    console.say(f"  the pictures with all answers: {page}")
    return page


def page_of(result: PictureRun) -> str:
    """The page of a run as HTML; the pictures are read from its folder."""
    captions = [
        _asked(result.folder, probe, a, b, (caption_right(probe, a.text), caption_right(probe, b.text)))
        for probe, a, b in zip(caption_probes(), result.before.captions, result.after.captions, strict=True)
    ]
    skills = [
        _asked(result.folder, probe, a, b, (is_right(probe.pair, a.text), is_right(probe.pair, b.text)))
        for probe, a, b in zip(skill_probes(), result.before.skills, result.after.skills, strict=True)
    ]
    both = (BEFORE, AFTER)
    return render(
        Titled("Pictures before and after tuning", "微调前后的看图问答"),
        Titled(
            "A tiny InternVL2 learnt to let the things in a picture say hello. No training showed it these pictures.",
            "一个很小的 InternVL2 学会了让图里的东西打招呼；训练时它没有见过这些图片。",
        ),
        [
            Block(IN_SHORT, table(both, _totals(result))),
            Block(Titled("The new style", "新的说话方式"), answers(both, captions)),
            Block(Titled("What it knew before", "原有的能力"), answers(both, skills)),
            Block(LOSS, curves([Line("", list(enumerate(result.losses, 1)))])),
            Block(SETTINGS, settings(recipe_settings(result.folder / "recipe.yaml"))),
            Block(NEXT, commands(_next_steps(result))),
        ],
    )


def _asked(folder: Path, probe: Probe, before: Answer, after: Answer, right: tuple[bool, bool]) -> Asked:
    return Asked(
        question=probe.pair.question,
        answers=[Said(before.text, right[0]), Said(after.text, right[1])],
        expected=probe.pair.answer,
        pictures=[(folder / "probes" / probe.file).read_bytes()] if probe.file is not None else [],
        alt=description(probe.scene, "en") if probe.scene is not None else "",
        lang="zh" if probe.pair.lang == "zh" else "en",
    )


def _totals(result: PictureRun) -> Sequence[tuple[Titled, Sequence[str]]]:
    before, after = result.before, result.after
    figures = (
        (Titled("captions in the new style", "符合新风格"), before.styled, after.styled),
        (Titled("captions in the new style and true", "符合新风格且与图片相符"), before.true, after.true),
        (Titled("other questions answered right", "其他问题答对"), before.right, after.right),
        (Titled("answers ended by the stop token", "正常结束的回答"), before.stopped, after.stopped),
    )
    return [(title, [f"{was:.0%}", f"{now:.0%}"]) for title, was, now in figures]


def _next_steps(result: PictureRun) -> Sequence[tuple[str, str]]:
    folder = result.folder
    picture = folder / "probes" / str(caption_probes()[0].file)
    return [
        ("Ask the tuned model.", f"ftx chat {result.merged.folder} --image {picture}"),
        ("Tune it to your own pictures.", f"ftx plan {folder / 'recipe.yaml'} --out runs/mine --data YOUR_ROWS.jsonl"),
        ("What happened, step by step.", f"less {folder / 'run' / 'events.jsonl'}"),
    ]
