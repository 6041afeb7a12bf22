"""Starts the page with its health route, and says in a sentence why it cannot."""

from __future__ import annotations

import logging
import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["GRADIO_SSR_MODE"] = "false"  # a second server in front of this one would hide the health route

try:
    import spaces  # of hosts that lend a GPU for each call; it has to come before torch
except ImportError:
    spaces = None

import gradio as gr
from fastapi.routing import APIRoute
from line import WAITING
from model import Model, open_model
from refused import CannotStart
from settings import HERE, read_settings

UPLOAD = 20 * 2**20  # bytes of a file


def opened() -> tuple:
    """The settings and the model, or the end of the program with the reason."""
    try:
        settings = read_settings()
        return settings, open_model(settings)
    except CannotStart as error:
        sys.exit(f"app: {error}")


def on_gpu(function):
    """`function` as hosts that lend a GPU for each call want it; as it is everywhere else."""
    return spaces.GPU(function) if spaces else function


def readable(error: Exception) -> gr.Error:
    """What the page shows for an error nobody expected: nothing of the machine. The log has the rest."""
    logging.getLogger("app").error("unexpected", exc_info=error)
    return gr.Error("Something went wrong; the app's log has the reason. Please try again.")


def launch(page: gr.Blocks, model: Model, settings: dict) -> None:
    """Serve until stopped."""
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    host, port = settings["host"], int(os.environ.get("PORT") or settings["port"])
    try:
        app, _, _ = page.launch(
            server_name=os.environ.get("GRADIO_SERVER_NAME", host),
            server_port=port,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size=UPLOAD,
            blocked_paths=[str(HERE)],
            quiet=True,
        )
    except OSError as error:
        sys.exit(f"app: port {port} cannot be used ({error}); name another one with PORT=NUMBER.")

    def health() -> dict:
        about = {"device": str(model.model.device), "note": model.note, "busy": model.busy, "last_answer": model.last}
        return {"status": "ok", **about}

    app.router.routes.insert(0, APIRoute("/health", health, methods=["GET"]))
    print(f"app: answering on http://{host}:{port}", flush=True)
    page.block_thread()
