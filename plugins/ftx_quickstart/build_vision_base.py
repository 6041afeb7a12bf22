"""Builds the embedded vision model: the quickstart's language model, a random vision tower, then `ftx train`.

    python -m ftx_quickstart.build_vision_base --out DIR           (wants a GPU)

writes DIR/start (the untrained model in InternVL2's official layout), DIR/data (rows and pictures), DIR/run (the
training run) and DIR/base (what is embedded in the package as ftx_quickstart/vision_base). Interrupted, it goes on
from its last checkpoint when run again with the same arguments.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.artifact import COMPANIONS
from ftx.atomic import whole_folder, write_json
from ftx.console import Console
from ftx.errors import FtxError
from ftx.plan import make_plan
from ftx.plugins import load_registry
from ftx.recipe import Written
from ftx.run import checkpoints_in
from ftx.train.fit import fit
from ftx_quickstart.first_run import BASE
from ftx_quickstart.picture_corpus import ROWS, write_corpus
from ftx_quickstart.tokenizer import added_token
from ftx_quickstart.vision_config import ADDED_TOKENS, PATCH, PREPROCESSOR, TILE, VISION, official_config

if TYPE_CHECKING:
    import torch

MAX_LENGTH = 256  # tokens of a row: two turns about three tiles stay below it
_GROWN_STD = 0.02  # of the rows that the vocabulary gains; the trained ones have 0.08
_FEATURE_SCALE = 0.12  # of the projector's last weights: pictures enter the language model as strong as its words
_TOKEN_PATCHES = 4  # patches that downsample_ratio 0.5 folds into a token
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def write_start(out: Path, seed: int) -> None:
    """Write the untrained model in InternVL2's official layout, in bfloat16: all but the vision tower is the base's."""
    from safetensors.torch import save_file

    language = json.loads((BASE / "config.json").read_text("utf-8"))
    tensors = language_tensors(seed) | vision_tensors(language["hidden_size"], seed)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", official_config(language))
    write_json(out / "preprocessor_config.json", PREPROCESSOR)
    shutil.copyfile(BASE / "generation_config.json", out / "generation_config.json")
    write_tokenizer(out)


def write_tokenizer(out: Path) -> None:
    """The base's tokenizer files, with InternVL2's special tokens after its vocabulary."""
    for name in _TOKENIZER_FILES:
        shutil.copyfile(BASE / name, out / name)
    config = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    known = config["added_tokens_decoder"]
    first = max(map(int, known)) + 1
    known |= {str(first + i): added_token(token) for i, token in enumerate(ADDED_TOKENS)}
    config["additional_special_tokens"] += ADDED_TOKENS
    write_json(out / "tokenizer_config.json", config)
    named = json.loads((out / "special_tokens_map.json").read_text("utf-8"))
    named["additional_special_tokens"] += ADDED_TOKENS
    write_json(out / "special_tokens_map.json", named)
    special = set(named["additional_special_tokens"])
    ids = {entry["content"]: int(index) for index, entry in known.items() if entry["content"] in special}
    write_json(out / "added_tokens.json", ids)


def language_tensors(seed: int) -> dict[str, torch.Tensor]:
    """The base's tensors under InternVL2's names; embedding and output gain a small random row for each added token."""
    import torch
    from safetensors.torch import load_file

    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in load_file(BASE / "model.safetensors").items():
        if name in ("model.tok_embeddings.weight", "output.weight"):
            rows = torch.randn(len(ADDED_TOKENS), tensor.shape[1], generator=random) * _GROWN_STD
            tensor = torch.cat([tensor, rows.to(tensor.dtype)])
        tensors[f"language_model.{name}"] = tensor
    return tensors


def vision_tensors(language_width: int, seed: int) -> dict[str, torch.Tensor]:
    """A random vision tower and projector in bfloat16, under the official names."""
    import torch

    random = torch.Generator().manual_seed(seed + 1)
    tensors = {}
    for name, shape in vision_shapes(language_width).items():
        if name.endswith((".ls1", ".ls2")):
            made = torch.full(shape, VISION["initializer_factor"])
        elif name.endswith("embedding"):
            made = torch.randn(shape, generator=random)
        elif len(shape) > 1:
            inputs = torch.Size(shape[1:]).numel()
            scale = _FEATURE_SCALE if name.startswith("mlp1.3.") else 1.0
            made = torch.randn(shape, generator=random) * scale * inputs**-0.5
        else:
            is_norm = name.endswith(("norm1.weight", "norm2.weight", "mlp1.0.weight"))
            made = torch.ones(shape) if is_norm else torch.zeros(shape)
        tensors[name] = made.to(torch.bfloat16)
    return tensors


def vision_shapes(language_width: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of the vision tower and of the projector to `language_width`."""
    width, inner = VISION["hidden_size"], VISION["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, (TILE // PATCH) ** 2 + 1, width),
        "vision_model.embeddings.patch_embedding.weight": (width, VISION["num_channels"], PATCH, PATCH),
        "vision_model.embeddings.patch_embedding.bias": (width,),
    }
    for i in range(VISION["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        for name in ("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[layer + name] = (width,)
        shapes |= _linear(layer + "attn.qkv", width, 3 * width) | _linear(layer + "attn.proj", width, width)
        shapes |= _linear(layer + "mlp.fc1", width, inner) | _linear(layer + "mlp.fc2", inner, width)
    folded = _TOKEN_PATCHES * width
    norm = {"mlp1.0.weight": (folded,), "mlp1.0.bias": (folded,)}
    return shapes | norm | _linear("mlp1.1", folded, language_width) | _linear("mlp1.3", language_width, language_width)


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def settings(start: Path, rows: Path, out: Path, given: argparse.Namespace) -> Written:
    """The recipe of the training run: everything is trained, the vision tower too."""
    written = Written()
    written.put_all(
        {
            "family": "internvl",
            "model": str(start),
            "method": {"name": "full", "vision": "full"},
            "data": {"sets": [{"path": str(rows), "format": "llava"}], "max_length": MAX_LENGTH},
            "out": str(out),
            "train": {
                "max_steps": given.steps,
                "lr": given.lr,
                "weight_decay": 0.01,
                "betas": [0.9, 0.98],
                "global_batch_size": given.batch,
                "micro_batch_size": given.micro_batch,
                "keep_checkpoints": 1,
                "seed": given.seed,
            },
        },
        "build_vision_base",
    )
    return written


def build(given: argparse.Namespace) -> Path:
    """Build everything into `given.out` and return the finished model's folder. Raises FtxError."""
    out: Path = given.out
    start, data, run, base = (out / name for name in ("start", "data", "run", "base"))
    if not start.exists():
        with whole_folder(start) as folder:
            if given.start:
                shutil.copytree(given.start, folder, dirs_exist_ok=True)
            else:
                write_start(folder, given.seed)
    if not data.exists():
        with whole_folder(data) as folder:
            write_corpus(folder, given.rows, given.seed, per_picture=given.per_picture)
    resume = "auto" if checkpoints_in(run) else None
    artifact = fit(make_plan(settings(start, data / ROWS, run, given), load_registry("none")), Console(), resume)
    with whole_folder(base) as folder:
        copy_model(start, artifact.folder, folder)
    return base


def copy_model(start: Path, trained: Path, out: Path) -> None:
    """The trained model's files, and of `start` those that training does not carry along."""
    for name in (*COMPANIONS, "preprocessor_config.json", "model.safetensors"):
        found = next((folder / name for folder in (trained, start) if (folder / name).is_file()), None)
        if found is not None:
            shutil.copyfile(found, out / name)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a finished base to train further, instead of a new one")
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--per-picture", type=int, default=2, help="rows that ask about the same picture")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    parser = arguments()
    try:
        print(build(parser.parse_args()))
    except FtxError as error:
        parser.exit(error.exit_code, f"build_vision_base: {error}\n")


if __name__ == "__main__":
    main()
