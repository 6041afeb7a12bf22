"""Recipes: every mistake named at once with a remedy, every value with the place it came from, plans that only tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Result
from ftx import RecipeError
from ftx.data.named import named_templates
from ftx.plan import Plan, make_plan
from ftx.plugins import load_registry
from ftx.recipe import Written, parse_value, read_recipe, written


def put(text: str) -> Path:
    path = Path("recipe.yaml")
    path.write_text(text, "utf-8")
    return path


def recipe(tiny: Path, rows: Path, **changes: Any) -> Path:
    """A recipe file that is right, with changes. Nested ones are written as `train__lr=1`."""
    made: dict[str, Any] = {"model": str(tiny), "data": {"sets": [{"path": str(rows)}]}}
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = made
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return put(json.dumps(made))  # JSON is YAML, and quotes what is text


def plan_of(path: Path) -> Plan:
    return make_plan(written(path, {}), load_registry("none"))


def problems(path: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        plan_of(path)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("modle", "x", "modle ({file}): unknown key; did you mean 'model'?"),
        ("trian", 3, "trian ({file}): unknown key; did you mean 'train'?"),
        ("zzz", 3, "zzz ({file}): unknown key; known: data, eval, family, method, model, out, template, train"),
        ("train__epoch", 1.0, "train.epoch ({file}): unknown key; did you mean 'epochs'?"),
        ("train__LR", 1.0, "train.LR ({file}): unknown key; known: "),
        ("data__max_len", 64, "data.max_len ({file}): unknown key; did you mean 'max_length'?"),
        ("data__sets", [{"pth": "a"}], "data.sets.0.pth: unknown key; did you mean 'path'?"),
        ("data__sets", [{"path": "a", "fromat": "text"}], "data.sets.0.fromat: unknown key; did you mean 'format'?"),
        ("method", {"name": "lora", "rnak": 4}, "method.rnak: unknown key; did you mean 'rank'?"),
        ("method", {"name": "full", "rank": 4}, "method.rank: unknown key; known: projector, vision"),
        (
            "data__sets",
            [{"source": {"name": "files", "pth": "a", "path": "b"}}],
            "data.source.pth: unknown key; did you mean 'path'?",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_closest(name: str, value: Any, sentence: str, tiny: Path, rows: Path) -> None:
    path = recipe(tiny, rows, **{name: value})
    first = next(p for p in problems(path) if "unknown key" in p)
    assert first.startswith(sentence.format(file="recipe.yaml"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"family": "internlm"}, "family 'internlm' is not known; did you mean 'internlm2'?"),
        (
            {"family": "zzz"},
            "family 'zzz' is not known; known: internlm2, internvl, llava, transformers, transformers_vision",
        ),
        ({"method": "lroa"}, "method 'lroa' is not known; did you mean 'lora'?"),
        ({"method": {"name": "qlora", "bits": 5}}, "method.bits: input should be 4 or 8 (given: 5)"),
        ({"method": {"name": "zzz"}}, "method 'zzz' is not known; known: full, lora, projector, qlora"),
        ({"template": "internlm_chaat"}, "template: 'internlm_chaat' is not known; did you mean 'internlm_chat'?"),
        ({"template": "lama2_chat"}, "template: 'lama2_chat' is not known; did you mean 'llama2_chat'?"),
        (
            {"data": {"sets": [{"path": "rows.jsonl", "format": "opnai"}]}},
            "format 'opnai' is not known; did you mean 'openai'?",
        ),
        (
            {"data": {"sets": [{"source": {"name": "fils", "path": "a"}}]}},
            "source 'fils' is not known; did you mean 'files'?",
        ),
    ],
)
def test_an_unknown_part_is_named_with_the_closest(
    changes: dict[str, Any], sentence: str, tiny: Path, rows: Path
) -> None:
    assert problems(recipe(tiny, rows, **changes)) == [sentence]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("train__lr", -1.0, "train.lr (recipe.yaml): input should be greater than 0 (given: -1.0)"),
        ("train__lr", 0, "train.lr (recipe.yaml): input should be greater than 0 (given: 0)"),
        ("train__lr", "fast", "train.lr (recipe.yaml): input should be a valid number (given: 'fast')"),
        ("train__lr", "2e-4", "train.lr (recipe.yaml): input should be a valid number (given: '2e-4')"),
        ("train__lr", True, "train.lr (recipe.yaml): input should be a valid number (given: True)"),
        ("train__epochs", 0, "train.epochs (recipe.yaml): input should be greater than 0 (given: 0)"),
        ("train__epochs", -2.0, "train.epochs (recipe.yaml): input should be greater than 0 (given: -2.0)"),
        ("train__max_steps", 0, "train.max_steps (recipe.yaml): input should be greater than or equal to 1"),
        ("train__max_steps", 1.5, "train.max_steps (recipe.yaml): input should be a valid integer (given: 1.5)"),
        ("train__micro_batch_size", 0, "train.micro_batch_size (recipe.yaml): input should be greater than or equal"),
        ("train__micro_batch_size", 17, "train"),
        ("train__warmup_ratio", 1.0, "train.warmup_ratio (recipe.yaml): input should be less than 1 (given: 1.0)"),
        ("train__betas", [0.9, 1.0], "train.betas (recipe.yaml): each must be at least 0 and below 1"),
        ("train__betas", [0.9], "train.betas"),
        ("train__dtype", "float16", "train.dtype (recipe.yaml): input should be 'auto', 'float32' or 'bfloat16'"),
        ("train__device", "gpu", "train.device (recipe.yaml): input should be 'auto', 'cpu' or 'cuda'"),
        ("train__seed", -1, "train.seed (recipe.yaml): input should be greater than or equal to 0 (given: -1)"),
        ("train", "fast", "train (recipe.yaml): input should be a valid dictionary"),
        ("data__max_length", 1, "data.max_length (recipe.yaml): input should be greater than or equal to 2"),
        ("data__max_rejected", -1, "data.max_rejected (recipe.yaml): input should be greater than or equal to 0"),
        ("data__sets", [], "data.sets (recipe.yaml): list should have at least 1 item"),
        ("data__sets", [{}], "data.sets.0: give either path or source"),
        (
            "data__sets",
            [{"path": "a", "source": {"name": "files", "path": "b"}}],
            "data.sets.0: give either path or source",
        ),
        ("data__sets", [{"source": {"path": "a"}}], "data.sets.0: source needs the name of a source"),
        ("data__sets", [{"path": 3}], "data.sets.0.path: input should be a valid string (given: 3)"),
        ("method", {"name": 4}, "method: needs the name of a method"),
        ("method", 3, "method (recipe.yaml): input should be a valid dictionary (given: 3)"),
        ("method", {"name": "lora", "rank": 0}, "method.rank: input should be greater than or equal to 1 (given: 0)"),
        ("method", {"name": "lora", "rank": "8"}, "method.rank: input should be a valid integer (given: '8')"),
        ("method", {"name": "lora", "alpha": 0}, "method.alpha: input should be greater than 0 (given: 0)"),
        ("method", {"name": "lora", "dropout": 1.0}, "method.dropout: input should be less than 1 (given: 1.0)"),
        ("data__sets", [{"source": {"name": "files"}}], "data.source.path: is required"),
        ("model", 3, "model (recipe.yaml): input should be a valid string (given: 3)"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_origin(
    name: str, value: Any, sentence: str, tiny: Path, rows: Path
) -> None:
    (found,) = problems(recipe(tiny, rows, **{name: value}))
    assert found.startswith(sentence)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["train.lr", "train.epochs", "train.weight_decay", "method.alpha"])
def test_a_number_that_is_not_finite_is_refused(name: str, value: float, tiny: Path, rows: Path) -> None:
    settings = {name: (value, "--set"), "method.name": ("lora", "--method")}
    with pytest.raises(RecipeError, match=name):
        make_plan(written(recipe(tiny, rows), settings), load_registry("none"))


def test_a_recipe_of_nothing_says_what_it_needs(ftx: Any) -> None:
    assert problems(put("{}")) == ["model: is required (--model FOLDER)", "data: is required (--data FILE)"]
    planned = ftx("plan")
    assert planned.code == 2
    assert planned.err == "ftx: model: is required (--model FOLDER)\nftx: data: is required (--data FILE)\n"


def test_data_without_sets_says_what_it_needs(tiny: Path) -> None:
    path = put(f"model: {tiny}\ndata: {{max_length: 64}}\n")
    assert problems(path) == ["data: is required (--data FILE)"]


def test_all_mistakes_of_values_and_names_are_told_at_once() -> None:
    path = put(
        "family: intern\n"
        "method: {name: lroa}\n"
        "template: internlm\n"
        "modle: here\n"
        "train: {lr: -1, epochs: 0, epoch: 2, seed: x}\n"
        "data: {sets: [{pth: a}], max_len: 3}\n"
    )
    found = problems(path)
    for beginning in (
        "model: is required",
        "modle (recipe.yaml): unknown key",
        "train.lr (recipe.yaml): ",
        "train.epochs (recipe.yaml): ",
        "train.epoch (recipe.yaml): unknown key",
        "train.seed (recipe.yaml): ",
        "data.max_len (recipe.yaml): unknown key",
        "data.sets.0.pth: unknown key",
        "family 'intern' is not known",
        "method 'lroa' is not known",
        "template: 'internlm' is not known",
    ):
        assert sum(one.startswith(beginning) for one in found) == 1, beginning


def test_options_of_parts_are_checked_even_where_the_rest_is_wrong(tiny: Path, rows: Path) -> None:
    path = recipe(
        tiny,
        rows,
        train__lr=-1.0,
        method={"name": "lora", "rank": 0},
        data__sets=[{"path": str(rows), "format": "opnai"}, {"source": {"name": "fils"}}],
    )
    found = "\n".join(problems(path))
    for part in ("train.lr", "method.rank", "format 'opnai'", "source 'fils'"):
        assert part in found, part


def test_a_batch_that_does_not_fit_is_told_along_with_other_mistakes(tiny: Path, rows: Path) -> None:
    found = "\n".join(problems(recipe(tiny, rows, train__lr=-1.0, train__micro_batch_size=17)))
    assert "train.lr" in found
    assert "17 exceeds global_batch_size" in found


def test_what_parts_find_is_told_at_once(tiny: Path, rows: Path, tmp_path: Path) -> None:
    path = recipe(
        tmp_path / "no_model",
        rows,
        family="internlm2",
        method={"name": "lora", "rank": 0, "dropout": 2.0},
        template="internlm",
        data__sets=[{"path": "none.jsonl"}, {"path": str(rows), "format": "opnai"}, {"source": {"name": "fils"}}],
    )
    with pytest.raises(RecipeError) as caught:
        plan_of(path)
    found = str(caught.value)
    for part in (
        "no_model",
        "method.rank",
        "method.dropout",
        "template: 'internlm'",
        "none.jsonl does not exist",
        "format 'opnai'",
        "source 'fils'",
    ):
        assert part in found, part


# -- files and the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2E-4", 2e-4),
        ("+2e-4", 2e-4),
        ("1e5", 1e5),
        ("2.5e-4", 2.5e-4),
        ("2.e-4", 2e-4),
        ("-1e-3", -1e-3),
        ("0.001", 0.001),
        ("16", 16),
        ("true", True),
        ("", None),
        ("null", None),
        ("2e", "2e"),
        ("e4", "e4"),
        ("2e-4x", "2e-4x"),
        ("'2e-4'", "2e-4"),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{name: lora, rank: 4}", {"name": "lora", "rank": 4}),
        ("你好", "你好"),
    ],
)
def test_values_read_as_people_write_them(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)
    if text:
        assert read_recipe(put(f"value: {text}")) == {"value": value}


def test_other_yaml_readers_keep_their_own_rules() -> None:
    assert yaml.safe_load("2e-4") == "2e-4"


@pytest.mark.parametrize(
    "text", ["model: [", "model: 'x", "a: b: c", "\tmodel: x", "model: {a: 1", "model: *nowhere", "{[a]: b}"]
)
def test_broken_yaml_is_refused(text: str, ftx: Any) -> None:
    planned = ftx("plan", put(text))
    assert planned.code == 2
    assert planned.err.startswith("ftx: recipe recipe.yaml is broken YAML: ")
    assert "line 1" in planned.err
    assert planned.err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["model: 2020-13-45", "model: &a [*a]", "model: &a {b: *a}", "model: " + "[" * 3000, "model: " + "1" * 5000]
)
def test_yaml_of_impossible_values_is_refused(text: str, ftx: Any) -> None:
    planned = ftx("plan", put(text))
    assert planned.code == 2
    assert planned.err.startswith("ftx: recipe recipe.yaml is broken YAML: ")
    assert planned.err.count("\n") == 1


def test_a_key_that_stands_twice_is_refused(ftx: Any) -> None:
    planned = ftx("plan", put("train:\n  lr: 1e-4\ntrain:\n  seed: 1\n"))
    assert (planned.code, planned.err.count("\n")) == (2, 1)
    assert "train stands twice" in planned.err
    assert "line 3" in planned.err
    assert read_recipe(put("a: &it {b: 1}\nc: {<<: *it, b: 2}\nd: [*it, *it]")) == {
        "a": {"b": 1},
        "c": {"b": 2},
        "d": [{"b": 1}, {"b": 1}],
    }


def test_a_seed_that_no_generator_takes_is_refused(ftx: Any, tiny: Path, rows: Path) -> None:
    planned = ftx("plan", "--model", tiny, "--data", rows, "--seed", 1 << 32)
    assert planned.code == 2
    assert "train.seed" in planned.err


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "3"])
def test_a_recipe_that_is_no_mapping_is_refused(text: str, ftx: Any) -> None:
    planned = ftx("plan", put(text))
    assert (planned.code, planned.err) == (2, "ftx: recipe recipe.yaml holds no mapping\n")


def test_yaml_makes_no_objects(ftx: Any, tmp_path: Path) -> None:
    planned = ftx("plan", put("model: !!python/object/apply:pathlib.Path.touch [ran]\n"))
    assert planned.code == 2
    assert "broken YAML" in planned.err
    assert not (tmp_path / "ran").exists()


def test_a_recipe_that_cannot_be_read_is_refused(ftx: Any, tmp_path: Path) -> None:
    missing = ftx("plan", "none.yaml")
    assert (missing.code, missing.err) == (2, "ftx: recipe none.yaml does not exist\n")
    assert "cannot be read" in ftx("plan", tmp_path).err
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: é".encode("latin-1"))
    assert "recipe latin.yaml cannot be read" in ftx("plan", "latin.yaml").err


@pytest.mark.parametrize("setting", ["train.lr", "=3", ""])
def test_a_setting_without_a_name_and_a_value_is_refused(setting: str, ftx: Any) -> None:
    planned = ftx("plan", "--set", setting)
    assert (planned.code, planned.err) == (2, f"ftx: --set {setting}: write it as a.b=value\n")


@pytest.mark.parametrize("setting", ["train.lr=[1", "train.lr={", "model='x", "train.lr=2020-13-45"])
def test_a_setting_with_a_broken_value_is_refused(setting: str, ftx: Any) -> None:
    planned = ftx("plan", "--set", setting)
    assert planned.code == 2
    assert "is no YAML value" in planned.err


@pytest.mark.parametrize("setting", ["train.lr.x=1", "model.x=1", "nothing.there=1", ".=1", "train.=1"])
def test_a_setting_of_what_is_no_option_is_refused(setting: str, ftx: Any, tiny: Path, rows: Path) -> None:
    planned = ftx("plan", recipe(tiny, rows, train__lr=1e-3), "--set", setting)
    assert planned.code == 2
    assert planned.err.startswith("ftx: ")


@pytest.mark.parametrize("wrong", ["fast", 7])
def test_a_flag_does_not_hide_that_the_file_is_wrong(wrong: Any, ftx: Any, tiny: Path, rows: Path) -> None:
    planned = ftx("plan", recipe(tiny, rows, train=wrong), "--lr", "1e-3")
    assert planned.code == 2
    assert f"train is {wrong!r}" in planned.err


def test_set_wins_over_flags_and_flags_over_the_file(tiny: Path, rows: Path, ftx: Any) -> None:
    path = recipe(tiny, rows, train__lr=1e-3, train__seed=1, train__epochs=2.0, data__max_length=99)
    arguments = [path, "--lr", "2e-3", "--seed", 2, "--set", "train.seed=3", "--set", "train.max_steps=5"]
    (event,) = ftx("plan", *arguments, "--json").events
    train, origins = event["train"], event["origins"]
    assert (train["epochs"], origins["train.epochs"]) == (2.0, "recipe.yaml")
    assert (event["data"]["max_length"], origins["data.max_length"]) == (99, "recipe.yaml")
    assert (train["lr"], origins["train.lr"]) == (2e-3, "--lr")
    assert (train["seed"], origins["train.seed"]) == (3, "--set")
    assert (train["steps"], origins["train.max_steps"]) == (5, "--set")
    assert "train.micro_batch_size" not in origins


def test_the_last_set_of_a_name_wins(tiny: Path, rows: Path, ftx: Any) -> None:
    (event,) = ftx("plan", recipe(tiny, rows), "--set", "train.seed=3", "--set", "train.seed=4", "--json").events
    assert event["train"]["seed"] == 4


def test_flags_reach_into_the_short_forms_of_a_file(tiny: Path, rows: Path, ftx: Any) -> None:
    path = put(f"model: {tiny}\nmethod: qlora\ndata: {rows}\n")
    arguments = ["--max-length", 77, "--set", "method.rank=4", "--json"]
    (event,) = ftx("plan", path, *arguments).events
    assert (event["method"]["name"], event["method"]["rank"]) == ("qlora", 4)
    assert event["data"]["max_length"] == 77
    assert event["data"]["sets"][0]["source"] == {"name": "files", "path": str(rows), "ending": None}
    (event,) = ftx("plan", path, "--method", "full", "--json").events
    assert event["method"]["name"] == "full"


def test_data_on_the_command_line_replaces_the_files(tiny: Path, rows: Path, ftx: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a b c"}\n', "utf-8")
    path = put(f"model: {tiny}\ndata: [none.jsonl, nor.jsonl]\n")
    (event,) = ftx("plan", path, "--data", rows, "--data", other, "--json").events
    assert [one["source"]["path"] for one in event["data"]["sets"]] == [str(rows), str(other)]
    assert [one["format"] for one in event["data"]["sets"]] == ["openai", "text"]
    assert event["data"]["rows"]["read"] == 13
    assert event["origins"]["data.sets"] == "--data"


def test_the_short_and_the_long_form_are_the_same_plan(tiny: Path, rows: Path) -> None:
    short = plan_of(put(f"model: {tiny}\nmethod: lora\ndata: {rows}\n")).as_dict()
    long = plan_of(
        put(
            f"family: internlm2\nmodel: {tiny}\nmethod: {{name: lora, rank: 16}}\ntemplate: tokenizer\n"
            f"data: {{sets: [{{source: {{name: files, path: {rows}}}, format: openai}}]}}\n"
            "train: {lr: 2e-4, epochs: 3, betas: [0.9, 0.999]}\nout: runs/rows-lora\n"
        )
    ).as_dict()
    for one in (short, long):
        del one["origins"]
        one["data"]["sets"][0].pop("evidence")
    assert short == long


def test_a_value_remembers_where_it_came_from() -> None:
    made = Written()
    made.put_all({"train": {"lr": 1, "seed": 2}, "model": "m"}, "file")
    made.put("train.lr", 3, "--lr")
    assert made.values == {"train": {"lr": 3, "seed": 2}, "model": "m"}
    assert [made.origin_of(name) for name in ("train.lr", "train.seed", "model", "out")] == [
        "--lr",
        "file",
        "file",
        "default",
    ]


def test_a_wrong_flag_is_named_as_its_origin(tiny: Path, rows: Path, ftx: Any) -> None:
    planned = ftx("plan", recipe(tiny, rows, train__lr=1e-3), "--lr", "fast")
    assert planned.err == "ftx: train.lr (--lr): input should be a valid number (given: 'fast')\n"
    planned = ftx("plan", recipe(tiny, rows), "--set", "train.lr=-1")
    assert planned.err == "ftx: train.lr (--set): input should be greater than 0 (given: -1)\n"


# -- plans ---------------------------------------------------------------------------------------------------------


def test_the_schema_holds_the_options_of_every_method(ftx: Any) -> None:
    shown: Result = ftx("plan", "--schema")
    assert (shown.code, shown.err) == (0, "")
    schema = json.loads(shown.out)
    assert set(schema["properties"]) == {"family", "model", "method", "template", "data", "train", "eval", "out"}
    registry = load_registry("none")
    named = {
        option["properties"]["name"]["const"]: set(option["properties"])
        for option in schema["properties"]["method"]["anyOf"]
        if "properties" in option
    }
    assert named.keys() == registry.parts["method"].keys() == {"lora", "qlora", "full", "projector"}
    for name, part in registry.parts["method"].items():
        assert named[name] == {"name", *part.model_fields}
    assert {"rank", "alpha", "dropout", "targets"} <= named["lora"] < named["qlora"]
    assert schema["properties"]["family"]["anyOf"][0]["enum"] == ["auto", *registry.parts["family"]]
    assert {one.get("const") for one in schema["properties"]["method"]["anyOf"]} >= {"lora", "qlora", "full"}
    formats = schema["$defs"]["SetRecipe"]["properties"]["format"]["enum"]
    assert formats == ["auto", *registry.parts["format"]]


def test_a_plan_prints_steps_and_writes_nothing(tiny: Path, rows: Path, ftx: Any, tmp_path: Path) -> None:
    path = recipe(tiny, rows, train__epochs=2.0, train__global_batch_size=5)
    before = sorted(tmp_path.rglob("*"))
    shown: Result = ftx("plan", path, "--out", "runs/mine")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("6 steps into runs/mine")
    for part in ("family.name", "internlm2", "method.rank", "train.epochs", "recipe.yaml", "--out", "default"):
        assert part in shown.out, part
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_is_one_json_event(tiny: Path, rows: Path, ftx: Any, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown: Result = ftx("plan", "--model", tiny, "--data", rows, "--json")
    (event,) = shown.events
    assert (shown.code, shown.err, event["event"]) == (0, "", "plan")
    assert event["train"]["steps"] == 3
    assert event["data"]["rows"]["read"] == event["data"]["rows"]["kept"] == 12
    assert (event["out"], event["method"]["name"]) == ("runs/rows-lora", "lora")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "steps", "warmup"),
    [
        ({"train__epochs": 1.0}, 1, 0),
        ({"train__epochs": 1, "train__global_batch_size": 5}, 3, 1),
        ({"train__epochs": 0.1, "train__global_batch_size": 4, "train__micro_batch_size": 4}, 1, 0),
        ({"train__epochs": 2.5, "train__global_batch_size": 4}, 8, 1),
        ({"train__max_steps": 200}, 200, 6),
        ({"train__max_steps": 200, "train__warmup_ratio": 0.0}, 200, 0),
        ({"train__max_steps": 4, "train__warmup_ratio": 0.99}, 4, 3),
    ],
)
def test_steps_follow_from_rows_batch_and_epochs(
    changes: dict[str, Any], steps: int, warmup: int, tiny: Path, rows: Path
) -> None:
    made = plan_of(recipe(tiny, rows, **changes))
    assert (made.steps, made.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_each_method_has_its_own_learning_rate(method: str, tiny: Path, rows: Path) -> None:
    made = plan_of(recipe(tiny, rows, method=method))
    assert made.lr == {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}[method]
    assert made.out == Path(f"runs/rows-{method}")
    assert plan_of(recipe(tiny, rows, method=method, train__lr=0.5)).lr == 0.5


UNFIT = (
    "internvl2_phi3",
    "internlm_chat",
    "deepseek_v2",
    "cohere_chat",
    "llama3_chat",
    "phi3_chat",
)  # their stop token is not its own


@pytest.mark.parametrize("template", [*named_templates(), "tokenizer", "auto"])
def test_each_template_can_be_named_and_is_taken_when_it_fits(template: str, tiny: Path, rows: Path) -> None:
    path = recipe(tiny, rows, template=template)
    if template in UNFIT:
        (sentence,) = problems(path)
        assert "which is not one special token of this tokenizer" in sentence
        return
    made = plan_of(path)
    assert made.template.name == {"auto": "tokenizer"}.get(template, template)
    assert made.stop_ids == [2, 631]  # generation_config.json names both


# -- exit codes ----------------------------------------------------------------------------------------------------

REFUSED_DATA = [
    ("rows.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n', "none of the 1 rows can be trained on"),
    ("rows.jsonl", '{"a": 1}\n', "row 1 has keys 'a', which is no known format"),
    ("rows.jsonl", '{"text": ', "column 10: broken JSON"),
    ("rows.json", "[]", "holds no rows"),
    ("rows.csv", "", "is empty"),
    ("rows.doc", "x", "ends in '.doc'"),
    ("rows.parquet", "x", "is no whole Parquet file"),
]


@pytest.mark.parametrize("command", ["plan", "train"])
@pytest.mark.parametrize(("name", "content", "why"), REFUSED_DATA, ids=[why for _, _, why in REFUSED_DATA])
def test_refused_data_exits_3_and_writes_nothing(
    name: str, content: str, why: str, command: str, ftx: Any, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    before = sorted(tmp_path.rglob("*"))
    ended: Result = ftx(command, "--model", tiny, "--data", name)
    assert (ended.code, ended.out) == (3, "")
    assert why in ended.err
    assert name in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def test_one_bad_row_refuses_the_run_unless_it_is_allowed(ftx: Any, tiny: Path, rows: Path) -> None:
    with rows.open("a", encoding="utf-8") as file:
        file.write('\n{"messages": [{"role": "user", "content": "a"}]}\n')
    ended: Result = ftx("plan", "--model", tiny, "--data", rows)
    assert ended.code == 3
    first, second = ended.err.splitlines()
    assert first.startswith("ftx: 1 of 13 rows cannot be trained on and data.max_rejected is 0")
    assert second == (f"ftx: {rows}: row 14: the row has no answer to its last question; add the assistant's answer")
    (event,) = ftx("plan", "--model", tiny, "--data", rows, "--set", "data.max_rejected=1", "--json").events
    assert event["data"]["rows"] == {**event["data"]["rows"], "read": 13, "kept": 12, "rejected": 1}


def test_many_bad_rows_are_told_in_short(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n' * 9, "utf-8")
    ended: Result = ftx("plan", "--model", tiny, "--data", "bad.jsonl")
    lines = ended.err.splitlines()
    assert lines[0] == "ftx: none of the 9 rows can be trained on"
    assert [line.split(":")[2].strip() for line in lines[1:6]] == [f"row {i}" for i in range(1, 6)]
    assert lines[6:] == ["ftx: ... and 4 more rows"]


@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_wrong_recipe_exits_2_and_writes_nothing(
    command: str, ftx: Any, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    path = recipe(tiny, rows, train__lr=-1.0, template="zzz")
    before = sorted(tmp_path.rglob("*"))
    ended: Result = ftx(command, path)
    assert (ended.code, ended.out) == (2, "")
    assert next(line.partition(" (")[0] for line in ended.err.splitlines()) == "ftx: train.lr"
    assert "Traceback" not in ended.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"train__lr": -1.0, "train__epochs": 0}, "recipe", 2),
        ({"model": "none"}, "model", 2),
        ({"data": "none.jsonl"}, "data", 3),
    ],
)
def test_an_error_is_one_json_event(
    changes: dict[str, Any], kind: str, code: int, ftx: Any, tiny: Path, rows: Path
) -> None:
    ended: Result = ftx("plan", recipe(tiny, rows, **changes), "--json")
    (event,) = ended.events
    assert ended.code == code
    assert {**event, "problems": []} == {"event": "error", "kind": kind, "code": code, "problems": []}
    assert event["problems"] == [line.removeprefix("ftx: ") for line in ended.err.splitlines()]
