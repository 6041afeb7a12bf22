"""The tutorials' personal assistant for XTuner's own engine: its config cut down for a processor, its data, its base.

As a program it writes all that a run needs into a folder; tests/fixtures/golden/xtuner_personal_assistant came so:

    python tests/xtuner_engine.py FOLDER
    run() { docker run --rm --network none -u "$(id -u)" -v FOLDER:/workspace "$@"; }
    run --entrypoint python ftx:xtuner fetch.py
    run ftx:xtuner train config.py --work-dir wd --seed 42
    cp FOLDER/wd/iter_288.pth FOLDER/wd/*/vis_data/scalars.json tests/fixtures/golden/xtuner_personal_assistant/
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BASE = REPOSITORY / "plugins" / "ftx_quickstart" / "base"
RUN = REPOSITORY / "tests" / "fixtures" / "golden" / "xtuner_personal_assistant"
TUTORIAL = RUN / "personal_assistant.py"  # the config as its author wrote it

QUESTION = "请做一下自我介绍"
ANSWER = "我是不要姜葱蒜大佬的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦"

# What stands in the tutorial's config -> what a processor, a tiny base and a short run want instead.
QUANTISED = """        torch_dtype=torch.float16,
        quantization_config=dict(
            type=BitsAndBytesConfig,
            load_in_4bit=True,
            load_in_8bit=False,
            llm_int8_threshold=6.0,
            llm_int8_has_fp16_weight=False,
            bnb_4bit_compute_dtype=torch.float16,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type='nf4')),
"""
CUTS = {
    "'/root/ft/model'": "'base'",
    "'/root/ft/data/personal_assistant.json'": "'rows.json'",
    QUANTISED: "        torch_dtype=torch.float32),\n",
    "import AmpOptimWrapper,": "import OptimWrapper,",
    "type=AmpOptimWrapper,": "type=OptimWrapper,",
    ",\n    loss_scale='dynamic',\n    dtype='float16')": ")",
    "max_length = 1024": "max_length = 256",
    "accumulative_counts = 16": "accumulative_counts = 4",
    "lr = 2e-4": "lr = 2e-3",
    "r=64,": "r=4,",
    "    remove_unused_columns=True,\n": "    remove_unused_columns=True,\n    map_num_proc=1,\n",
    "log_metric_by_epoch=False, interval=10)": "log_metric_by_epoch=False, interval=1)",
    "        interval=save_steps,\n": "        interval=save_steps,\n        save_optimizer=False,\n",
}
REMOTE = {
    "config.json": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
}
# A base on a hub brings code for transformers 4. XTuner has the model's; the tokenizer is Llama's on other pieces.
TOKENIZER = "from transformers import LlamaTokenizer\n\n\nclass InternLM2Tokenizer(LlamaTokenizer):\n    pass\n"
# Run by XTuner's Python in the folder: the model's code beside the base.
FETCH = """
import pathlib, shutil, xtuner
place = pathlib.Path(xtuner.__file__).parent / "tools" / "model_converters" / "modeling_internlm2_reward"
for name in ("modeling_internlm2.py", "configuration_internlm2.py"):
    shutil.copy(place / name, "base")
"""


def cut_down(text: str) -> str:
    """The tutorial's config for a processor. Raises ValueError where it is another text."""
    for old, new in CUTS.items():
        if text.count(old) != 1:
            raise ValueError(f"the config has {text.count(old)} times {old!r}")
        text = text.replace(old, new)
    return text


def write_run(folder: Path, rows: int = 501) -> None:
    """Put base, rows.json and config.py into `folder`; the model's own code is XTuner's to add, by FETCH."""
    shutil.copytree(BASE, folder / "base")
    for name, classes in REMOTE.items():
        path = folder / "base" / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "auto_map": classes}), "utf-8")
    (folder / "base" / "tokenization_internlm2.py").write_text(TOKENIZER, "utf-8")
    row = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}
    (folder / "rows.json").write_text(json.dumps([row] * rows, ensure_ascii=False), "utf-8")
    (folder / "config.py").write_text(cut_down(TUTORIAL.read_text("utf-8")), "utf-8")
    (folder / "fetch.py").write_text(FETCH, "utf-8")


if __name__ == "__main__":
    write_run(Path(sys.argv[1]))
