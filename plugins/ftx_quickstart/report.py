"""Shows what the quickstart saw."""

from __future__ import annotations

from ftx.console import Console, sparkline
from ftx_quickstart.first_run import FirstRun
from ftx_quickstart.identity import identity_questions


def show(result: FirstRun, console: Console) -> None:
    """The before/after table, the loss curve, what was forgotten, and what to type next."""
    before, after = result.before, result.after
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
        }
    )
    rows = [
        [question, a.text, b.text]
        for question, a, b in zip(identity_questions(), before.identity, after.identity, strict=True)
    ]
    rows.append([f"{len(before.probes)} unrelated probes right", f"{before.right:.0%}", f"{after.right:.0%}"])
    rows.append(["answers ended by the stop token", f"{before.stopped:.0%}", f"{after.stopped:.0%}"])
    console.table("before and after", ["asked", "base", "tuned"], rows)
    console.say(f"loss {result.losses[0]:.2f} {sparkline(result.losses)} {result.losses[-1]:.3f}")
    run = result.folder / "run"
    console.say(
        "\nnext:\n"
        f"  ftx chat {result.merged.folder}\n"
        f"  ftx plan {result.folder / 'recipe.yaml'} --out runs/mine --data YOUR_ROWS.jsonl\n"
        f"  ftx train --plugin internlm2 --model {result.folder / 'run' / 'merged'} --data YOUR_ROWS.jsonl\n"
        f"  what happened, step by step: {run / 'events.jsonl'}"
    )
