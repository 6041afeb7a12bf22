"""Every app in an environment of its own, made from its own requirements, used over HTTP and in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftx.apps.environment import app_python
from ftx.apps.serve import running
from test_apps import BASE, REGISTRY, SEES, made, template

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
NAMES = ("gradio_chat", "gradio_vision", "gradio_rag", "streamlit_chat")
ENDLESS = {"APP_MAX_NEW_TOKENS": "1900"}
SHOTS = os.environ.get("FTX_SCREENSHOTS")  # a folder to keep pictures of the pages in
BOT = '[data-testid="bot"]'


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("apps")
    titles = {"gradio_rag": "Ask the documents", "gradio_vision": "Look at this"}
    return {
        name: made(name, SEES if name == "gradio_vision" else BASE, folder, title=titles.get(name, "Small talk"))
        for name in NAMES
    }


@pytest.fixture(scope="module")
def python(apps: dict[str, Path]) -> Any:
    """The interpreter of an app's own fresh environment; FTX_APP_PYTHON names one that has all requirements."""
    named = os.environ.get("FTX_APP_PYTHON")
    return lambda name: app_python(apps[name], Path(named) if named else None, print)


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
    """A copy of an app whose model never stops by itself."""

    def copied(name: str) -> Path:
        folder = tmp_path / f"endless-{name}"
        shutil.copytree(apps[name], folder)
        (folder / "model/generation_config.json").write_text('{"eos_token_id": [0]}')
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
    assert ways.count("http") >= 3


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


def test_gradio_chat_in_a_browser(apps: dict[str, Path], python: Any, page: Any) -> None:
    with running(apps["gradio_chat"], python("gradio_chat"), {}) as url:
        page.goto(url)
        for question, answer in (("What colour is snow?", "Snow is white."), ("Who are you?", "I am a tiny language")):
            page.locator("textarea:visible").first.fill(question)
            page.keyboard.press("Enter")
            page.locator(BOT).filter(has_text=answer).wait_for()
        assert page.locator(BOT).count() == 2
        shot(page, "gradio_chat")
        page.get_by_label("Clear").click()
        page.locator(BOT).first.wait_for(state="detached")
        page.locator("textarea:visible").first.fill("x" * 30_000)
        page.keyboard.press("Enter")
        page.get_by_text("The question has 30,000 characters").wait_for()
        shot(page, "gradio_refusal")


@pytest.mark.parametrize("name", ["gradio_chat", "gradio_vision"])
def test_stop_and_leaving_stop_the_model(name: str, endless: Any, python: Any, browser: Any) -> None:
    with running(endless(name), python(name), ENDLESS) as url:
        page = browser.new_page()
        page.goto(url)
        page.locator("textarea:visible").first.fill("What colour is snow?")
        page.keyboard.press("Enter")
        page.locator(BOT).filter(has_text="Snow is white.").wait_for()  # streamed: it has not ended
        assert health(url)["busy"]
        page.locator("button.stop-button").click()
        assert ended(url)["ended"] == "left"

        page.reload()
        page.locator("textarea:visible").first.fill("What colour is snow?")
        page.keyboard.press("Enter")
        page.locator(BOT).filter(has_text="Snow is white.").wait_for()
        page.close()
        assert ended(url)["ended"] == "left"

        question = {"text": "你好", "files": []} if name == "gradio_vision" else "你好"
        with post(url, question) as stream:
            while not stream.readline().startswith(b"data:"):
                pass
        assert ended(url)["ended"] == "left"


def test_twenty_clients_at_once_and_a_second_while_the_first_runs(apps: dict[str, Path], python: Any) -> None:
    with running(apps["gradio_chat"], python("gradio_chat"), {}) as url, ThreadPoolExecutor(20) as clients:
        questions = ["What colour is snow?", "你好"] * 10
        found = list(clients.map(lambda question: answer_of(url, question), questions))
        assert [json.loads(data)[0] for _, data in found] == ["Snow is white.", "你好！有什么可以帮你的吗？"] * 10


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


@pytest.mark.parametrize("name", ["gradio_rag"])
def test_killed_and_started_again(name: str, apps: dict[str, Path], python: Any) -> None:
    """On the same port, in the middle of an answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    answers = []
    for _ in range(2):
        environment = {**os.environ, "PORT": str(port)}
        with subprocess.Popen(
            [python(name), "app.py"], cwd=apps[name], env=environment, stdout=subprocess.PIPE, text=True
        ) as app:
            assert app.stdout is not None
            assert any(line.startswith("app: answering") for line in app.stdout)
            answers.append(answer_of(url, "What colour is snow?"))
            post(url, "你好").close()
            app.kill()
    assert answers[0] == answers[1]
    assert answers[0][0] == "complete"


def test_pictures_in_a_browser(apps: dict[str, Path], python: Any, page: Any, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"this is no picture")
    folder = apps["gradio_vision"]
    with running(folder, python("gradio_vision"), {}) as url:
        page.goto(url)
        (probe,) = (one for one in json.loads((folder / "probes.json").read_text())["probes"] if one["image"])
        for picture, answer in ((folder / probe["image"], probe["answer"]), (tmp_path / "cat.png", None)):
            page.locator('input[type="file"]').first.set_input_files(picture)
            page.get_by_label("Remove file").wait_for()
            page.locator("textarea:visible").first.fill("What is in the picture?")
            page.keyboard.press("Enter")
            if answer:
                page.locator(BOT).filter(has_text=answer).wait_for()
                shot(page, "gradio_vision")
            else:
                page.get_by_text("cat.png is no picture that can be opened").first.wait_for()


def test_documents_in_a_browser(apps: dict[str, Path], python: Any, page: Any) -> None:
    with running(apps["gradio_rag"], python("gradio_rag"), {}) as url:
        page.goto(url)
        page.locator("textarea:visible").first.fill("What is snow?")
        page.keyboard.press("Enter")
        page.locator(BOT).filter(has_text="Sources: snow.md").wait_for()
        shot(page, "gradio_rag")


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


def test_streamlit_in_a_browser(apps: dict[str, Path], endless: Any, python: Any, page: Any) -> None:
    chat = '[data-testid="stChatMessage"]'
    with running(apps["streamlit_chat"], python("streamlit_chat"), {}) as url:
        page.goto(url)
        page.locator("textarea:visible").first.fill("What colour is snow?")
        page.keyboard.press("Enter")
        page.locator(chat).filter(has_text="Snow is white.").wait_for()
        shot(page, "streamlit_chat")
        page.get_by_role("button", name="Clear").click()
        page.locator(chat).first.wait_for(state="detached")
        page.locator("textarea:visible").first.fill("x" * 30_000)
        page.keyboard.press("Enter")
        page.get_by_text("The question has 30,000 characters").wait_for()
    with running(endless("streamlit_chat"), python("streamlit_chat"), ENDLESS) as url:
        page.goto(url)
        page.locator("textarea:visible").first.fill("What colour is snow?")
        page.keyboard.press("Enter")
        page.locator(chat).filter(has_text="Snow is white.").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_test_id("stStatusWidget").wait_for(state="detached")  # nothing runs any more
        kept = page.locator(chat).last.inner_text()
        assert "Snow is white." in kept
        page.locator("textarea:visible").first.fill("你好")  # the next question is answered, after what was kept
        page.keyboard.press("Enter")
        page.locator(chat).nth(3).wait_for()


def test_ftx_app_run_ends_with_the_app(apps: dict[str, Path], python: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ftx", "app", "run", apps["gradio_chat"], "--port", str(port), "--python"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command.append(python("gradio_chat"))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("app: answering") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
