"""The tools of the old chat: right results, bounded in every way, and called by a model that learnt to."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY
from ftx.tools import search as web
from ftx.tools.calculate import NoResult, calculate
from ftx.tools.calls import results, system_for
from ftx.tools.solve import solve
from ftx.train.fit import fit
from test_train import plan_for


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", "7"),
        ("(1 + 2) * 3 / 2", "4.5"),
        ("2^10", "1024"),
        ("-3 ** 2", "-9"),
        ("7 // 2 + 7 % 4", "6"),
        ("sqrt(16) + abs(-2)", "6"),
        ("max(1, 2.5)", "2.5"),
        ("round(2.6)", "3"),
        ("2 * pi", "6.28318530718"),
        ("6 × 7 − 2", "40"),
        ("10 / 4", "2.5"),
        ("(" * 140 + "1" + ")" * 140, "1"),
        ("-" * 298 + "1", "1"),
    ],
)
def test_calculate(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1/0", "division by zero"),
        ("9**9**9**9", "too large"),
        ("10**60 * 10", "too large"),
        ("exp(1000)", "cannot be calculated"),
        ("(-8) ** 0.5", "no real number"),
        ("sqrt(-1)", "cannot be calculated"),
        ("round(5, -10**59)", "cannot be calculated"),
        ("__import__('os').system('true')", "more than numbers"),
        ("().__class__", "more than numbers"),
        ("open('x')", "more than numbers"),
        ("[1 for x in (1,)]", "more than numbers"),
        ("True + 1", "more than numbers"),
        ("'a' * 10", "more than numbers"),
        ("x + 1", "more than numbers"),
        ("lambda: 1", "more than numbers"),
        ("1 +", "no arithmetic expression"),
        ("", "no arithmetic expression"),
        ("a\x00b", "no arithmetic expression"),
        ("1+" * 200 + "1", "longer than 300"),
    ],
)
def test_calculate_refuses(expression: str, why: str) -> None:
    with pytest.raises(NoResult, match=why):
        calculate(expression)


@pytest.mark.parametrize(
    ("equations", "found"),
    [
        ("x + 3 = 5", "x = 2"),
        ("2x = 3", "x = 3/2"),
        ("x/2 - 0.5 = 1", "x = 3"),
        ("3(y-1) = y + 5", "y = 4"),
        ("x + y = 10, x - y = 2", "x = 6, y = 4"),
        ("x+y+z=6; x-y=0; z=2", "x = 2, y = 2, z = 2"),
        ("x^2 - 5x + 6 = 0", "x = 2, x = 3"),
        ("x**2 = 2", "x = -1.414213562, x = 1.414213562"),
        ("x*x + 2x + 1 = 0", "x = -1"),
        ("(" * 50 + "1" + ")**2" * 50 + "*x = 1", "x = 1"),
    ],
)
def test_solve(equations: str, found: str) -> None:
    assert solve(equations) == found


@pytest.mark.parametrize(
    ("equations", "why"),
    [
        ("x = x", "no unknown"),
        ("x + y = 1", "no one solution"),
        ("x = 1, x = 2", "contradict each other"),
        ("x^2 + 1 = 0", "no real solution"),
        ("x^3 = 8", "more than numbers, letters"),
        ("x*y*z = 1", "only equations up to squares"),
        ("x*y = 1", "only linear equations, and one quadratic"),
        ("1/x = 2", "divides by an unknown"),
        ("x + 1", "left = right"),
        ("exit() = x", "more than numbers, letters"),
        ("x = " + "9" * 70, "too large"),
        ("x*x + x*" + "*".join(["9" * 45] * 5) + " - 2 = 0", "too large"),
        ("", "not one to 6 equations"),
        (",".join(f"x{i}=1" for i in range(9)), "not one to 6 equations"),
    ],
)
def test_solve_refuses(equations: str, why: str) -> None:
    with pytest.raises(NoResult, match=why):
        solve(equations)


def test_calls_by_all_of_the_old_names() -> None:
    """XTuner's own list had lost a comma: "calculate" and "Calculator" were never found."""
    on = ("calculate", "solve")
    for name in ("Calculate", "calculate", "Calculator", "calculator"):
        assert results(f'<|Commands|>: {name}("1+2")', on) == 'Calculate("1+2") => 3'
    for name in ("Solve", "solver"):
        assert results(f'{name}("x=1+2")', on) == 'Solve("x=1+2") => x = 3'
    assert results('Calculate("1/0"), Search("who?")', on) == (
        'Calculate("1/0") => error: it cannot be calculated: division by zero\nSearch("who?") => None'
    )
    assert results("None", on) == "None"


def test_the_system_text_says_what_is_on() -> None:
    text = system_for(["calculate"])
    assert "- Calculator: enabled. API: Calculate(expression)\n" in text
    assert "- Web search: disabled.\n- Calculator" in text
    assert "- Equation solver: disabled.\n" in text
    assert "{bot_name}" not in text


class _Serper(BaseHTTPRequestHandler):
    """Answers as serper.dev's documentation shows: results under "organic"; 403 for a wrong key."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.headers["X-API-KEY"] == "right"
        found = [{"title": f"{asked['q']} {i}", "link": "l", "snippet": "s"} for i in range(5)]
        body = json.dumps({"organic": found} if good else {"message": "Unauthorized."}).encode()
        self.send_response(200 if good else 403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def serper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), _Serper) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setattr(web, "ADDRESS", f"http://127.0.0.1:{server.server_port}/search")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("serper")
def test_search_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.KEY, "right")
    assert web.search("snow") == "<|0|>: snow 0: s\n<|1|>: snow 1: s\n<|2|>: snow 2: s"
    monkeypatch.setenv(web.KEY, "wrong")
    with pytest.raises(NoResult, match="refused with status 403"):
        web.search("snow")


def test_search_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ADDRESS", "http://127.0.0.1:9/search")
    with pytest.raises(NoResult, match="did not answer"):
        web.search("snow")


def moss(question: str, command: str, result: str, answer: str) -> dict[str, Any]:
    turn = {
        "Human": f"<|Human|>: {question}<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: a sum<eot>\n",
        "Commands": f"<|Commands|>: {command}<eoc>\n",
        "Tool Responses": f"<|Results|>: {result}<eor>\n",
        "MOSS": f"<|MOSS|>: {answer}<eom>\n",
    }
    return {"meta_instruction": system_for(["calculate"]), "num_turns": 1, "chat": {"turn_1": turn}}


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt to call the calculator, and to say what came of it."""
    folder = tmp_path_factory.mktemp("caller")
    row = moss("3+4?", 'Calculate("3+4")', 'Calculate("3+4") => 7', "It is 7.")
    (folder / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    how = {"method": "full", "template": "moss_sft", "train__max_steps": 60, "train__lr": 1e-2}
    fit(plan_for(TINY, folder / "rows.jsonl", folder / "run", **how))
    return folder / "run"


def test_a_model_calls_the_calculator(ftx: Any, caller: Path) -> None:
    ran, answer = ftx("chat", caller, "--tools", "calculate", "--once", "3+4?", "--json").events
    assert ran == {"event": "tools", "results": 'Calculate("3+4") => 7'}
    assert answer["text"] == "<|MOSS|>: It is 7.<eom>"
    shown = ftx("chat", caller, "--tools", "calculate", "--once", "3+4?")
    assert shown.out.endswith("<|MOSS|>: It is 7.<eom>\n")
    assert "<eoc>" not in shown.out
    assert 'Calculate("3+4") => 7' in shown.err


def test_a_saved_call_is_a_row_to_train_on(ftx: Any, caller: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("3+4?\n/save said.jsonl\n"))
    assert ftx("chat", caller, "--tools", "calculate").code == 0
    (row,) = map(json.loads, Path("said.jsonl").read_text("utf-8").splitlines())
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert row["messages"][2]["content"].endswith('Calculate("3+4")<eoc>')
    checked = ftx("data", "check", "said.jsonl", "--json").events[-1]
    assert checked["rows"]["rejected"] == 0


def test_tools_that_cannot_be_used_are_refused(ftx: Any, caller: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(web.KEY, raising=False)
    search = ftx("chat", caller, "--tools", "search", "--once", "a")
    assert (search.code, "set SERPER_API_KEY, or leave search out" in search.err) == (2, True)
    plain = ftx("chat", TINY, "--template", "internlm2_chat", "--tools", "solve", "--once", "a")
    assert (plain.code, "trained on tool data, as with template moss_sft" in plain.err) == (2, True)
    both = ftx("chat", caller, "--tools", "solve", "--image", "a.png", "--once", "a")
    assert "--tools and --image do not go together" in both.err
    monkeypatch.setattr("sys.stdin", io.StringIO("/image a.png\n"))
    assert "with --tools no picture is shown" in ftx("chat", caller, "--tools", "solve").err
