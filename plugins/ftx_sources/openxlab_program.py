"""What OpenXLab's own client does for ftx, in the environment `openxlab`: a program that answers one question.

It reads {"do": "create" | "list" | "fetch", ...} and writes one JSON object: what it did, or {"problem": why not}. The
client prints its errors and goes on as if nothing was; so every step is taken by its innermost functions, which do
raise, and looked at afterwards. Its updater, which runs pip, and what it reports of its users are taken out first.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

BRANCH_FILES = 500  # entries of a listing that the server gives at once


def main() -> None:
    """Answer the question on stdin. What the client prints is kept off the answer."""
    question = json.load(sys.stdin)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            answer = _answer(question)
        # Whatever the client raises, and it ends the program for some: all is told as one sentence.
        except (Exception, SystemExit) as error:
            answer = {"problem": _why(error, said.getvalue())}
    json.dump(answer, sys.stdout)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    _shut_off()
    _sign_on()
    does = {"create": _create, "list": _list, "fetch": _fetch}
    return does[question["do"]](question)


def _shut_off() -> None:
    """Nothing is updated and nothing is told of the user."""
    from openxlab.model.common import bury
    from openxlab.xlab.handler import user_token

    def nothing(*given: Any, **named: Any) -> None:
        return None

    user_token.update_package = user_token.update_version_check = user_token.trigger_update_check = nothing
    bury.bury_data_upload_task = nothing


def _sign_on() -> None:
    """Keys that are not known are told here; the client would go on without."""
    from openxlab.xlab.handler.user_token import get_jwt

    get_jwt(auth=True)


def _create(question: dict[str, Any]) -> dict[str, Any]:
    """Make the private model repository `name` with the models of `metafile`, and ask whether it is there."""
    from openxlab.model.clients.openapi_client import OpenapiClient
    from openxlab.model.common.constants import endpoint
    from openxlab.model.common.meta_file_util import MetafileParser

    Path("metafile.yml").write_text(question["metafile"], "utf-8")
    described = MetafileParser("metafile.yml").parse_and_validate()
    client = OpenapiClient(endpoint)
    client.create_repository(question["name"], True, described)
    models = (client.query_models(question["name"]) or {}).get("models") or []
    missing = {one["Name"] for one in described["Models"]} - {one.get("name") for one in models}
    if missing:
        raise ValueError(f"the repository was made, and does not list {sorted(missing)[0]}")
    return {"models": len(models)}


def _list(question: dict[str, Any]) -> dict[str, Any]:
    """The files of the data set `repo`: path, size, and sha256 where the server tells it."""
    return {"files": _listed(question["repo"])[0]}


def _listed(repo: str) -> tuple[list[dict[str, Any]], Any]:
    from openxlab.dataset.commands.utility import ContextInfoNoLogin

    api = ContextInfoNoLogin().get_client().get_api()
    entries: list[dict[str, Any]] = []
    after, more = None, True
    while more:
        page = api.get_dataset_files(
            dataset_name=repo.replace("/", ","), payload={}, needContent=True, after=after, limit=BRANCH_FILES
        )
        entries += page["list"]
        more, after = bool(page.get("hasNext")) and page.get("after") != after, page.get("after")
    files = [
        {"path": str(one["path"]).lstrip("/"), "size": int(one["size"]), "sha256": str(one.get("sha256") or "")}
        for one in entries
    ]
    return files, entries[0]["dataset_id"] if entries else None


def _fetch(question: dict[str, Any]) -> dict[str, Any]:
    """Write those of `paths` into `folder`. The asker compares them with what was listed."""
    from openxlab.dataset.commands.utility import ContextInfoNoLogin
    from openxlab.dataset.handler.get_dataset_repository import process_download_files

    files, number = _listed(question["repo"])
    wanted = [one for one in files if one["path"] in question["paths"]]
    objects = [{"name": one["path"], "size": one["size"], "sha256": one["sha256"]} for one in wanted]
    client = ContextInfoNoLogin().get_client()
    client.get_api().download_check(dataset_id=number, path=objects[0]["name"])
    parent, name = os.path.split(question["folder"])
    process_download_files(client, objects, parent, name, number)
    return {"files": wanted}


def _why(error: BaseException, said: str) -> str:
    """The client's reason: of an error its text, of an end of the program what it printed last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if isinstance(error, SystemExit):
        return lines[-1] if lines else "the client ended without a reason"
    # What stands before it is the request, which holds a signature.
    return str(error).rpartition("message: ")[2] or type(error).__name__


if __name__ == "__main__":
    main()
