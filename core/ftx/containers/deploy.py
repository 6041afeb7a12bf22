"""Files with which engines, clusters and editors run ftx, written into a user's folder."""

from __future__ import annotations

from pathlib import Path

from ftx.atomic import write_text
from ftx.errors import RecipeError, StorageError
from ftx.templates import template_folder
from ftx.user_paths import refuse_bad_paths

WRITES = {
    "compose": ("compose.yaml", "compose.gpu.yaml"),
    "kubernetes": ("work.yaml", "job.yaml", "trainjob.yaml"),
}
NEXT = {
    "compose": "read the first lines of compose.yaml, then run: docker compose run --rm train",
    "kubernetes": "adapt what is marked as yours, then run: kubectl apply -f work.yaml -f job.yaml",
}


def write_files(kind: str, out: Path) -> list[Path]:
    """Write the files of `kind` into `out`. Raises RecipeError when one of them is there; StorageError."""
    targets = [out / name for name in WRITES[kind]]
    with refuse_bad_paths():
        there = [target for target in targets if target.exists()]
    if there:
        raise RecipeError(f"{there[0]} is there already; move it away, or name another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--out: {out} cannot be made: {error.strerror}") from None
    for target in targets:
        write_text(target, (template_folder() / kind / target.name).read_text("utf-8"))
    return targets
