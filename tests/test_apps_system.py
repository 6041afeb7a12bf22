"""Every app in an environment of its own, made from its own requirements, used over HTTP and in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ftx.apps.environment import app_python
from ftx.apps.serve import _healthy, app_manifest, running
from test_apps import BASE, REGISTRY, SEES, made, template

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
NAMES = ("gradio_chat", "gradio_vision", "gradio_rag", "streamlit_chat")
ENDLESS = {"APP_MAX_NEW_TOKENS": "1900"}
SHOTS = os.environ.get("FTX_SCREENSHOTS")  # a folder to keep pictures of the pages in
BOT = '[data-testid="bot"]'
CHAT = '[data-testid="stChatMessage"]'
ASK = "textarea:visible"
ANSWERS = {"What colour is snow?": "Snow is white.", "你好": "你好！有什么可以帮你的吗？"}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("apps")
    titles = {"gradio_rag": "Ask the documents", "gradio_vision": "Look at this"}
    return {
        name: made(name, SEES if name == "gradio_vision" else BASE, folder, title=titles.get(name, "Small talk"))
        for name in NAMES
    }


@pytest.fixture(scope="module")
def python(apps: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The interpreter of an app's own fresh environment; FTX_APP_PYTHON names one that has all requirements.

    An environment takes 1.5 GB: all workers share one.
    """
    named = os.environ.get("FTX_APP_PYTHON")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environments"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTX_ENVIRONMENTS", str(shared))
        yield lambda name: app_python(apps[name], Path(named) if named else None, print)


@pytest.fixture(scope="module")
def served(apps: dict[str, Path], python: Any) -> Iterator[Any]:
    """The address of an app that runs until the module's end, for tests that leave it as it was."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(running(apps[name], python(name), {})))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from ftx.apps.browser import _chromium

    with sync_playwright() as driver:
        found = _chromium(driver)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": 800, "height": 600})
    yield found
    found.close()


@pytest.fixture
def endless(apps: dict[str, Path], tmp_path: Path) -> Any:
    """A copy of an app whose model, as slow as a large one, never stops by itself.

    How an answer ended it writes into ended/, a file each.
    """

    def copied(name: str) -> Path:
        folder = tmp_path / f"endless-{name}"
        shutil.copytree(apps[name], folder)
        (folder / "ended").mkdir()
        (folder / "model/generation_config.json").write_text('{"eos_token_id": [0]}')
        code, last = (folder / "model.py").read_text(), 'self.last = {"tokens": len(new), "ended": ended}'
        token = "new.append(token)"
        assert last in code and token in code
        code = code.replace(token, f"{token}\n                time.sleep(0.05)")
        told = last + '\n            (HERE / "ended" / str(len(list((HERE / "ended").iterdir())))).write_text(ended)'
        (folder / "model.py").write_text(code.replace(last, told))
        return folder

    return copied


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def health(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def ended(url: str) -> dict[str, Any]:
    """What the app says of its last answer, once it answers no more."""
    while True:
        found = health(url)
        if found["last_answer"] and not found["busy"]:
            return dict(found["last_answer"])


def ask(page: Any, question: str) -> None:
    """Pressed again until the page takes it, which empties the field: while an answer ends it takes none."""
    field = page.locator(ASK).first
    field.fill(question)
    for _ in range(20):
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        if not field.input_value():
            return
    raise AssertionError("the page does not take the question")


def endings(folder: Path, number: int) -> list[str]:
    """How the answers of an endless app ended, once so many did."""
    files = [folder / "ended" / str(i) for i in range(number)]
    while not all(file.is_file() and file.read_text() for file in files):
        time.sleep(0.05)
    return [file.read_text() for file in files]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(folder: Path, python: Path, port: int) -> Iterator[str]:
    """The address of the app on that port, which dies at the end of the block as a machine does."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([python, "app.py"], cwd=folder, env={**os.environ, "PORT": str(port)}) as app:
        try:
            assert _healthy(url + app_manifest(folder)["health"], app)
            yield url
        finally:
            app.kill()


def post(url: str, question: object) -> Any:
    """The open stream of events of a question."""
    body = json.dumps({"data": [question]}).encode()
    base = f"{url}/gradio_api/call/chat"
    request = urllib.request.Request(base, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    return urllib.request.urlopen(f"{base}/{event}", timeout=600)


def answer_of(url: str, question: str) -> tuple[str, str]:
    """The last event of a question and its data."""
    with post(url, question) as stream:
        lines = [line.decode().strip() for line in stream]
    events = [line for line in lines if line]
    return events[-2].removeprefix("event: "), events[-1].removeprefix("data: ")


@pytest.mark.parametrize("name", NAMES)
def test_each_app_answers_as_ftx_does(name: str, apps: dict[str, Path], python: Any, ftx: Any, tmp_path: Path) -> None:
    result = ftx("app", "check", apps[name], "--python", python(name), "--browser", "--json")
    assert result.code == 0, result.err
    ways = [event["way"] for event in result.events]
    assert ways.count("browser") == 1
    assert ways.count("page" if name == "streamlit_chat" else "http") >= 3


PAGE = """<textarea onkeydown="answer()"></textarea><div data-testid="bot"></div><script>
function answer() {
  const bot = document.querySelector("div");
  bot.innerHTML = "<strong>Snow</strong> is white.";
  if (location.hash == "#endless") setInterval(() => bot.append(" Snow."), 10);
}
</script>"""


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        ("#whole", None),
        ("#endless", "and no end of it after 2 s"),
        ("none.html", "the page does not work: "),
    ],
)
def test_a_page_is_seen_whole(end: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx.apps import browser

    if end == "#endless":
        monkeypatch.setattr(browser, "PATIENCE", 2.0)
    (tmp_path / "page.html").write_text(PAGE, "utf-8")
    url = (tmp_path / "page.html").as_uri() + end
    found = browser.seen(url, "?", "**Snow** is white.", None)
    assert found.way == "browser"
    assert found.problem is None if problem is None else problem in str(found.problem), found.problem


def test_an_app_that_answers_otherwise_is_caught(apps: dict[str, Path], python: Any, ftx: Any, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(apps["gradio_chat"], folder)
    probes = json.loads((folder / "probes.json").read_text())
    probes["probes"][1]["answer"] = "I am somebody else."
    probes["probes"][2]["prompt_ids"][3] += 1
    (folder / "probes.json").write_text(json.dumps(probes))
    result = ftx("app", "check", folder, "--python", python("gradio_chat"))
    assert result.code == 7
    assert "ftx 'I am somebody else.'" in result.err
    assert "token ids differ from ftx's, first at place 3" in result.err
    alone = subprocess.run([python("gradio_chat"), "smoke_test.py"], cwd=folder, capture_output=True, text=True)
    assert alone.returncode == 7
    assert alone.stdout.count("DIFFERS") == 2


def test_gradio_chat_in_a_browser(served: Any, page: Any) -> None:
    page.goto(served("gradio_chat"))
    for question, answer in (("What colour is snow?", "Snow is white."), ("Who are you?", "I am a tiny language")):
        ask(page, question)
        page.locator(BOT).filter(has_text=answer).wait_for()
    assert page.locator(BOT).count() == 2
    shot(page, "gradio_chat")
    cleared(page)
    ask(page, "x" * 30_000)
    page.get_by_text("The question has 30,000 characters").wait_for()


def cleared(page: Any) -> None:
    """Clear takes all that was said away, and what is asked next is answered."""
    idle(page)
    page.get_by_label("Clear").click()
    page.locator(BOT).first.wait_for(state="detached")
    ask(page, "What colour is snow?")
    page.locator(BOT).filter(has_text="Snow is white.").wait_for()
    assert page.locator(BOT).count() == 1
    idle(page)


def idle(page: Any) -> None:
    """Wait for the end of an answer, which stands whole on the page before: Gradio takes nothing else until then."""
    page.locator("button.stop-button").wait_for(state="detached")


@pytest.mark.parametrize("name", ["gradio_chat", "gradio_vision"])
def test_stop_and_leaving_stop_the_model(name: str, endless: Any, python: Any, browser: Any) -> None:
    with running(endless(name), python(name), ENDLESS) as url:
        page = browser.new_page()
        page.goto(url)
        ask(page, "What colour is snow?")
        page.locator(BOT).filter(has_text="Snow is white.").wait_for()  # streamed: it has not ended
        assert health(url)["busy"]
        page.locator("button.stop-button").click()
        assert ended(url)["ended"] == "left"

        page.reload()
        ask(page, "What colour is snow?")
        other = browser.new_page()
        other.goto(url)
        ask(other, "你好")
        other.get_by_text("queue: 1/1").wait_for()
        other.close()
        page.close()
        assert ended(url)["ended"] == "left"

        with post(url, message(name, "你好")) as stream:
            while not stream.readline().startswith(b"data:"):
                pass
        assert ended(url)["ended"] == "left"


def message(name: str, question: str) -> object:
    """A question as the page's interface for programs takes it."""
    return {"text": question, "files": []} if name == "gradio_vision" else question


@pytest.mark.parametrize("name", ["gradio_chat", "gradio_vision", "gradio_rag"])
def test_twenty_clients_at_once(name: str, served: Any) -> None:
    url = served(name)
    with ThreadPoolExecutor(20) as clients:
        questions = [message(name, question) for question in ANSWERS] * 10
        found = list(clients.map(lambda question: answer_of(url, question), questions))
    alone = [answer_of(url, question) for question in questions[:2]]
    assert found == alone * 10
    assert {event for event, _ in found} == {"complete"}
    if name != "gradio_rag":  # whose prompt the tiny model was never trained on
        assert [json.loads(data)[0] for _, data in alone] == list(ANSWERS.values())


def test_twenty_streamlit_pages_at_once(served: Any, browser: Any) -> None:
    """In one browser, each a session of its own."""
    url = served("streamlit_chat")
    pages = [browser.new_page() for _ in range(20)]
    for page in pages:
        page.goto(url)
    for page in pages:
        page.locator(ASK).first.wait_for()
    questions = list(ANSWERS) * 10
    for page, question in zip(pages, questions, strict=True):
        ask(page, question)
    for page, question in zip(pages, questions, strict=True):
        page.locator(CHAT).nth(1).filter(has_text=ANSWERS[question]).wait_for()
        assert page.locator(CHAT).count() == 2
        page.close()


def test_errors_are_sentences_without_a_stack_trace(apps: dict[str, Path], python: Any, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(apps["gradio_chat"], folder)
    code = (folder / "model.py").read_text()
    broken = 'question: str) -> None:\n        if question == "break":\n            raise ValueError("/secret/path")'
    (folder / "model.py").write_text(code.replace("question: str) -> None:", broken, 1))
    with running(folder, python("gradio_chat"), {}) as url:
        event, data = answer_of(url, "x" * 100_000)
        assert (event, "100,000 characters" in data) == ("error", True)
        event, data = answer_of(url, "break")
        assert (event, "Something went wrong" in data) == ("error", True)
        assert "secret" not in data
        assert "Traceback" not in data


@pytest.mark.parametrize("name", ["gradio_chat", "streamlit_chat"])
def test_a_taken_port_is_one_sentence(name: str, apps: dict[str, Path], python: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "PORT": str(port)}
        done = subprocess.run([python(name), "app.py"], cwd=apps[name], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"app: port {port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_documents_are_asked_about_and_a_kill_spoils_nothing(apps: dict[str, Path], python: Any, page: Any) -> None:
    """Killed in the middle of an answer and started on the same port: the index is as it was, the page begins anew."""
    port, folder = free_port(), apps["gradio_rag"]
    answers = []
    for round in range(2):
        with started(folder, python("gradio_rag"), port) as url:
            page.goto(url)
            page.locator(ASK).first.wait_for()
            assert page.locator(BOT).count() == 0
            ask(page, "What is snow?")
            page.locator(BOT).filter(has_text="Sources: snow.md").wait_for()
            if not round:
                shot(page, "gradio_rag")
            answers.append((page.locator(BOT).inner_text(), (folder / "index/whole.txt").stat().st_mtime_ns))
            post(url, "你好").close()
    assert answers[0] == answers[1]


def test_an_index_that_was_cut_off_is_made_anew(apps: dict[str, Path], python: Any, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    shutil.copytree(apps["gradio_rag"], folder, ignore=shutil.ignore_patterns("index"))
    for i in range(400):
        (folder / f"documents/{i}.txt").write_text(f"Document {i} tells of snow. " * 40, "utf-8")
    command = [python("gradio_rag"), "build_index.py"]
    with subprocess.Popen(command, cwd=folder) as building:
        while not (folder / "index/chroma.sqlite3").is_file():
            assert building.poll() is None
        building.kill()
    assert not (folder / "index/whole.txt").exists()
    subprocess.run(command, cwd=folder, check=True)
    count = (
        "import documents as d; print(d._client().get_collection(d.NAME, embedding_function=None).count(), "
        "len(d._passages(d.HERE / 'documents', 400)))"
    )
    told = subprocess.run([command[0], "-c", count], cwd=folder, capture_output=True, text=True, check=True).stdout
    indexed, passages = map(int, told.split())
    assert indexed == passages > 400


def test_pictures_in_a_browser(apps: dict[str, Path], served: Any, page: Any, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"this is no picture")
    folder = apps["gradio_vision"]
    page.goto(served("gradio_vision"))
    (probe,) = (one for one in json.loads((folder / "probes.json").read_text())["probes"] if one["image"])
    for picture, answer in ((folder / probe["image"], probe["answer"]), (tmp_path / "cat.png", None)):
        with page.expect_response(lambda answer: "/upload" in answer.url):
            page.locator('input[type="file"]').first.set_input_files(picture)
        page.get_by_label("Remove file").wait_for()
        ask(page, "What is in the picture?")
        if answer:
            page.locator(BOT).filter(has_text=answer).wait_for()
            shot(page, "gradio_vision")
            cleared(page)
        else:
            page.get_by_text("cat.png is no picture that can be opened").first.wait_for()


def test_a_sentence_encoder_finds_passages_too(python: Any, tmp_path: Path) -> None:
    """Any encoder of transformers; here the states of a tiny language model stand for one."""
    from ftx.apps.make import make_app

    encoder = tmp_path / "encoder"
    shutil.copytree(made("gradio_chat", BASE, tmp_path) / "model", encoder)
    app = template("gradio_rag", tmp_path, encoder=str(encoder))
    make_app(app, BASE, "local", tmp_path / "app", {}, REGISTRY)
    done = subprocess.run(
        [python("gradio_rag"), "build_index.py"], cwd=tmp_path / "app", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app/index/whole.txt").is_file()
    shutil.rmtree(tmp_path / "app/documents")
    done = subprocess.run(
        [python("gradio_rag"), "build_index.py"], cwd=tmp_path / "app", capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, "app: documents/ holds no document with text: put .txt or .md files there",
    )  # fmt: skip


def test_streamlit_in_a_browser(served: Any, page: Any) -> None:
    page.goto(served("streamlit_chat"))
    ask(page, "What colour is snow?")
    page.locator(CHAT).filter(has_text="Snow is white.").wait_for()
    shot(page, "streamlit_chat")
    page.get_by_role("button", name="Clear").click()
    page.locator(CHAT).first.wait_for(state="detached")
    ask(page, "x" * 30_000)
    page.get_by_text("The question has 30,000 characters").wait_for()


def test_streamlit_s_stop_and_leaving_stop_the_model(endless: Any, python: Any, browser: Any) -> None:
    folder = endless("streamlit_chat")
    with running(folder, python("streamlit_chat"), ENDLESS) as url:
        page, other = browser.new_page(), browser.new_page()
        page.goto(url)
        ask(page, "What colour is snow?")
        page.locator(CHAT).filter(has_text="Snow is white.").wait_for()
        page.get_by_role("button", name="Stop").click()
        assert endings(folder, 1) == ["left"]
        assert "Snow is white." in page.locator(CHAT).last.inner_text()
        ask(page, "你好")  # the next question is answered, after what was kept
        page.locator(CHAT).nth(3).filter(has_text=re.compile(".")).wait_for()
        other.goto(url)
        ask(other, "你好")
        other.get_by_text("Others asked before you").wait_for()
        other.close()  # who leaves the line is never answered
        page.close()
        assert endings(folder, 2) == ["left", "left"]


def test_streamlit_killed_and_started_again(apps: dict[str, Path], python: Any, page: Any) -> None:
    """The same port answers again; the conversation was the app's and is gone."""
    port = free_port()
    for _ in range(2):
        with started(apps["streamlit_chat"], python("streamlit_chat"), port) as url:
            page.goto(url)
            page.locator(CHAT).first.wait_for(state="detached")
            ask(page, "What colour is snow?")
            page.locator(CHAT).filter(has_text="Snow is white.").wait_for()
            assert page.locator(CHAT).count() == 2


def test_ftx_app_run_ends_with_the_app(apps: dict[str, Path], python: Any) -> None:
    port = free_port()
    command = [sys.executable, "-m", "ftx", "app", "run", apps["gradio_chat"], "--port", str(port), "--python"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command.append(python("gradio_chat"))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("app: answering") for line in process.stdout)
        process.terminate()
        assert process.wait() == 0
