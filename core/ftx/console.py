"""The only place that prints: rich on stderr for people, one JSON object a line on stdout for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftx.redaction import scrub, scrub_within

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
# What a sentence may quote from data, and no terminal should get: control characters and halves of characters.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _visible(text: str) -> str:
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _whole(text: str) -> str:
    """The text with JSON's escape in place of half a character, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(text: str, style: str = "") -> Text:
    """Text that rich shows as it is: square brackets are no markup, and `:names:` no pictures."""
    from rich.text import Text

    return Text(_whole(scrub(text)), style)


def _print_json(value: Mapping[str, Any]) -> None:
    """One line of JSON."""
    print(_whole(json.dumps(scrub_within(value), ensure_ascii=False)), flush=True)


class Console:
    """Shows events. `json_lines`: machine form on stdout instead of text on stderr; `quiet`: neither."""

    def __init__(self, *, json_lines: bool = False, quiet: bool = False) -> None:
        self.json_lines = json_lines
        self.quiet = quiet or json_lines
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._rich: RichConsole | None = None

    @property
    def rich(self) -> RichConsole:
        """The human console, on stderr."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, quiet=self.quiet, highlight=False)
        return self._rich

    def event(self, event: Mapping[str, Any]) -> None:
        """One event: to stdout as JSON, or to the progress bar and the screen."""
        if self.json_lines:
            _print_json(event)
        elif not self.quiet:
            show = getattr(self, f"_show_{event['event']}", None)
            if show:
                show(event)

    def say(self, text: str) -> None:
        """A line for people."""
        self.rich.print(_plain(text))

    def output(self, text: str, end: str = "\n") -> None:
        """What the command was asked for, on stdout."""
        print(text, end=end, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people, on stdout."""
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=_plain(title, "table.title"), title_justify="left", show_lines=False)
        for column in columns:
            table.add_column(_plain(column), overflow="fold")
        for row in rows:
            table.add_row(*map(_plain, row))
        if not self.quiet:
            RichConsole(highlight=False).print(table)

    def rendered(self, text: Text, title: str) -> None:
        """Styled text in a frame, on stdout."""
        from rich.console import Console as RichConsole
        from rich.panel import Panel

        if not self.quiet:
            RichConsole(highlight=False).print(Panel(text, title=_plain(title), title_align="left"))

    def warn(self, text: str) -> None:
        if self.json_lines:
            _print_json({"event": "warning", "message": text})
        self.rich.print(_plain(f"warning: {text}", "yellow"))

    def error(self, kind: str, code: int, problems: Sequence[str]) -> None:
        """Why the command ends, one sentence a line on stderr."""
        if self.json_lines:
            _print_json({"event": "error", "kind": kind, "code": code, "problems": list(problems)})
        for problem in problems:
            print(f"ftx: {_visible(scrub(problem))}", file=sys.stderr)

    def close(self) -> None:
        """Take the progress bar off the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show_started(self, event: Mapping[str, Any]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        trained = f"{event['trainable']:,} of {event['parameters']:,} parameters"
        self.say(f"training {trained} for {event['steps']} steps on {event['device']}")
        if not self.rich.is_terminal:
            return
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tok/s  ETA"),
            TimeRemainingColumn(),
            console=self.rich,
        )
        self._task = self._progress.add_task("train", total=event["steps"], loss="-", speed="-")
        self._progress.start()

    def _show_step(self, event: Mapping[str, Any]) -> None:
        loss, speed = f"{event['loss']:.4f}", f"{event['tokens_per_s']:,.0f}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=event["step"], loss=loss, speed=speed)
        elif event["step"] % max(1, event["steps"] // 10) == 0 or event["step"] == event["steps"]:
            eta = f"{event['eta_s']:.0f} s"
            self.say(f"step {event['step']}/{event['steps']}  loss {loss}  {speed} tok/s  ETA {eta}")

    def _show_sample(self, event: Mapping[str, Any]) -> None:
        cut = "" if event["stopped"] else " [cut off]"
        self.say(f"step {event['step']}  {event['question']} -> {event['answer']}{cut}")

    def _show_sending(self, event: Mapping[str, Any]) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        if not self.rich.is_terminal:
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("sent"), DownloadColumn(), BarColumn(), TimeRemainingColumn(), console=self.rich
            )
            self._task = self._progress.add_task("send", total=event["total"])
            self._progress.start()
        if self._task is not None:
            self._progress.update(self._task, completed=event["sent"])

    def _show_published(self, event: Mapping[str, Any]) -> None:
        self.close()
        what = f"{event['sent_files']} files sent" if event["sent_files"] else "it was all there already"
        seen = "public" if event["public"] else "not made public"
        self.say(f"{event['address']} holds it at {event['revision']}, {seen}; {what}")
        for step in event["by_hand"]:
            self.say(step)

    def _show_resumed(self, event: Mapping[str, Any]) -> None:
        self.say(f"resumed after step {event['step']} from {event['checkpoint']}")

    def _show_finished(self, event: Mapping[str, Any]) -> None:
        self.close()
        self.say(f"{event['kind']} sealed in {event['artifact']} after {event['seconds']:.1f} s")

    def _show_verified(self, event: Mapping[str, Any]) -> None:
        difference = event["max_logit_difference"]
        off = "" if difference is None else f"; logits differ by at most {difference:.2g}"
        self.say(f"{event['form']}: {'as trained' if event['passed'] else 'NOT as trained'}{off}")
        for note in event["notes"]:
            self.say(f"  note: {note}")

    def _show_merged(self, event: Mapping[str, Any]) -> None:
        self.say(
            f"merged model in {event['artifact']}; logits of merged and unmerged differ by "
            f"{event['max_logit_difference']:.2g} at a scale of {event['logit_scale']:.2g}"
        )


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A curve in one line of block characters; `values` are averaged down to `width` of them."""
    if not values:
        return ""
    per = max(1, -(-len(values) // width))
    means = [sum(values[i : i + per]) / len(values[i : i + per]) for i in range(0, len(values), per)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
