"""The fast path on a GPU: kernels, recordings and host memory change no result beyond their rounding."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftx import hookimpl
from ftx.fast import attention, head, kernels
from ftx.fast.graph import Recordings, even_out
from ftx.fast.install import install
from ftx.fast.recompute import recompute
from ftx.run import events
from ftx.train.fit import fit
from ftx.train.loss import asked, ends_in_head, loss_sum
from test_fast import model_of
from test_train import plan_for, registry_with

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
BIG = {"hidden_size": 512, "intermediate_size": 1408, "head_dim": 64, "num_attention_heads": 8, "num_hidden_layers": 4}


SIZES: dict[str, Any] = {**BIG, "vocab_size": 1000, "num_key_value_heads": 4, "rank": 16}


def big() -> Any:
    model = model_of(torch.bfloat16, **SIZES).cuda()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_kernels_are_what_torch_computes() -> None:
    torch.manual_seed(0)
    gate, up, dh = (torch.randn(300, 700, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    wide = [t.double() for t in (dh, gate, up)]
    truth = [kernels.gated(*(t.cpu() for t in wide[1:])), *kernels.gated_backward(*(t.cpu() for t in wide))]
    found = [kernels.gated(gate, up), *kernels.gated_backward(dh.clone(), gate.clone(), up.clone())]
    for ours, expected in zip(found, truth, strict=True):
        assert apart(ours.cpu(), expected.cpu()) < 5e-3
    logits = torch.randn(50, 92544, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, 92544, (50,), device="cuda")
    targets[7] = -100
    exact = logits.double().cpu()
    of_each = head.loss_and_gradient(exact, targets.cpu())
    assert apart(head.loss_and_gradient(logits, targets).cpu(), of_each) < 1e-5
    assert apart(logits.cpu(), exact) < 5e-3
    assert not logits[7].any()
    weight, b, a = (
        torch.randn(n, m, device="cuda", dtype=torch.bfloat16) for n, m in ((300, 500), (300, 64), (64, 500))
    )
    folded = kernels.fold(weight, b, a, 0.5, into=None)
    assert apart(folded, weight.double() + 0.5 * b.double() @ a.double()) < 3e-3


def test_rows_in_8_bits_and_what_stands_behind_them() -> None:
    torch.manual_seed(0)
    wide = torch.randn(70, 3 * 208, device="cuda", dtype=torch.bfloat16)
    xs = [wide[:, :208], torch.randn(70, 96, device="cuda", dtype=torch.bfloat16), wide[:, 300:464]]
    side, times = torch.randn(70, 48, device="cuda", dtype=torch.bfloat16), torch.rand(48, device="cuda") + 0.5
    for given, beside in ((xs, (side, times)), (xs[:2], None), (xs[:1], (side, times)), (xs[:1], None)):
        small, scale = kernels.eight_bits(given, beside)
        there = None if beside is None else (beside[0].cpu(), beside[1].cpu())
        expected, of_rows = kernels.eight_bits([x.cpu() for x in given], there)
        assert torch.allclose(scale.cpu(), of_rows, rtol=1e-6)
        assert (small.cpu().float() - expected.float()).abs().max() <= 32  # a step of the largest numbers
        assert ((small.cpu().float() - expected.float()) != 0).float().mean() < 1e-3
    small, _ = kernels.eight_bits(xs[:1], room=32)
    assert not small[:, 208:].float().any()

    factors = [torch.randn(100, 16, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    factors.append(torch.randn(8, 100, device="cuda", dtype=torch.bfloat16).t())
    behind = [torch.zeros(100, 64, device="cuda", dtype=torch.uint8).view(torch.float8_e4m3fn) for _ in range(2)]
    scale, times = torch.rand(100, device="cuda") + 0.1, torch.rand(16, device="cuda") + 0.5
    for into, write in zip(behind, (kernels.place, lambda all_placed: kernels.placing(all_placed)()), strict=True):
        starts = zip(factors, (3, 19, 35, 51), strict=True)
        write([kernels.Placed(f, scale, times[: f.shape[1]], into[:, at : at + f.shape[1]], 0.3) for f, at in starts])
    assert torch.equal(*(into.view(torch.uint8) for into in behind))
    expected = torch.cat([0.3 * f.float() / scale[:, None] / times[: f.shape[1]] for f in factors], dim=1)
    assert apart(behind[0][:, 3:59].float(), expected) < 0.04


def batch_of(lengths: list[int], seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 1000, (1, sum(lengths)), generator=generator)
    labels = ids.clone()
    ends = torch.tensor([0, *lengths]).cumsum(0)
    labels[0, ends[:-1]] = -100
    labels[0, 3:9] = -100
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    bounds = {"cu_seq_lens_q": ends.int(), "max_length_q": max(lengths)}
    share = torch.tensor(1 / sum(lengths), dtype=torch.float64)
    return {"input_ids": ids, "position_ids": places, **bounds, **asked(labels), "share": share}


def loss_with(model: Any, head_tokens: int | None) -> Any:
    def loss(batch: dict[str, Any]) -> torch.Tensor:
        rest = {name: value for name, value in batch.items() if name != "share"}
        with torch.autocast("cuda", torch.bfloat16):
            return loss_sum(model, rest, head_tokens) * batch["share"]

    return loss


def results(model: Any, batches: list[dict[str, Any]], *, record: bool, head_tokens: int | None = None) -> Any:
    trained = [p for p in model.parameters() if p.requires_grad]
    compute = loss_with(model, head_tokens)
    recordings = Recordings(trained, compute)
    losses = []
    for batch in batches:
        if record:
            losses.append(recordings(batch))
        else:
            loss = compute({n: v.cuda() if hasattr(v, "cuda") else v for n, v in batch.items()})
            loss.backward()
            losses.append(loss.detach())
    return torch.stack(losses), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("again", ["fast", "balanced"])
@pytest.mark.parametrize("form", ["folded", "split", "auto"])
def test_recorded_passes_equal_plain_ones(form: Any, again: str) -> None:
    """Rows that differ in their samples share a recording; the plain model computes them with neither."""
    attention.register()
    lengths = [[200, 300, 12], [250, 250, 5, 5], [500, 1], [100, 110, 120, 130, 50], [512], [512]]
    batches = [batch_of(one, i) for i, one in enumerate(lengths)]
    plain, ours = big(), big()
    for model in (plain, ours):
        model.set_attn_implementation(attention.NAME)
    assert install(ours, torch.bfloat16, form)["mlps"] == 4
    assert ends_in_head(ours.eval())
    ours.train()
    if again == "balanced":
        recompute(ours, offload=True)
    expected, gradients = results(plain, batches, record=False)
    even = [even_out(batch, 512, 0) for batch in batches]
    found, ours_of = results(ours, even, record=True, head_tokens=128)
    assert apart(found, expected) < 1e-3
    truth = model_of(torch.float64, **SIZES)
    truth.set_attn_implementation(attention.NAME)
    for batch in batches:
        rest = {name: value for name, value in batch.items() if name != "share"}
        (loss_sum(truth, rest) * batch["share"]).backward()
    errors = [0.0, 0.0]
    for name, p in truth.named_parameters():
        if p.grad is not None:
            errors[0] += apart(gradients[name].cpu(), p.grad)
            errors[1] += apart(ours_of[name].cpu(), p.grad)
    assert errors[1] <= 1.25 * errors[0], errors


def test_even_rows_are_few_shapes() -> None:
    lengths = [[100 + i, 200 - i, 150, 40 + i] for i in range(20)]
    shapes = {
        tuple(t.shape if hasattr(t, "shape") else t for t in even_out(batch_of(n), 512, 0).values()) for n in lengths
    }
    assert len(shapes) == 1


def test_a_further_recording_keeps_next_to_nothing() -> None:
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    install(model, torch.bfloat16, "folded")
    trained = [p for p in model.parameters() if p.requires_grad]
    recordings = Recordings(trained, loss_with(model.train(), 128))
    held = []
    for longest in (32, 64, 128, 256):
        lengths = [longest] * (480 // longest)
        for seed in range(3):
            recordings(even_out(batch_of([*lengths, 500 - sum(lengths)], seed), 512, 0))
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert len(recordings._made) == 4
    assert held[-1] - held[0] < 1 << 20, held


def test_what_comes_seldom_is_not_recorded() -> None:
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    trained = [p for p in model.parameters() if p.requires_grad]
    recordings = Recordings(trained, loss_with(model.train(), 128))
    for length in [*range(20, 70)] * 3 + [80] * 8:
        recordings(batch_of([length]))
    assert [dict(key)["max_length_q"] for key in recordings._made] == [80]


@pytest.mark.parametrize("again", ["fast", "balanced"])
def test_passes_beside_recordings_take_no_memory_of_their_own(again: str) -> None:
    """Of these shapes two are recorded, as they come three times."""
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    install(model, torch.bfloat16, "folded")
    if again == "balanced":
        recompute(model, offload=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    recordings = Recordings(trained, loss_with(model.train(), 128))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    base, reserved, losses = torch.cuda.memory_reserved(), [], []
    for longest, times in ((2048, 3), (1024, 1), (512, 3), (256, 1), (2048, 3)):
        lengths = [longest] * (4000 // longest) + [4000 % longest]
        for _ in range(times):
            losses.append(recordings(even_out(batch_of(lengths, longest), 4096, 0)))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved() - base)
    assert len(recordings._made) == 2
    assert max(reserved) < 1.15 * reserved[0], reserved
    found = torch.stack(losses).tolist()
    assert found[:3] == pytest.approx(found[-3:], rel=1e-3)


def to_garbage(held: object) -> None:
    ring = SimpleNamespace(holds=held)
    ring.itself = ring


def test_what_else_is_computed_takes_the_memory_of_recordings() -> None:
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    trained = [p for p in model.parameters() if p.requires_grad]
    recordings = Recordings(trained, loss_with(model.train(), 128))
    batch = even_out(batch_of([2000, 2000]), 4096, 0)
    losses = [recordings(batch) for _ in range(3)]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    with recordings.beside(), torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        model(input_ids=batch["input_ids"].cuda())
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == reserved
    assert len(recordings._made) == 1
    losses.append(recordings(batch))
    to_garbage(torch.ones(1 << 20, device="cuda"))  # elsewhere, of before: what is kept is more all the same
    with recordings.beside():
        kept = torch.ones(1 << 16, device="cuda")
    assert not recordings._made
    losses += [recordings(batch) for _ in range(3)]
    assert torch.stack(losses).tolist() == pytest.approx([losses[0].item()] * 7, rel=1e-3)
    assert kept.all()


@pytest.fixture
def garbage_is_collected_often() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(10)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("passes", [0, 1], ids=["before it is recorded", "while it is"])
def test_an_ended_run_is_not_collected_in_a_pass_of_another(passes: int, garbage_is_collected_often: None) -> None:
    """torch ends the process where memory of one's own is freed while another's is in use."""
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    trained = [p for p in model.parameters() if p.requires_grad]
    batch = batch_of([500])
    ended = [Recordings(trained, loss_with(model.train(), 128))]
    losses = [ended[0](batch) for _ in range(3)]
    plain, counted = loss_with(model, 128), 0

    def loss(batch: dict[str, Any]) -> torch.Tensor:
        nonlocal counted
        if torch.cuda.current_stream() != torch.cuda.default_stream():
            if counted == passes:
                to_garbage(ended.pop())
            counted += 1
        return plain(batch)

    recordings = Recordings(trained, loss)
    losses += [recordings(batch) for _ in range(4)]
    assert not ended
    assert torch.stack(losses).tolist() == pytest.approx([losses[0].item()] * 7, rel=1e-3)


def test_garbage_does_not_forget_recordings() -> None:
    attention.register()
    model = big()
    model.set_attn_implementation(attention.NAME)
    trained = [p for p in model.parameters() if p.requires_grad]
    recordings = Recordings(trained, loss_with(model.train(), 128))
    for _ in range(3):
        recordings(batch_of([500]))
    with recordings.beside():
        to_garbage(torch.ones(1 << 16, device="cuda"))
    assert recordings._made


def test_products_in_8_bits_stay_near_those_in_16() -> None:
    from ftx.fast.eight import can

    if not can():
        pytest.skip("this GPU multiplies no 8-bit floating point")
    attention.register()
    expected, found = big(), big()
    ids = torch.randint(0, 1000, (1, 512), generator=torch.Generator().manual_seed(0)).cuda()
    for model in (expected, found):
        model.set_attn_implementation(attention.NAME)
        install(model, torch.bfloat16, "split", eight_bits=model is found)
    made = [model(input_ids=ids, labels=ids) for model in (expected, found)]
    for one in made:
        one.loss.backward()
    far = apart(made[1].logits.detach(), made[0].logits.detach())
    print("logits", far)
    assert far < 0.2
    assert abs(made[1].loss.item() - made[0].loss.item()) < 0.02 * made[0].loss.item()
    gradients = [{n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (expected, found)]
    assert gradients[0].keys() == gradients[1].keys()
    far = sum(apart(gradients[1][n], g) for n, g in gradients[0].items()) / len(gradients[0])
    print("gradients", far)
    assert far < 0.4


def test_nf4_is_made_dense_as_bitsandbytes_does() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from ftx.fast import nf4_triton

    packed, state = quantize_4bit(
        torch.randn(520, 1024, device="cuda").bfloat16(), quant_type="nf4", compress_statistics=True
    )
    assert nf4_triton.fits(state)
    assert torch.equal(nf4_triton.dense(packed, state, torch.bfloat16), dequantize_4bit(packed, state))


class _WaitsRefused:
    """From step `first` on until step `last`, an error where the host waits for the GPU."""

    def __init__(self, first: int, last: int) -> None:
        self._steps = range(first, last)

    @hookimpl
    def ftx_step_done(self, step: int) -> None:
        refuse_waits(step in self._steps)


def refuse_waits(refused: bool) -> None:
    torch.cuda.set_sync_debug_mode("error" if refused else "default")


@contextmanager
def waits_allowed() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    yield
    torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode", "ignore:inner dimension")
@pytest.mark.parametrize("method", ["lora", "qlora", "full", "lora with dropout"])
@pytest.mark.parametrize("memory", ["fast", "balanced", "small"])
def test_no_step_waits_for_the_gpu(
    memory: str, method: str, tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first few, which set things up, and but for recordings, of which a run makes few."""

    def waits(*given: object) -> None:
        if torch.cuda.get_sync_debug_mode():
            raise AssertionError("torch.cuda.synchronize")
        synchronize(*given)

    def records(recordings: Recordings, batch: dict[str, Any]) -> Any:
        made.append(weakref.ref(recordings))
        with waits_allowed():
            return record(recordings, batch)

    made: list[weakref.ref[Recordings]] = []

    synchronize, record = torch.cuda.synchronize, Recordings._record
    monkeypatch.setattr(torch.cuda, "synchronize", waits)
    monkeypatch.setattr(Recordings, "_record", records)
    registry = registry_with(_WaitsRefused(3, 18))
    name, dropout = method.split()[0], {"method__dropout": 0.1} if "dropout" in method else {}
    options = {"method": name, **dropout, "data__packing": "best_fit", "data__max_length": 128}
    options |= {"train__memory": memory, "train__max_steps": 20, "train__save_every": 20}
    try:
        fit(plan_for(tiny, rows, tmp_path / "run", registry, **options))
    finally:
        refuse_waits(False)
    assert not any(recordings() for recordings in made)  # their memory is given back
    started, *_ = (event for event in events(tmp_path / "run") if event["event"] == "started")
    assert started["memory"] == memory
    assert started["path"].get("recorded", False) is not bool(dropout)
