"""The fast path gives what the plain one gives: adapters, gated MLPs, attention, the head's loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from ftx.fast import attention
from ftx.fast.head import HeadLoss
from ftx.fast.install import _Copies, _How, install
from ftx.fast.recompute import recompute
from ftx.fast.weight import dense, dense_rows, stored_as
from ftx.few_bits import hold_embedding
from ftx.train.loss import ends_in_head
from ftx_internlm2.family import InternLM2
from ftx_methods.lora import QLoRA

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model_of(
    dtype: torch.dtype = torch.float64,
    targets: list[str] = ALL,
    lora_dropout: float = 0.0,
    rank: int = 4,
    **changed: Any,
) -> Any:
    """A small Llama with adapters that do something, each with a scale of its own kind of size."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 80, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{**sizes, **heads, "attn_implementation": "eager", **changed})
    torch.manual_seed(0)
    return adapted(LlamaForCausalLM(config), targets, lora_dropout, rank).to(dtype).train()


def adapted(base: Any, targets: list[str] = ALL, lora_dropout: float = 0.0, rank: int = 4) -> Any:
    model = get_peft_model(
        base, LoraConfig(r=rank, lora_alpha=3 * rank, lora_dropout=lora_dropout, target_modules=targets)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.2 / rank)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def step(model: Any) -> torch.Tensor:
    ids = torch.arange(22).reshape(2, 11) % 80
    model.zero_grad()
    loss: torch.Tensor = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("form", ["folded", "split", "auto"])
@pytest.mark.parametrize(
    ("targets", "changed"),
    [
        (ALL, {}),
        (["q_proj", "v_proj"], {}),
        (["down_proj", "up_proj"], {}),
        (ALL, {"attention_bias": True}),
        (ALL, {"mlp_bias": True}),
    ],
)
def test_adapters_equal_the_plain_form(form: Any, targets: list[str], changed: dict[str, Any]) -> None:
    model = model_of(targets=targets, **changed)
    loss, expected = step(model), gradients(model)
    taken = install(model, torch.float64, form)
    assert taken["layers"] == 2 * len(targets)
    assert taken["mlps"] == (2 if "down_proj" in targets and not changed.get("mlp_bias") else 0)
    assert torch.allclose(step(model), loss, rtol=1e-12)
    found = gradients(model)
    assert found.keys() == expected.keys() and len(found) == 4 * len(targets)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-10 * float(gradient.norm()), name


def test_bfloat16_stays_within_its_rounding() -> None:
    """Our error against float64 is not above twice that of the plain form in the same arithmetic."""
    exact = model_of()
    step(exact)
    truth = gradients(exact)
    errors = []
    for form in (None, "folded", "split", "auto"):
        model = model_of(torch.bfloat16)
        if form:
            install(model, torch.bfloat16, form)
        step(model)
        errors.append(
            sum(
                float((gradient.double() - truth[name]).norm() / truth[name].norm())
                for name, gradient in gradients(model).items()
            )
        )
    assert max(errors[1:]) <= 2 * errors[0]


def test_only_what_has_another_precision_is_copied() -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    for dtype, shared in ((torch.float32, True), (torch.bfloat16, False)):
        copies = _Copies(dtype)
        low = _How(dtype, "auto", copies, None).low(parameter)
        assert low is not None
        parameter.data = torch.randn(3, 4)  # as where a model is wrapped for several processes
        copies.refresh()
        assert torch.equal(low(), parameter.to(dtype))
        assert (low().data_ptr() == parameter.data_ptr()) == shared


@pytest.mark.parametrize("changed", [{}, {"mlp_bias": True}])
def test_dropout_leaves_out_the_same_parts(changed: dict[str, Any]) -> None:
    """Of the same random numbers; forward and backward of one step see the same parts."""
    results = []
    for ours in (False, True):
        model = model_of(lora_dropout=0.3, **changed)
        if ours:
            assert install(model, torch.float64, "folded")["layers"] == 2 * len(ALL)
        torch.manual_seed(3)
        results.append((step(model), gradients(model)))
    (loss, expected), (ours_loss, found) = results
    assert torch.allclose(ours_loss, loss, rtol=1e-12)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-10 * float(gradient.norm()), name


@pytest.mark.parametrize("change", ["dora", "two"])
def test_what_is_not_plain_lora_is_left_alone(change: str) -> None:
    options: dict[str, Any] = {"dora": {"use_dora": True}}.get(change, {})
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, vocab_size=80, num_attention_heads=4
    )
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=ALL, **options))
    if change == "two":
        model.add_adapter("other", LoraConfig(r=2, target_modules=ALL))
    assert install(model, torch.float32, "folded")["layers"] == 0


def test_a_disabled_adapter_is_heeded() -> None:
    model = model_of()
    install(model, torch.float64, "folded")
    ids = torch.arange(9)[None]
    tuned = model(input_ids=ids).logits
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    expected = model_of()
    assert torch.allclose(tuned, expected(input_ids=ids).logits, rtol=1e-10)
    with expected.disable_adapter():
        assert torch.allclose(bare, expected(input_ids=ids).logits, rtol=1e-10)


@torch.inference_mode()
def samples_apart(model: Any, samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([model(input_ids=one[None]).logits[0] for one in samples])


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("lengths", [[5, 9, 1, 7], [6, 6, 6], [11]])
def test_samples_end_to_end_see_themselves_alone(lengths: list[int]) -> None:
    attention.register()
    model = model_of(torch.float32)
    samples = [torch.randint(0, 80, (length,)) for length in lengths]
    expected = samples_apart(model, samples)
    model.set_attn_implementation(attention.NAME)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    bounds = {"cu_seq_lens_q": ends.int(), "max_length_q": max(lengths)}
    found = model(input_ids=torch.cat(samples)[None], position_ids=places, **bounds).logits[0]
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.usefixtures("no_gradients")
def test_windows_are_kept() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    attention.register()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 80}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=4, attn_implementation="eager"))
    lengths = [9, 3, 12]
    samples = [torch.randint(0, 80, (length,)) for length in lengths]
    expected = samples_apart(model, samples)
    model.set_attn_implementation(attention.NAME)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    found = model(input_ids=torch.cat(samples)[None], position_ids=places, cu_seq_lens_q=ends, max_length_q=12).logits[
        0
    ]
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("at_once", [3, 100])
@pytest.mark.parametrize("trained", [False, True])
def test_the_heads_loss_and_gradients(at_once: int, trained: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(6, 30, bias=False, dtype=torch.float64).requires_grad_(trained)
    weight = head.weight
    targets = torch.randint(0, 30, (10,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum") / 7
    expected = torch.autograd.grad(plain, [hidden, weight] if trained else [hidden])
    ours = HeadLoss.apply(hidden, head, weight, targets, at_once) / 7
    assert abs(ours.item() - plain.item()) < 1e-6
    for found, wanted in zip(
        torch.autograd.grad(ours, [hidden, weight] if trained else [hidden]), expected, strict=True
    ):
        assert torch.allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("kind", ["int8", "nf4", "nf4 nested"])
def test_a_head_in_few_bits_is_made_dense_a_part_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    torch.manual_seed(0)
    whole = torch.nn.Linear(64, 1100, bias=False)
    held: Any = Linear8bitLt(64, 1100, bias=False, has_fp16_weights=False)
    if kind != "int8":
        held = Linear4bit(64, 1100, bias=False, quant_type="nf4", compress_statistics="nested" in kind)
    held.load_state_dict(whole.state_dict())
    held = held.to("cpu")
    weight = dense(held, torch.float32)[0]
    assert 0 < float((weight - whole.weight.detach()).norm()) < 0.15 * float(weight.norm())
    for start, stop in ((0, 256), (256, 1024), (1024, 1100), (0, 1100), (3, 77)):
        assert torch.equal(dense_rows(held, torch.float32, start, stop), weight[start:stop])
    monkeypatch.setattr("ftx.fast.head.WORDS", 256)
    whole.weight.data = weight
    results = []
    for head in (whole.requires_grad_(False), held):
        hidden = torch.randn(10, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        loss = HeadLoss.apply(hidden, head, head.weight, torch.arange(10) * 110, 4)
        results.append((loss.detach(), *torch.autograd.grad(loss, hidden)))
    for expected, found in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]])
def test_a_head_in_few_bits_gives_way_to_the_loss_where_no_adapter_stands_on_it(
    bits: int, targets: list[str], tmp_path: Path
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 16, "vocab_size": 96}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path)
    quantization = QLoRA(bits=bits, quantize_head=True).quantization(torch.float32, InternLM2())
    held = LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    assert ends_in_head(adapted(held, targets).train()) == (targets == ["q_proj"])


@pytest.mark.parametrize("lora_dropout", [0.0, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_layers_computed_again_give_the_same(share: float, lora_dropout: float) -> None:
    results = []
    for again in (False, True):
        model = model_of(lora_dropout=lora_dropout, num_hidden_layers=4)
        install(model, torch.float64, "folded")
        if again:
            assert recompute(model, share) == (3 if share == 1 else 2)
        torch.manual_seed(1)
        results.append((step(model), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


def test_layers_trained_whole_equal_the_plain_form() -> None:
    results = []
    for ours in (False, True):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 80}
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).double().train()
        if ours:
            assert install(model, torch.float64, "folded") == {"layers": 14, "mlps": 2, "norms": 0, "ropes": 0}
        results.append((step(model), gradients(model)))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-12)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        assert float((results[1][1][name] - gradient).norm()) <= 1e-10 * float(gradient.norm()), name


@pytest.mark.parametrize("lora_dropout", [0.0, 0.2])
def test_a_shared_expert_computed_again_is_whole(lora_dropout: float) -> None:
    """Its gate reads what its MLP gives, which is therefore not left out."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3}
    experts = {"shared_expert_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    results = []
    for again in (False, True):
        torch.manual_seed(0)
        config = Qwen2MoeConfig(**sizes, **experts, num_attention_heads=4, num_key_value_heads=2, vocab_size=80)
        lora = LoraConfig(r=4, target_modules=["gate_proj", "up_proj", "down_proj"], lora_dropout=lora_dropout)
        model = get_peft_model(Qwen2MoeForCausalLM(config), lora).train()
        install(model, torch.float32, "folded")
        if again:
            recompute(model)
        torch.manual_seed(1)
        results.append((step(model), gradients(model)))
    for name, gradient in results[0][1].items():
        assert torch.allclose(results[1][1][name], gradient, rtol=1e-4, atol=1e-6), name


def test_attention_that_drops_is_computed_again_with_the_same_numbers() -> None:
    results = []
    for again in (False, True):
        model = model_of(attention_dropout=0.3, num_hidden_layers=3)
        if again:
            recompute(model)
        torch.manual_seed(1)
        results.append((step(model), gradients(model)))
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


@pytest.mark.parametrize("changed", [{"attention_dropout": 0.1}, {}])
def test_attention_within_bounds_is_not_given_to_what_drops(changed: dict[str, Any]) -> None:
    assert attention.served(LlamaForCausalLM, LlamaConfig(**changed)) == (not changed)


def test_attention_within_bounds_takes_no_mask() -> None:
    heads = torch.zeros(1, 2, 3, 8)
    with pytest.raises(attention.Unserved, match="with a mask"):
        attention.attend(torch.nn.Identity(), heads, heads, heads, torch.ones(1, 1, 3, 3, dtype=torch.bool))


def test_passes_are_recorded_of_plain_decoders_alone() -> None:
    """What a GPU would be asked to record; one that routes, drops or trains much is computed as ever."""
    from ftx.train.path import _records

    def asked(model: Any, dtype: torch.dtype = torch.bfloat16) -> bool:
        return _records(model, install(model, torch.float32, "auto"), dtype, 512)

    assert asked(model_of(torch.float32))
    assert not asked(model_of(torch.float32), torch.float32)
    assert not asked(model_of(torch.float32, lora_dropout=0.1))
    assert not asked(model_of(torch.float32, attention_dropout=0.1))
    assert not asked(
        model_of(torch.float32, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    )
    assert not asked(model_of(torch.float32, targets=["q_proj"]))


def test_the_embedding_waits_in_host_memory_where_it_can() -> None:
    from ftx.train.path import _to_host

    assert _to_host(model_of(torch.float32)) is not None
    assert _to_host(model_of(torch.float32, tie_word_embeddings=True)) is None
    model = model_of(torch.float32)
    hold_embedding(model)
    expected = model.get_input_embeddings()(torch.arange(80))
    found = _to_host(model)
    assert found is not None and torch.equal(found, expected)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama's folder in float32, with widths that bitsandbytes' blocks fit into."""
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=80, head_dim=16)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def over(base: Path, bits: Any, *, dequantised: bool) -> Any:
    """The base in so many bits, or in float32 with the weights that those stand for."""
    quantization = QLoRA(bits=bits).quantization(torch.float32, InternLM2())
    held = LlamaForCausalLM.from_pretrained(base, quantization_config=quantization, dtype=torch.float32)
    layers = {name: layer for name, layer in held.named_modules() if stored_as(layer) in ("nf4", "int8")}
    assert len(layers) == 2 * len(ALL)
    if not dequantised:
        return held
    whole = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, layer in layers.items():
        weight, seen = whole.get_submodule(name).weight.data, dense(layer, torch.float32)[0]
        assert 0 < float((seen - weight).norm()) < 0.2 * float(weight.norm())
        weight.copy_(seen)
    return whole


def agree_over(base: Path, bits: int, form: Any, targets: list[str], *, training: bool) -> None:
    """Loss and gradients of the adapters are the same over the bits and over the weights that these stand for."""
    results = []
    for dequantised in (False, True):
        whole = over(base, bits, dequantised=dequantised)
        torch.manual_seed(3)
        model = adapted(whole, targets).train(training)
        install(model, torch.float32, form)
        results.append((step(model), gradients(model)))
    (loss, found), (expected_loss, expected) = results
    assert torch.allclose(loss, expected_loss, rtol=1e-6)
    assert found.keys() == expected.keys() and len(found) == 4 * len(targets)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


@pytest.mark.parametrize("form", ["folded", "split"])
@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_over_few_bits_equal_those_over_the_dequantised_weights(base: Path, bits: int, form: Any) -> None:
    agree_over(base, bits, form, ALL, training=True)


def test_int8_layers_without_adapters_are_made_dense_too(base: Path) -> None:
    """bitsandbytes' own product rounds what it reads: on a GPU always, here out of training."""
    agree_over(base, 8, "split", ["v_proj"], training=False)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 10.0])
def test_factors_behind_8_bit_weights_are_rounded_as_these_are(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large B is, and small ones no worse than beside them; the GPU's product is made in float32 here, of
    numbers that are rounded as there."""
    from ftx.fast import eight
    from ftx.fast.eight_adapters import Adapters
    from ftx.fast.products import Piece, parts_of

    def product(x: torch.Tensor, x_scale: Any, weight: torch.Tensor, scale: Any, dtype: Any) -> torch.Tensor:
        return (x.float() * x_scale) @ (weight.float() * scale.t()).t()

    monkeypatch.setattr(eight, "_product", product)
    torch.manual_seed(0)
    weight, x, dy = torch.randn(96, 128) * 0.02, torch.randn(50, 128), torch.randn(50, 96)
    weight[7] = 0
    a, b = torch.rand(8, 128) * 0.1 - 0.05, torch.randn(96, 8) * size
    whole = weight + 2 * b @ a
    errors = []
    for behind in (False, True):
        layer, adapters = torch.nn.Linear(128, 96, bias=False), Adapters()
        layer.weight.data = weight.clone()
        piece = Piece(layer, 2.0, "split", None, lambda: a, lambda: b)
        held = eight.Weights.of([layer], adapters.columns([piece]) if behind else None)
        adapters.refresh()
        (y,), dx = held.product([piece], x).ys, held.input_gradient(parts_of([piece], [dy], [None]), [dy])
        exact = x @ whole.t(), dy @ whole
        errors.append(
            [float((found - right).norm() / right.norm()) for found, right in zip((y, dx), exact, strict=True)]
        )
    assert max(errors[1]) < 0.05
    if size <= 1e-3:  # of larger ones what they make of an input is as large as what the weight does
        assert all(ours < 1.2 * theirs for ours, theirs in zip(errors[1], errors[0], strict=True)), errors


@pytest.mark.parametrize("lora_dropout", [0.0, 0.3])
def test_products_in_8_bits_have_the_gradients_of_their_weights(
    lora_dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's product in fp8 stands for itself here, exact: all around it gives what the split form gives."""
    from ftx.fast import eight, kernels

    def in_place(dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = kernels.gated_backward(dh, gate, up)
        return tuple(given.copy_(one) for given, one in zip((dh, gate, up), made, strict=True))

    monkeypatch.setattr(eight, "fits", lambda layers: all(layer.bias is None for layer in layers))

    def whole(xs: list[torch.Tensor], beside: Any = None, *, room: int = 0, least: float = 0) -> Any:
        behind = xs[0].new_zeros(len(xs[0]), room) if beside is None else beside[0] * beside[1]
        return torch.cat([*xs, behind], dim=1), xs[0].new_ones(len(xs[0]), 1)

    monkeypatch.setattr(eight, "eight_bits", whole)
    monkeypatch.setattr(eight, "_product", lambda x, x_scale, weight, weight_scale, dtype: x @ weight.t())
    monkeypatch.setattr(eight, "gated_backward", in_place)
    results = []
    for ours in (False, True):
        model = model_of(lora_dropout=lora_dropout, num_hidden_layers=3)
        taken = install(model, torch.float64, "split", eight_bits=ours)
        assert taken.get("eight") == (3 * len(ALL) if ours else None)
        recompute(model)
        with torch.inference_mode():  # as a question asked before the first step
            model(input_ids=torch.tensor([[1, 2]]))
        torch.manual_seed(3)
        results.append((step(model), gradients(model)))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-12)
    for name, gradient in results[0][1].items():
        assert float((results[1][1][name] - gradient).norm()) <= 1e-10 * float(gradient.norm()), name
