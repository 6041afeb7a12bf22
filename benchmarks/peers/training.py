"""One training step as peft, Unsloth, TRL, LLaMA-Factory and ms-swift take it, as their own documentation has it.

Every peer patches transformers in its own way, so measure each in a process of its own, and call it before anything
else in that process imports transformers or peft: Unsloth must come first. The folder is a Llama checkpoint with random
bfloat16 weights and the tokenizer that `write_tokenizer` writes; no peer reaches the network when HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DEVICE = "cuda"
LEARNING_RATE = 2e-4
CLIP = 1.0
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NON_REENTRANT = {"use_reentrant": False}

Step = Callable[[torch.Tensor], torch.Tensor]  # ids, int64 [rows, tokens] on the GPU: the detached loss


@dataclass(frozen=True)
class Timed:
    """What a peer's own trainer did in the steps after its warm-up."""

    seconds: float  # a step
    tokens: float  # a step
    loss: float  # the last that it logged
    load_peak: int  # bytes, when its loop began


Run = Callable[[list[list[int]], int, int], Timed]  # rows, steps to warm up and steps to time


@dataclass(frozen=True)
class Setting:
    """What is trained and how; equal for all peers."""

    folder: str  # of a Llama checkpoint
    method: str  # "lora", "qlora" or "full"
    rank: int
    rows: int  # a step
    tokens: int  # a row
    checkpointing: bool


def write_tokenizer(source: Path, folder: Path) -> None:
    """Put InternLM2's SentencePiece model into a Llama checkpoint, so that every peer can load it.

    Unsloth and TRL load a tokenizer though all rows come as ids. InternLM2's own configuration names classes of remote
    code, which both refuse, and special tokens that a plain Llama tokenizer would add beyond the vocabulary.
    """
    config = json.loads((source / "tokenizer_config.json").read_text())
    kept = {name: config[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **kept}))
    shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")


def peft_stock(setting: Setting) -> Step:
    """transformers and peft without further kernels: adapters in float32, no autocast.

    This is a loop of one's own after peft's quick tour; `peft_autocast` is what transformers' Trainer makes of it.
    """
    model = _base(setting, prepare=True)
    return _stepper(model if setting.method == "full" else _adapted(model, setting), autocast=False)


def peft_autocast(setting: Setting) -> Step:
    """`peft_stock` under torch.autocast in bfloat16, as transformers' Trainer runs it when given bf16=True.

    The adapters stay in float32 for the optimiser, but their products run in bfloat16.
    """
    model = _base(setting, prepare=True)
    return _stepper(model if setting.method == "full" else _adapted(model, setting), autocast=True)


def peft_liger(setting: Setting) -> Step:
    """The fastest that peft allows: Liger's Llama kernels, with its loss that makes no logits, and bfloat16 adapters.

    The 4-bit base goes without prepare_model_for_kbit_training: that turns the head into float32, the type in which
    Liger's loss would then multiply.
    """
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama()  # before loading, since it puts its classes in place of transformers'
    model = _base(setting, prepare=False)
    if setting.method != "full":
        model = _adapted(model, setting, autocast_adapter_dtype=False)
        for weight in _trained(model):  # peft leaves the adapters of 4-bit layers in float32 all the same
            weight.data = weight.data.to(torch.bfloat16)
    return _stepper(model, autocast=False)


def unsloth(setting: Setting) -> Step:
    """Unsloth's own model class, LoRA kernels, checkpointing with offload, and loss in chunks.

    Its first step compiles each kind of decoder layer, which takes tens of seconds. The autocast is the one that its
    trainer puts around the model; for full fine-tuning in bfloat16 its trainer uses none and says so in a variable.
    The loss divides by the labelled tokens when it is given no num_items_in_batch, which is the same number here.
    """
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ["UNSLOTH_RETURN_LOGITS"] = "0"  # "1" makes its forward multiply out all logits
    from unsloth import FastLanguageModel

    again = "unsloth" if setting.checkpointing else False
    model, _ = FastLanguageModel.from_pretrained(
        setting.folder,
        max_seq_length=setting.tokens,
        dtype=torch.bfloat16,
        load_in_4bit=setting.method == "qlora",
        full_finetuning=setting.method == "full",
        use_gradient_checkpointing=again,
        local_files_only=True,
    )
    if setting.method != "full":
        model = FastLanguageModel.get_peft_model(
            model,
            r=setting.rank,
            lora_alpha=2 * setting.rank,
            lora_dropout=0,
            bias="none",
            target_modules=LINEARS,
            use_gradient_checkpointing=again,
            max_seq_length=setting.tokens,
            random_state=0,
        )
    FastLanguageModel.for_training(model, use_gradient_checkpointing=again)
    autocast = setting.method != "full" or os.environ.get("UNSLOTH_MIXED_PRECISION", "float32") == "float32"

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            made = model(input_ids=ids, labels=ids)
        if torch.is_tensor(made.logits) and made.logits.numel():
            raise RuntimeError("Unsloth took its slow path: it returned logits")
        loss: torch.Tensor = made.loss
        return loss

    return _stepper(model, loss_of=loss_of)


def trl(setting: Setting) -> Run:
    """TRL's SFTTrainer with its packing and Liger's kernels, timed from inside its own loop.

    Packing is TRL's default, best fit: it lays the rows of a batch end to end as one row, with position ids that start
    anew. Attention is sdpa, for which transformers makes a mask of blocks; TRL warns that it would rather have
    FlashAttention. TRL has a fused loss of its own and switches Liger's off.
    """

    def run(rows: list[list[int]], warm: int, steps: int) -> Timed:
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTTrainer

        full, clock = setting.method == "full", _clock(warm, steps)
        with tempfile.TemporaryDirectory() as place:
            trainer = SFTTrainer(
                model=setting.folder,
                args=_trl_arguments(setting, place, warm + steps),
                train_dataset=Dataset.from_dict({"input_ids": rows}),
                processing_class=AutoTokenizer.from_pretrained(setting.folder),
                peft_config=None if full else _lora(setting),
                quantization_config=_four_bits() if setting.method == "qlora" else None,
                callbacks=[clock],
            )
            trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        tokens = logged[warm + steps - 1]["num_tokens"] - logged[warm - 1]["num_tokens"]
        return _timed(clock, steps, tokens / steps)

    return run


def llamafactory(setting: Setting, *, liger: bool = False) -> Run:
    """LLaMA-Factory's supervised tuning with its loaders and its trainer, as its example of LoRA sets them.

    The rows are given as its tokenised data set. Checkpointing is on by default there, in the reentrant kind. Its
    pure_bf16 would not help: peft holds the adapters in float32 all the same, and their products then run so. Its
    checks of versions end below the transformers of today, so they are switched off by its own variable.
    """

    def run(rows: list[list[int]], warm: int, steps: int) -> Timed:
        os.environ["DISABLE_VERSION_CHECK"] = "1"
        from datasets import Dataset
        from llamafactory.train.tuner import run_exp

        clock = _clock(warm, steps)
        with tempfile.TemporaryDirectory() as place:
            data = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], "labels": rows}
            Dataset.from_dict(data).save_to_disk(f"{place}/rows")
            run_exp({**_factory_arguments(setting, place, warm + steps), "enable_liger_kernel": liger}, [clock])
        return _timed(clock, steps, setting.rows * setting.tokens)

    return run


def swift(setting: Setting, *, liger: bool = False) -> Run:
    """ms-swift's `swift pt`: its loaders, its own trainer, and text that it tokenises and cuts itself.

    Checkpointing is on by default there. With Liger the adapters are in bfloat16 too, which lora_dtype asks for.
    """

    def run(rows: list[list[int]], warm: int, steps: int) -> Timed:
        from swift.arguments import PretrainArguments
        from swift.pipelines.train.pretrain import SwiftPretrain
        from transformers import AutoTokenizer

        clock, lengths = _clock(warm, steps), []

        class Watched(SwiftPretrain):  # type: ignore[misc]
            def train(self, trainer: Any) -> Any:
                lengths.extend(trainer.train_dataset.dataset["lengths"])
                trainer.add_callback(clock)
                return super().train(trainer)

        with tempfile.TemporaryDirectory() as place:
            _write_texts(Path(place, "rows.jsonl"), rows, AutoTokenizer.from_pretrained(setting.folder))
            faster = {"use_liger_kernel": True, "lora_dtype": "bfloat16"} if liger else {}
            Watched(PretrainArguments(**_swift_arguments(setting, place, warm + steps), **faster)).main()
        return _timed(clock, steps, sum(map(max, lengths)) / (warm + steps))

    return run


STEPPERS: dict[str, Callable[[Setting], Step]] = {
    "peft_stock": peft_stock,
    "peft_autocast": peft_autocast,
    "peft_liger": peft_liger,
    "unsloth": unsloth,
}
TRAINERS: dict[str, Callable[[Setting], Run]] = {
    "trl": trl,
    "llamafactory": llamafactory,
    "llamafactory_liger": functools.partial(llamafactory, liger=True),
    "swift": swift,
    "swift_liger": functools.partial(swift, liger=True),
}


def _stepper(model: Any, *, autocast: bool = False, loss_of: Callable[[torch.Tensor], Any] | None = None) -> Step:
    """A step of the model: forward, backward, clipping, AdamW. Without `loss_of` the model's own loss is taken."""
    trained = _trained(model)
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    model.train()

    def own(ids: torch.Tensor) -> Any:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            return model(input_ids=ids, labels=ids).loss

    forward = loss_of or own

    def step(ids: torch.Tensor) -> torch.Tensor:
        loss = forward(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        detached: torch.Tensor = loss.detach()
        return detached

    return step


def _base(setting: Setting, *, prepare: bool) -> Any:
    """The checkpoint through transformers. `prepare` has peft make a 4-bit one ready as its documentation says."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    quantised = setting.method == "qlora"
    model = AutoModelForCausalLM.from_pretrained(
        setting.folder,
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
        device_map={"": DEVICE},
        quantization_config=_four_bits() if quantised else None,
        local_files_only=True,
    )
    model.config.use_cache = False  # else a forward in training fills a cache that nothing reads
    if quantised and prepare:
        return prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=setting.checkpointing,
            gradient_checkpointing_kwargs=NON_REENTRANT,
        )
    if setting.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=NON_REENTRANT)
    return model


def _adapted(model: Any, setting: Setting, **options: bool) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, _lora(setting), **options)


def _lora(setting: Setting) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=setting.rank,
        lora_alpha=2 * setting.rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=LINEARS,
        task_type="CAUSAL_LM",
    )


def _four_bits() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _trained(model: Any) -> list[torch.nn.Parameter]:
    weights: Iterable[torch.nn.Parameter] = model.parameters()
    return [weight for weight in weights if weight.requires_grad]


def _trl_arguments(setting: Setting, place: str, steps: int) -> Any:
    """TRL's own defaults but for what all peers share and what would write or report.

    Every step is logged: the trainer reads metrics off the GPU at each step anyway, so this costs no further wait.
    """
    from trl import SFTConfig

    return SFTConfig(
        output_dir=place,
        model_init_kwargs={"dtype": torch.bfloat16, "attn_implementation": "sdpa", "device_map": {"": DEVICE}},
        max_length=setting.tokens,
        packing=True,
        use_liger_kernel=True,
        bf16=True,
        gradient_checkpointing=setting.checkpointing,
        gradient_checkpointing_kwargs=dict(NON_REENTRANT),
        per_device_train_batch_size=setting.rows,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def _factory_arguments(setting: Setting, place: str, steps: int) -> dict[str, Any]:
    """LLaMA-Factory's example of LoRA, with what all peers share."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": setting.folder,
        "finetuning_type": setting.method,
        "lora_rank": setting.rank,
        "lora_alpha": 2 * setting.rank,
        "lora_target": "all",
        "flash_attn": "sdpa",
        "disable_gradient_checkpointing": not setting.checkpointing,
        "dataset": "rows",  # it wants a name, but reads what is tokenised
        "tokenized_path": f"{place}/rows",
        "template": "empty",
        "cutoff_len": setting.tokens,
        "bf16": True,
        **_trainer_arguments(setting, place, steps),
    }


def _swift_arguments(setting: Setting, place: str, steps: int) -> dict[str, Any]:
    """ms-swift's own defaults but for what all peers share."""
    return {
        "model": setting.folder,
        "model_type": "llama",  # several of its types are made of Llama's class
        "template": "dummy",
        "tuner_type": setting.method,
        "lora_rank": setting.rank,
        "lora_alpha": 2 * setting.rank,
        "lora_dropout": 0.0,
        "torch_dtype": "bfloat16",
        "attn_impl": "sdpa",
        "gradient_checkpointing": setting.checkpointing,
        "dataset": [f"{place}/rows.jsonl"],
        "max_length": setting.tokens,
        "truncation_strategy": "right",
        "gradient_accumulation_steps": 1,
        "check_model": False,  # would ask its hub whether there is a newer one
        **_trainer_arguments(setting, place, steps),
    }


def _trainer_arguments(setting: Setting, place: str, steps: int) -> dict[str, Any]:
    """What LLaMA-Factory and ms-swift hand on to transformers' trainer. It logs once, so that no step waits for it."""
    return {
        "output_dir": f"{place}/out",
        "per_device_train_batch_size": setting.rows,
        "dataloader_num_workers": 4,  # as in the examples of both
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused",
        "logging_steps": steps,
        "save_strategy": "no",
        "report_to": ["none"],
        "disable_tqdm": True,
        "seed": 0,
    }


def _write_texts(file: Path, rows: list[list[int]], tokenizer: Any) -> None:
    """Each row as text, twice over, so that there are tokens enough when others come out of it than went in."""
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            said = {"role": "assistant", "content": tokenizer.decode(row + row)}
            out.write(json.dumps({"messages": [said]}, ensure_ascii=False) + "\n")


def _clock(warm: int, steps: int) -> Any:
    """A callback that reads the time after the warm-up and after `steps` steps more, once the GPU has done them.

    Memory is counted anew when the loop begins: all before it is loading.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = ended = loss = 0.0
        load_peak = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.load_peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step in (warm, warm + steps):
                torch.cuda.synchronize()
                now = time.perf_counter()
                if state.global_step == warm:
                    self.began = now
                else:
                    self.ended = now

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **given: Any) -> None:
            self.loss = logs.get("loss", self.loss)

    return Clock()


def _timed(clock: Any, steps: int, tokens: float) -> Timed:
    return Timed((clock.ended - clock.began) / steps, tokens, clock.loss, clock.load_peak)
