"""Where apps run: what each place wants in a project, and the versions that it can install.

Versions are those that were installed and tried; OpenXLab's image has Python 3.9, whose last versions these are. The
Hugging Face Gradio target takes the newest torch that its lent GPUs (ZeroGPU) run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NEW = {
    "accelerate": "1.15.0",
    "chromadb": "1.5.9",
    "gradio": "6.31.0",
    "huggingface_hub": "2.4.0",
    "jinja2": "3.1.6",
    "modelscope-hub": "0.5.1",
    "numpy": "2.4.6",
    "pillow": "12.3.0",
    "safetensors": "0.8.0",
    "streamlit": "1.67.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
PYTHON_3_9 = {
    "accelerate": "1.10.1",
    "chromadb": "1.5.9",
    "gradio": "4.44.1",
    "huggingface_hub": "0.36.0",
    "jinja2": "3.1.6",
    "numpy": "2.0.2",
    "pillow": "10.4.0",
    "pydantic": "2.10.6",  # what came later breaks Gradio 4's description of its own interface
    "pysqlite3-binary": "0.5.4",
    "safetensors": "0.7.0",
    "streamlit": "1.50.0",
    "tokenizers": "0.22.2",
    "torch": "2.6.0",
    "transformers": "4.57.6",
}


@dataclass(frozen=True)
class Target:
    """`python` is what the place runs; `versions` maps packages to what is installed of them."""

    name: str
    python: str
    host: str = "0.0.0.0"  # noqa: S104  (in a container of its own, behind the hub's door)
    versions: dict[str, str] = field(default_factory=lambda: NEW)
    by_hand: tuple[str, ...] = ()


TARGETS = {
    target.name: target
    for target in (
        Target("local", "3.12", host="127.0.0.1"),
        Target("huggingface", "3.12", versions={**NEW, "torch": "2.11.0", "spaces": "0.51.3"}),
        Target("huggingface-docker", "3.12"),
        Target(
            "modelscope",
            "3.11",
            versions={**NEW, "torch": "2.9.1"},
            by_hand=("A push does not start a studio: deploy it on its page (上线) or with `ms-hub studio deploy`.",),
        ),
        Target(
            "openxlab",
            "3.9",
            versions=PYTHON_3_9,
            by_hand=(
                "OpenXLab takes apps from GitHub: push this folder there, with git-lfs.",
                "On openxlab.org.cn choose 创建应用, connect the GitHub repository, name `app.py` as the start file.",
                "Choose the hardware: a 7B model wants a GPU of 24 GB.",
            ),
        ),
    )
}
