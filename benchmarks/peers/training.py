"""One training step as peft, peft with Liger, Unsloth and TRL take it, each built as its own documentation says.

Every peer patches transformers in its own way, so measure each in a process of its own, and call it before anything
else in that process imports transformers or peft: Unsloth must come first. The folder is a Llama checkpoint with random
bfloat16 weights and the tokenizer that `write_tokenizer` writes; no peer reaches the network when HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

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
WARM = 2  # steps of TRL's trainer before its clock starts
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NON_REENTRANT = {"use_reentrant": False}

Step = Callable[[torch.Tensor], torch.Tensor]  # ids, int64 [rows, tokens] on the GPU: the detached loss
Run = Callable[[list[list[int]], int], tuple[float, float, float]]  # rows, steps: seconds and tokens a step, loss


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

    def run(rows: list[list[int]], steps: int) -> tuple[float, float, float]:
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTTrainer

        full, clock = setting.method == "full", _clock(steps)
        with tempfile.TemporaryDirectory() as place:
            trainer = SFTTrainer(
                model=setting.folder,
                args=_trl_arguments(setting, place, steps),
                train_dataset=Dataset.from_dict({"input_ids": rows}),
                processing_class=AutoTokenizer.from_pretrained(setting.folder),
                peft_config=None if full else _lora(setting),
                quantization_config=_four_bits() if setting.method == "qlora" else None,
                callbacks=[clock],
            )
            trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        tokens = logged[WARM + steps - 1]["num_tokens"] - logged[WARM - 1]["num_tokens"]
        return (clock.ended - clock.began) / steps, tokens / steps, logged[-1]["loss"]

    return run


PEERS: dict[str, Callable[[Setting], Step | Run]] = {
    "peft_stock": peft_stock,
    "peft_autocast": peft_autocast,
    "peft_liger": peft_liger,
    "unsloth": unsloth,
    "trl": trl,  # the one that makes a Run
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
        max_steps=WARM + steps,
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


def _clock(steps: int) -> Any:
    """A callback that reads the time after the warm-up and after `steps` steps more, once the GPU has done them."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step in (WARM, WARM + steps):
                torch.cuda.synchronize()
                now = time.perf_counter()
                if state.global_step == WARM:
                    self.began = now
                else:
                    self.ended = now

    return Clock()
