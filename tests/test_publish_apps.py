"""Apps of `ftx app new` published: Spaces, Studios, OpenXLab; what they are given there, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import published
import test_publish_hubs
from ftx.apps.make import make_app
from ftx.plan import configured
from ftx.plugins import load_registry
from ftx.publish.logins import save
from hub_publishing import Fault, gradio_app, proven
from hub_servers import TOKEN
from test_publish_hubs import REPO, Place

BASE = Path(__file__).parents[1] / "plugins/ftx_quickstart/base"
SECRET = "sk-once-upon-a-time-71"
place = test_publish_hubs.place  # the fixture
made_once, merged_copy = published.made_once, published.merged_copy  # fixtures
ON_HUGGING_FACE = pytest.mark.parametrize("place", ["huggingface"], indirect=True)


def made(folder: Path, target: str, **options: Any) -> Path:
    registry = load_registry("none")
    out = folder / target
    given = {"title": "Cats", "license": "apache-2.0", **options}
    make_app(configured(registry.app("gradio_chat"), given, "app"), BASE, target, out, {}, registry)
    return out


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The quickstart's app for each hub."""
    folder = tmp_path_factory.mktemp("apps")
    return {target: made(folder, target) for target in ("huggingface", "modelscope")}


@pytest.fixture
def whole_app(apps: dict[str, Path], place: Place, tmp_path: Path) -> Path:
    """A copy of the app for the hub."""
    return Path(shutil.copytree(apps[place.publisher], tmp_path / "app"))


@pytest.fixture
def app(whole_app: Path) -> Path:
    """The same without its model, which is quicker to look through."""
    shutil.rmtree(whole_app / "model")
    return whole_app


@ON_HUGGING_FACE
class TestSpaces:
    def test_dry_run_push_receipt(self, ftx: Any, place: Place, whole_app: Path) -> None:
        app = proven(whole_app)
        dry = ftx(*place.words(app, "--dry-run"))
        assert dry.code == 0, dry.err
        assert dry.events[0]["license"] == {"id": "apache-2.0", "base": "apache-2.0", "agreed": False}
        assert dry.events[0]["exists"] is False and REPO not in place.server.refs
        result = ftx(*place.words(app))
        assert result.code == 0, result.err
        assert REPO in place.server.private
        (entry,) = json.loads((app / "publish.json").read_text("utf-8"))["published"]
        assert set(entry["files"]) == {one["path"] for one in dry.events[0]["files"]}
        assert place.files()["model/model.safetensors"] == (app / "model" / "model.safetensors").read_bytes()

    def test_secrets_and_variables_are_there_before_the_files(
        self, ftx: Any, place: Place, app: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        kept = tmp_path / "kept"
        kept.write_text(SECRET + "\n", "utf-8")
        kept.chmod(0o600)
        monkeypatch.setenv("SEARCH_KEY_FILE", str(kept))
        result = ftx(*place.words(app, "--secret", "SEARCH_KEY", "--variable", "APP_TITLE=Two cats"))
        assert result.code == 0, result.err
        assert place.server.settings == {
            f"secrets {REPO}": {"SEARCH_KEY": SECRET},
            f"variables {REPO}": {"APP_TITLE": "Two cats"},
        }
        steps = [line.split("/")[-1] for line in place.server.asked if line.startswith("POST")]
        assert steps.index("secrets") < steps.index("main")
        plan = result.events[0]
        assert (plan["secrets"], plan["variables"]) == (["SEARCH_KEY"], {"APP_TITLE": "Two cats"})
        assert SECRET not in result.out + result.err + (app / "publish.json").read_text("utf-8")
        # The same again sends no file, and sets them anew.
        monkeypatch.setenv("SEARCH_KEY", "another-value")
        again = ftx(*place.words(app, "--secret", "SEARCH_KEY"))
        assert (again.code, again.events[-1]["sent_files"]) == (0, 0), again.err
        assert place.server.settings[f"secrets {REPO}"] == {"SEARCH_KEY": "another-value"}

    def test_it_is_asked_before_the_app_there_is_changed(
        self, ftx: Any, place: Place, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert ftx(*place.words(app)).code == 0
        monkeypatch.setenv("SEARCH_KEY", SECRET)
        place.server.settings.clear()
        for more in (["--secret", "SEARCH_KEY"], ["--variable", "A=b"], ["--hardware", "t4-small"]):
            result = ftx(*[word for word in place.words(app, *more) if word != "--yes"])
            assert (result.code, "nobody is there to be asked" in result.err) == (2, True), result.err
        assert not place.server.settings and not place.server.spaces[REPO].get("hardware")
        assert ftx(*[word for word in place.words(app) if word != "--yes"]).code == 0, "nothing is changed"

    def test_people_are_told_that_variables_are_public(self, ftx: Any, place: Place, app: Path) -> None:
        words = [word for word in place.words(app, "--variable", "APP_TITLE=Two cats", "--dry-run") if word != "--json"]
        assert "variables, public for all to read: APP_TITLE=Two cats" in " ".join(ftx(*words).err.split())

    def test_another_machine_is_asked_for(self, ftx: Any, place: Place, app: Path) -> None:
        assert ftx(*place.words(app)).code == 0
        assert ftx(*place.words(app, "--set", "hardware=t4-small")).code == 0
        assert place.server.spaces[REPO]["hardware"] == "t4-small"
        place.server.asked.clear()
        assert ftx(*place.words(app, "--set", "hardware=t4-small")).code == 0
        assert not [line for line in place.server.asked if line.startswith("POST")]

    def test_the_stage_of_before_is_not_taken_for_that_of_now(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.stages = ["NO_APP_FILE", "NO_APP_FILE", "BUILDING", "RUNNING"]
        assert ftx(*place.words(app)).code == 0

    def test_one_that_failed_is_started_anew(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.stages = ["BUILDING", "RUNTIME_ERROR"]
        assert ftx(*place.words(app)).code == 5
        result = ftx(*place.words(app))
        assert (result.code, result.events[-1]["sent_files"]) == (0, 0), result.err
        assert [line for line in place.server.asked if line.startswith("POST") and "/restart" in line]

    def test_one_that_was_paused_is_started(self, ftx: Any, place: Place, app: Path) -> None:
        assert ftx(*place.words(app)).code == 0
        place.server.stages = ["PAUSED"]
        (app / "app.py").write_text((app / "app.py").read_text("utf-8") + "\n# changed\n", "utf-8")
        result = ftx(*place.words(app))
        assert result.code == 0, result.err
        assert [line for line in place.server.asked if line.startswith("POST") and "/restart" in line]

    def test_one_that_is_paused_meanwhile_does_not_run(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.stages = ["BUILDING", "PAUSED"]
        result = ftx(*place.words(app))
        assert (result.code, "does not run (PAUSED)" in result.err) == (5, True), result.err

    def test_a_gpu_lent_for_each_call(self, ftx: Any, place: Place, app: Path) -> None:
        result = ftx(*place.words(app, "--set", "hardware=zero-a10g"))
        assert result.code == 0, result.err
        assert place.server.spaces[REPO]["hardware"] == "zero-a10g"

    def test_an_app_that_no_lent_gpu_runs(self, ftx: Any, place: Place, app: Path) -> None:
        for name in ("requirements.txt", "README.md", "launch.py"):
            text = (app / name).read_text("utf-8")
            for old, new in (("torch==2.11.0", "torch==2.13.0"), ("'3.12'", "'3.11'"), ("spaces.GPU", "spaces.gpu")):
                text = text.replace(old, new)
            (app / name).write_text(text, "utf-8")
        result = ftx(*place.words(app, "--set", "hardware=zero-a10g"))
        assert result.code == 2
        assert len(result.err.splitlines()) == 3
        for words in ("python_version: 3.11", "requirements.txt says 2.13.0", "function under @spaces.GPU"):
            assert words in result.err

    def test_a_plan_that_must_be_paid(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.faults = [Fault("POST", "/api/repos/create", 402)]
        result = ftx(*place.words(app))
        assert result.code == 5
        assert "PRO, Team or Enterprise" in result.err and "--set hardware=zero-a10g" in result.err
        assert ftx(*place.words(app)).code == 0


def refused(ftx: Any, place: Place, app: Path, *more: str) -> str:
    result = ftx(*place.words(app, *more))
    assert result.code == 2, result.err
    assert len(result.err.splitlines()) == 1 and SECRET not in result.err + result.out
    assert REPO not in place.server.refs and not (app / "publish.json").exists()
    return str(result.err)


@ON_HUGGING_FACE
def test_secrets_that_would_not_stay_secret(
    ftx: Any, place: Place, app: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "set SEARCH_KEY to its value, or SEARCH_KEY_FILE" in refused(ftx, place, app, "--secret", "SEARCH_KEY")
    assert "give the name alone" in refused(ftx, place, app, "--secret", f"SEARCH_KEY={SECRET}")
    monkeypatch.setenv("SEARCH_WORD", SECRET)
    twice = ("--secret", "SEARCH_WORD", "--variable", "SEARCH_WORD=x")
    assert "it is a --secret too" in refused(ftx, place, app, *twice)
    public = ("--secret", "SEARCH_WORD", "--variable", f"OTHER={SECRET}")
    assert "variables are public; give it as --secret OTHER" in refused(ftx, place, app, *public)
    assert "what looks like a" in refused(ftx, place, app, "--variable", "OTHER=hf_" + "a" * 34)
    assert f"the value of {place.token}" in refused(ftx, place, app, "--variable", f"OTHER={TOKEN}")
    save("https://git.example.org", "git", "ann", "kept-by-a-login", "file")
    held = refused(ftx, place, app, "--variable", "OTHER=see kept-by-a-login")
    assert "a token that ftx login keeps" in held and "kept-by" not in held
    assert "write it as NAME=VALUE" in refused(ftx, place, app, "--variable", "OTHER")
    (app / "app.py").write_text(f"word = {SECRET!r}\n", "utf-8")
    assert "app.py holds the value of --secret SEARCH_WORD" in refused(ftx, place, app, "--secret", "SEARCH_WORD")
    kept = tmp_path / "kept"
    kept.write_text(SECRET, "utf-8")
    kept.chmod(0o644)
    monkeypatch.setenv("SEARCH_KEY_FILE", str(kept))
    assert "others may read" in refused(ftx, place, app, "--secret", "SEARCH_KEY")


class TestTheModelOfAnApp:
    """It leaves as it would by itself: sealed, verified, under a licence that its base allows."""

    WORDS = ("--repo", REPO, "--set", "host=https://git.example.org", "--dry-run", "--json")

    @pytest.fixture
    def app(self, tmp_path: Path, merged: Path) -> Path:
        """An app put together by hand around a merged model that was verified."""
        app = gradio_app(tmp_path / "app")
        shutil.copytree(merged, app / "model")
        return app

    def refused(self, ftx: Any, app: Path, code: int, *more: str) -> str:
        result = ftx("publish", "git", app, *self.WORDS, *more)
        assert (result.code, result.err.count("\n")) == (code, 1), result.err
        return str(result.err)

    def test_the_app_is_published_and_not_its_model(self, ftx: Any, app: Path) -> None:
        (app / "model" / "publish.json").write_text("{}", "utf-8")
        result = ftx("publish", "git", app, *self.WORDS)
        assert result.code == 0, result.err
        sent = {one["path"] for one in result.events[0]["files"]}
        assert result.events[0]["kind"] == "app" and {"app.py", "model/model.safetensors"} <= sent
        assert not sent & {"model/ftx.json", "model/verify.json", "model/publish.json"}
        assert result.events[0]["license"]["id"] == "apache-2.0"

    def test_by_hand(self, ftx: Any, app: Path) -> None:
        (app / "model" / "more.safetensors").write_bytes((app / "model" / "model.safetensors").read_bytes())
        assert "more.safetensors is not of the model that was verified" in self.refused(ftx, app, 7)
        (app / "model" / "more.safetensors").unlink()
        (app / "model" / "verify.json").unlink()
        assert "was never verified" in self.refused(ftx, app, 7)
        (app / "model" / "config.json").write_text("{}", "utf-8")
        assert "was changed after it was sealed" in self.refused(ftx, app, 7)
        (app / "model" / "ftx.json").unlink()
        assert "carries weights that nothing proves" in self.refused(ftx, app, 7)

    def test_one_of_app_new(self, ftx: Any, merged: Path, tmp_path: Path) -> None:
        registry = load_registry("none")
        template = configured(registry.app("gradio_chat"), {}, "app")

        def made_of(model: Path, name: str) -> Path:
            make_app(template, model, "local", tmp_path / name, {}, registry)
            return tmp_path / name

        app = made_of(merged, "good")
        result = ftx("publish", "git", app, *self.WORDS)
        assert (result.code, result.events[0]["license"]["id"]) == (0, "apache-2.0"), result.err
        weights = app / "model" / "model.safetensors"
        other = bytearray(weights.read_bytes())
        other[-1] ^= 1
        weights.write_bytes(other)
        assert "model.safetensors was changed after it was verified" in self.refused(ftx, app, 7)
        (merged / "verify.json").unlink()
        assert "was not verified when the app was made" in self.refused(ftx, made_of(merged, "unproven"), 7)
        (merged / "ftx.json").unlink()
        assert "was no sealed result of ftx" in self.refused(ftx, made_of(merged, "unsealed"), 7)

    def test_its_licence(self, ftx: Any, app: Path) -> None:
        for name in ("ftx.json", "verify.json"):
            (app / "model" / name).unlink()
        proven(app, "llama3")
        assert "the base is under llama3" in self.refused(ftx, app, 2, "--license", "mit")
        (app / "README.md").write_text("---\nsdk: gradio\nlicense: mit\n---\n", "utf-8")
        assert "the base is under llama3" in self.refused(ftx, app, 2)
        result = ftx("publish", "git", app, *self.WORDS, "--license-agreed")
        assert result.events[0]["license"] == {"id": "mit", "base": "llama3", "agreed": True}, result.err
