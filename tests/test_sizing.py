"""What an app of a model takes of memory, on which of the hubs' machines it starts, and that others are refused."""
# ruff: noqa: F811 (fixtures of other modules)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ftx.artifact import Artifact
from ftx.checkpoint_files import Checkpoint
from ftx.errors import ModelError, OutOfMemory
from ftx.publish.footprint import GIB, Footprint, estimated, footprint, weighed
from ftx.publish.hardware import hardware, lent_by
from ftx.publish.sizing import Demand, demand_of_app, told_of
from ftx_internlm2.family import InternLM2
from hub_publishing import gradio_app
from hub_servers import TOKEN
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)
from test_publish_hubs import Place, place  # noqa: F401 (a fixture)

BASE_FOLDER = Path(__file__).parents[1] / "plugins" / "ftx_quickstart" / "base"


def of_size(numbers: float, *, kv_per_token: int = 0, longest: int = 4096) -> Demand:
    """An app of a model of so many numbers, nearly all in layers that quantisation packs."""
    held = int(numbers * 2 + 0.4 * GIB)
    return Demand.of(Footprint(int(numbers), int(numbers * 0.9), kv_per_token, longest, held, held, held, True))


def large(folder: Path, numbers: int) -> Path:
    """A model's folder with so many numbers in 16 bit, which take no space on the disk: a file full of holes."""
    folder.mkdir(parents=True)
    config = json.loads((BASE_FOLDER / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    rows = numbers // 4096
    head = json.dumps({"w": {"dtype": "BF16", "shape": [rows, 4096], "data_offsets": [0, rows * 8192]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + rows * 8192)
    return folder


@pytest.mark.system  # takes a minute: a process of its own loads each model
class TestFootprint:
    def test_it_is_measured(self, tiny: Path, tmp_path: Path) -> None:
        found = footprint(weighed(tiny))
        guess = estimated(tiny)
        assert found.measured and not guess.measured
        assert (found.numbers, found.packed) == (guess.numbers, guess.packed)
        assert (found.kv_per_token, found.longest) == (guess.kv_per_token, guess.longest)
        assert found.numbers == InternLM2().inspect(tiny).parameters
        # Of nearly nothing Python and its libraries are left.
        assert 0.1 * GIB < found.private < found.peak < GIB and found.settled <= found.peak

    def test_keys_and_values_as_the_config_has_them(self) -> None:
        config = json.loads((BASE_FOLDER / "config.json").read_text("utf-8"))
        wide = config["hidden_size"] // config["num_attention_heads"]
        by_hand = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * wide
        assert estimated(BASE_FOLDER).kv_per_token == by_hand

    def test_an_adapter_with_its_base(self, made: Path, ftx: Any) -> None:
        (event,) = ftx("size", made / "run" / "adapter", "--json").events
        assert event["measured"] is True and {one["hub"] for one in event["machines"]} == set(hardware())
        result = ftx("size", made / "run" / "adapter", "--base", made / "none")
        assert (result.code, "give --base FOLDER" in result.err) == (2, True), result.err
        result = ftx("size", made / "run" / "adapter", "--base", made / "run")
        assert (result.code, "has no config.json" in result.err) == (2, True), result.err

    def test_a_config_without_heads(self, tmp_path: Path) -> None:
        config = json.loads((BASE_FOLDER / "config.json").read_text("utf-8"))
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 0}), "utf-8")
        with pytest.raises(ModelError, match="num_attention_heads 0"):
            estimated(tmp_path)

    def test_a_plan_reads_the_weights_no_second_time(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        artifact = Artifact.open(made / "run" / "adapter")
        monkeypatch.setattr(Artifact, "open", lambda folder: pytest.fail("it was verified already"))
        assert told_of(artifact.folder, "huggingface", artifact) is not None

    def test_a_large_one_is_not_loaded_unasked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ftx.publish import footprint as module

        monkeypatch.setattr(module, "_available", lambda: 1 << 40)
        monkeypatch.setattr(module, "_measured", lambda what: pytest.fail("nobody asked"))
        large(tmp_path / "app" / "model", 3 * 10**9)
        demand = demand_of_app(tmp_path / "app")
        assert demand is not None and not demand.footprint.measured

    def test_a_containers_limit_bounds_what_is_free(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ftx.publish import footprint as module

        limit = tmp_path / "memory.max"
        monkeypatch.setattr(module, "LIMITS", (limit, tmp_path / "none"))
        limit.write_text("max\n", "utf-8")
        free = module._available()
        limit.write_text("1048576\n", "utf-8")
        assert free is not None and free > 1 << 20 == module._available()

    def test_measured_once(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ftx.publish import footprint as module

        first = footprint(weighed(tiny))
        monkeypatch.setattr(module, "_measured", lambda what: pytest.fail("it was measured already"))
        assert footprint(weighed(tiny)) == first

    def test_weights_that_are_wider_than_they_are_run(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
    ) -> None:
        """Stored in 32 bit, run in 16. The process gets no secret: its environment as the system has it."""
        from ftx.publish import footprint as module

        wide = Path(shutil.copytree(tiny, tmp_path / "wide"))
        for shard in Checkpoint.of(wide).shards:
            save_file({name: one.float() for name, one in load_file(wide / shard).items()}, wide / shard)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        seen: list[bytes] = []
        watched = module._watched

        def looking(process: Any) -> tuple[int, int]:
            environment = Path("/proc") / str(process.pid) / "environ"
            while not (told := environment.read_bytes()) and process.poll() is None:
                continue  # it has just begun: for a moment the system tells none
            seen.append(told)
            return watched(process)

        monkeypatch.setattr(module, "_watched", looking)
        found = footprint(weighed(wide))
        assert found.measured and found.numbers == estimated(tiny).numbers
        assert seen and b"PATH=" in seen[0] and TOKEN.encode() not in seen[0]

    def test_a_model_that_does_not_fit_here(self, tmp_path: Path, ftx: Any) -> None:
        (event,) = ftx("size", large(tmp_path / "m", 1_000_000_000_000), "--json").events
        assert event["measured"] is False and event["start"] > 1800
        assert "(by estimate)" in event["sentence"]

    def test_what_is_no_model(self, ftx: Any, tmp_path: Path, tiny: Path) -> None:
        result = ftx("size", tmp_path)
        assert (result.code, "holds no model" in result.err) == (2, True), result.err
        broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
        for path in broken.glob("*.safetensors"):
            path.write_bytes(b"x")
        result = ftx("size", broken)
        assert (result.code, "model.safetensors" in result.err and result.err.count("\n") == 1) == (2, True), result.err
        (broken / "config.json").write_text('{"model_type": "internlm2"}', "utf-8")
        result = ftx("size", broken, "--estimate")
        assert (result.code, "does not tell the model's size" in result.err) == (2, True), result.err

    def test_a_model_that_cannot_be_loaded(self, ftx: Any, tmp_path: Path, tiny: Path) -> None:
        strange = Path(shutil.copytree(tiny, tmp_path / "strange"))
        config = json.loads((strange / "config.json").read_text("utf-8"))
        (strange / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}), "utf-8")
        result = ftx("size", strange)
        assert (result.code, "could not be loaded to see what it takes" in result.err) == (2, True), result.err
        assert ftx("size", strange, "--estimate").code == 0


class TestMachines:
    def test_the_table(self) -> None:
        for hub, lent in hardware().items():
            assert lent.hub == hub and lent.default in lent.tiers and lent.read[:2] == "20"
            assert len({tier.name for tier in lent.tiers}) == len(lent.tiers)
            assert all((tier.gpu is None) == (tier.vram == 0) for tier in lent.tiers)

    @pytest.mark.parametrize(
        ("billions", "hub", "first", "on_gpu", "packed"),
        [
            (1.89, "openxlab", "2vCPU 8GB", "4vCPU 16GB vGPU 8GB", "4vCPU 16GB vGPU 8GB"),
            (7.74, "openxlab", "4vCPU 16GB", "12vCPU 48GB A10 24GB", "4vCPU 16GB vGPU 8GB"),
            (7.74, "huggingface", "cpu-basic", "l4x1", "t4-small"),
            (7.74, "modelscope", "platform/2v-cpu-16g-mem", "xgpu/8v-cpu-64g-mem-48g", "xgpu/8v-cpu-32g-mem-16g"),
            (19.9, "modelscope", "xgpu/8v-cpu-64g-mem-48g", "xgpu/8v-cpu-64g-mem-48g", "xgpu/8v-cpu-64g-mem-48g"),
            (19.9, "openxlab", "12vCPU 48GB A10 24GB", None, "12vCPU 48GB A10 24GB"),
            (70.6, "huggingface", "a100-large", None, "a100-large"),
            (400.0, "huggingface", None, None, None),
        ],
    )
    def test_the_smallest(
        self, billions: float, hub: str, first: str | None, on_gpu: str | None, packed: str | None
    ) -> None:
        demand, lent = of_size(billions * 1e9), lent_by(hub)
        found = (
            demand.smallest(lent),
            demand.smallest(lent, gpu=True),
            demand.smallest(lent, gpu=True, four_bit=True),
        )
        assert tuple(tier and tier.name for tier in found) == (first, on_gpu, packed)

    def test_long_conversations(self) -> None:
        """7B with 32 layers of 8 heads: the longest of 32,768 tokens takes 4 GB beside the weights."""
        demand = of_size(7.74e9, kv_per_token=2 * 2 * 32 * 8 * 128, longest=32768)
        assert round(demand.kv, 2) == 4.0 and round(demand.whole - demand.start, 2) == 4.0
        small = lent_by("huggingface").tier("cpu-basic")
        assert demand.way(small) == "processor" and not demand.room(small)
        assert Demand.of(demand.footprint, 1024).room(small)
        assert not Demand.of(demand.footprint, 1024, 16).room(small)

    def test_what_is_saved(self) -> None:
        found = of_size(7.74e9).footprint
        assert [round(found.weights(bits), 1) for bits in (16, 8, 4)] == [14.4, 7.9, 5.1]

    def test_refused_with_what_to_type(self) -> None:
        lent = lent_by("openxlab")
        with pytest.raises(OutOfMemory) as caught:
            of_size(7.74e9).refuse(lent, lent.default)
        said = str(caught.value)
        assert said.startswith(
            "2vCPU 8GB of openxlab has 8 GB of memory, and the app needs 15.1 GB to start (measured)"
        )
        assert "add --hardware '4vCPU 16GB' (free), or a line bitsandbytes in requirements.txt" in said
        with pytest.raises(OutOfMemory, match="lends no machine that is large enough"):
            of_size(4e11).refuse(lent, lent.default)

    def test_the_command(self, ftx: Any, tiny: Path) -> None:
        result = ftx("size", tiny, "--hub", "openxlab", "--hardware", "2vCPU 8GB")
        assert result.code == 0 and "2vCPU 8GB" in result.out and "of 2024-06-17" in " ".join(result.out.split())
        assert "it starts on 2vCPU 8GB" in " ".join(result.err.split())
        for words, said in (
            (["--hardware", "t4-small"], "goes with --hub"),
            (["--hub", "huggingface", "--hardware", "t4-smal"], "did you mean 't4-small'?"),
            (["--hub", "hugingface"], "did you mean 'huggingface'?"),
            (["--hub", "git"], "runs no apps"),
        ):
            result = ftx("size", tiny, *words)
            assert (result.code, said in result.err) == (2, True), result.err

    def test_the_command_refuses(self, ftx: Any, tmp_path: Path) -> None:
        result = ftx("size", large(tmp_path / "m", 30_000_000_000), "--hub", "openxlab", "--hardware", "2vCPU 8GB")
        assert (result.code, "would not come up there, and nothing would say why" in result.err) == (4, True), (
            result.err
        )


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
class TestPublishing:
    @pytest.fixture
    def app(self, tmp_path: Path) -> Path:
        return gradio_app(tmp_path / "app")

    def test_too_large_for_the_machine(self, ftx: Any, place: Place, app: Path) -> None:
        """Tutorial 003: no error, it just did not start."""
        large(app / "model", 20_000_000_000)
        record = {"seal": "0" * 64, "verified": True, "files": {}}
        (app / "app.json").write_text(json.dumps({"model": record}), "utf-8")
        for more in ([], ["--dry-run"], ["--hardware", "cpu-basic"], ["--set", "hardware=t4-small"]):
            result = ftx(*place.words(app, *more))
            assert result.code == 4 and result.err.count("\n") == 1, result.err
            assert "would not come up there, and nothing would say why; add --hardware" in result.err
        assert place.server.spaces == {} and not (app / "publish.json").exists()

    def test_too_large_a_model_to_fetch(self, ftx: Any, place: Place, app: Path, monkeypatch: Any) -> None:
        from ftx.contracts import Remote, RemoteFile
        from ftx_huggingface.publisher import HuggingFace

        kept = {"model_hub": "huggingface", "model_repo": "big/model-70b", "model_revision": "0" * 40}
        (app / "settings.json").write_text(json.dumps(kept), "utf-8")
        shards = {f"model-{n}.safetensors": RemoteFile(70_000_000_000, "0" * 64) for n in (1, 2)}
        monkeypatch.setattr(HuggingFace, "of_models", lambda self: self)
        real = HuggingFace.listed

        def listed(self: Any, repo: str, revision: str | None = None) -> Any:
            return Remote("0" * 40, shards) if repo == "big/model-70b" else real(self, repo, revision)

        monkeypatch.setattr(HuggingFace, "listed", listed)
        result = ftx(*place.words(app))
        assert (result.code, "the app needs 131.1 GB to start (by estimate)" in result.err) == (4, True), result.err
        assert place.server.spaces == {}
        event = ftx(*place.words(app, "--hardware", "any", "--dry-run")).events[0]
        assert event["memory"]["start"] == 131.09 and "conversation" not in event["memory"]["sentence"]

    def test_large_enough(self, ftx: Any, place: Place, app: Path, merged: Path) -> None:
        shutil.copytree(merged, app / "model")
        result = ftx(*place.words(app, "--hardware", "t4-small"))
        assert result.code == 0, result.err
        assert result.events[0]["memory"]["measured"] is True
        assert place.server.spaces["ann/cats"]["hardware"] == "t4-small"

    def test_a_machine_nobody_lends(self, ftx: Any, place: Place, app: Path) -> None:
        result = ftx(*place.words(app, "--hardware", "t5-small"))
        assert (result.code, "did you mean 't4-small'?; one that is newer: --set hardware=t5-small" in result.err) == (
            2,
            True,
        ), result.err

    def test_not_looked_at(self, ftx: Any, place: Place, app: Path) -> None:
        assert ftx(*place.words(app, "--hardware", "any")).code == 0
        assert place.server.spaces["ann/cats"].get("hardware") is None

    def test_the_plan_of_a_model_tells(self, ftx: Any, place: Place, adapter: Path) -> None:
        event = ftx(*place.words(adapter, "--dry-run")).events[0]
        assert "it starts on cpu-basic" in event["memory"]["sentence"]
        said = ftx(*[word for word in place.words(adapter, "--dry-run") if word != "--json"]).err
        assert "it starts on cpu-basic" in " ".join(said.split())
