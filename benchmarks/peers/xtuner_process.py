"""Times XTuner 0.1.23's own process_hf_dataset: python xtuner_process.py ROWS.json TOKENIZER PROCESSES.

Run by data_speed.py with the Python of an environment that has xtuner 0.1.23, transformers 4.39, datasets 2.19 and
mmengine. Rows are in XTuner's format, so no map function is called. The cache of `datasets` is off.
"""

import json
import resource
import sys
import tempfile
import time


def main() -> None:
    rows, folder, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    from datasets import load_dataset
    from transformers import LlamaTokenizerFast
    from xtuner.dataset.huggingface import process
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.utils import PROMPT_TEMPLATE

    tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        dataset = process(
            load_dataset("json", data_files={"train": rows}, cache_dir=cache),
            tokenizer=tokenizer,
            max_length=2048,
            template_map_fn=template_map_fn_factory(PROMPT_TEMPLATE.internlm2_chat),
            map_num_proc=processes,
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "packed_rows": len(dataset)}))


if __name__ == "__main__":
    main()
