"""Does this app answer as it should? python smoke_test.py starts it, asks the questions of probes.json and compares.

Ends with 0 when all answers are as recorded, 7 when one differs, 2 when the app does not start. With --url it asks an
app that runs already. With --json the answers are printed as JSON lines, and nothing is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
STARTS = 900  # seconds until the health route has to answer: a large model takes long to load
SOURCES = "\n\n**Sources:** "  # after it an answer names its documents
GREEDY = {"APP_TEMPERATURE": "0", "PYTHONUNBUFFERED": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="an app that runs already")
    parser.add_argument("--json", action="store_true", help="print the answers, compare nothing")
    given = parser.parse_args()
    kept = json.loads((HERE / "probes.json").read_text("utf-8"))
    probes = kept["probes"]
    GREEDY["APP_MAX_NEW_TOKENS"] = str(kept["max_new_tokens"])  # answers were kept up to there
    if given.url:
        return report(probes, given.url.rstrip("/"), given.json)
    port = free_port()
    environment = {**os.environ, **GREEDY, "PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=HERE, env=environment, stdout=sys.stderr)
    try:
        url = f"http://127.0.0.1:{port}"
        if not healthy(url, app):
            print(f"app: it did not start (exit code {app.poll()})", file=sys.stderr)
            return 2
        return report(probes, url, given.json)
    finally:
        app.terminate()
        app.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def health_route() -> str:
    return json.loads((HERE / "app.json").read_text("utf-8"))["health"]


def healthy(url: str, app: subprocess.Popen) -> bool:
    """Wait until the health route answers; False when the app ended before."""
    until = time.monotonic() + STARTS
    while app.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url + health_route(), timeout=5) as answer:
                return answer.status == 200
        except OSError:
            time.sleep(0.2)
    return False


def report(probes: list, url: str, as_json: bool) -> int:
    from prompt import Prompts  # the app's own way to token ids
    from settings import read_settings

    settings = read_settings()
    differ = 0
    prompts = None if settings["model_repo"] else Prompts(HERE / settings["model_folder"])
    for probe in probes:
        said = ask(url, probe["question"], probe.get("image"))
        asked, answer = as_asked(probe["question"]), said.partition(SOURCES)[0]
        ids = None
        if prompts and not probe.get("image"):
            system = [{"role": "system", "content": settings["system"]}] if settings["system"] else []
            ids = prompts.ids([*system, {"role": "user", "content": asked}], [])
        if as_json:
            values = {"question": probe["question"], "prompt": asked, "prompt_ids": ids, "answer": answer}
            print(json.dumps(values, ensure_ascii=False))
            continue
        same = answer == probe["answer"] and (ids is None or probe.get("image") or ids == probe["prompt_ids"])
        right = same if asked == probe["question"] else not said.startswith("error: ")
        differ += not right
        line = f"{'ok' if right else 'DIFFERS'}: {probe['question']!r}: {said!r}"
        print(line if right else f"{line}, not {probe['answer']!r}")
    return 7 if differ else 0


def as_asked(question: str) -> str:
    """What the model is asked for a question: the same, or with the passages that were found for it."""
    if not (HERE / "documents.py").is_file():
        return question
    from documents import open_documents
    from settings import read_settings

    return open_documents(read_settings()).prompt(question)[0]


def ask(url: str, question: str, image: str | None) -> str:
    """The page's answer: over HTTP where it has an interface for programs, else from the page run without a browser."""
    if (HERE / "page.py").is_file():
        return ask_streamlit(question)
    message = question
    if (HERE / "eyes.py").is_file():
        message = {"text": question, "files": [upload(url, HERE / image)] if image else []}
    base = url + prefix(url)
    history = [] if prefix(url) else [None]  # Gradio 4 counts the page's own state among the inputs
    body = json.dumps({"data": [message, *history]}).encode()
    request = urllib.request.Request(base + "/call/chat", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    kind, last = "", ""
    with urllib.request.urlopen(f"{base}/call/chat/{event}", timeout=STARTS) as stream:
        for raw in stream:
            line = raw.decode("utf-8").rstrip("\n")
            if line.startswith("event:"):
                kind = line[6:].strip()
            elif line.startswith("data:") and kind in ("generating", "complete"):
                data = json.loads(line[5:])
                last = data[0] if data else last
            elif line.startswith("data:") and kind == "error":
                return "error: " + line[5:].strip()
    return last if isinstance(last, str) else json.dumps(last, ensure_ascii=False)


def prefix(url: str) -> str:
    """Where this version of Gradio has its interface for programs."""
    with urllib.request.urlopen(url + "/config", timeout=60) as answer:
        return json.load(answer).get("api_prefix") or ""


def upload(url: str, path: Path) -> dict:
    """The picture as a file of the app."""
    edge = "smoke-test-edge"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n'
    body = (head + "Content-Type: image/png\r\n\r\n").encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    with urllib.request.urlopen(
        urllib.request.Request(url + prefix(url) + "/upload", body, kind), timeout=60
    ) as answer:
        return {"path": json.load(answer)[0], "meta": {"_type": "gradio.FileData"}}


def ask_streamlit(question: str) -> str:
    os.environ.update(GREEDY)
    from streamlit.testing.v1 import AppTest

    page = AppTest.from_file(str(HERE / "page.py"), default_timeout=STARTS).run()
    page.chat_input[0].set_value(question).run()
    if page.error:
        return "error: " + page.error[0].value
    return page.session_state.history[-1]["content"]


if __name__ == "__main__":
    sys.exit(main())
