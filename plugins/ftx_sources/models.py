"""Base models on the Hugging Face Hub, or on a mirror of it that HF_ENDPOINT names."""

from __future__ import annotations

from pathlib import Path

from ftx.errors import HubError
from ftx_sources.huggingface import HuggingFace, endpoint, token_of_user

# What a model folder is read from, and the code that goes along for older tools.
BESIDES = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
TERMS = ("README.md", "LICENSE*", "NOTICE*", "USE_POLICY*")  # what the publishing of a result asks for
WEIGHTS = ("*.safetensors", "*.bin")  # the first kind that is there


class HuggingFaceModel(HuggingFace):
    """A model on the Hugging Face Hub, kept in huggingface_hub's own cache."""

    repo_type = "model"
    what = "model"
    passed_over = frozenset()

    def folder(self) -> Path:
        """The folder with the model's files, downloaded where it is not in the cache. Raises HubError, StorageError."""
        folder = self._folder()
        if not (folder / "config.json").is_file():
            raise HubError(f"{self.label} on {self.hub} holds no config.json: it is no model in transformers' form")
        return folder

    def _patterns(self) -> list[str]:
        from huggingface_hub import HfApi, constants

        if constants.is_offline_mode():
            # Not the terms: caches of earlier versions lack them, and the client would refuse those.
            return [*BESIDES, *WEIGHTS]
        with self._asking():
            api = HfApi(endpoint=endpoint(), token=token_of_user(), library_name="ftx")
            names = api.list_repo_files(self.repo, revision=self.commit)
        stored = [kind for kind in WEIGHTS if any(Path(name).match(kind) for name in names)]
        return [*BESIDES, *TERMS, *stored[:1]]
