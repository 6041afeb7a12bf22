"""Everything a plugin author imports: ``from ftx import hookimpl, ModelFamily, ...``."""

from __future__ import annotations

__version__ = "0.1.0"

from ftx.contracts import (
    AppModel,
    AppSettings,
    AppTemplate,
    Bundle,
    DataFormat,
    DataSource,
    Identity,
    ImageProcessor,
    Layout,
    ModelFacts,
    ModelFamily,
    Part,
    Publisher,
    Record,
    Remote,
    RemoteFile,
    TrainMethod,
)
from ftx.data.conversation import Conversation, Message, Picture, RowError
from ftx.errors import DataError, FtxError, HubError, ModelError, RecipeError
from ftx.hookspecs import hookimpl

__all__ = [
    "AppModel",
    "AppSettings",
    "AppTemplate",
    "Bundle",
    "Conversation",
    "DataError",
    "DataFormat",
    "DataSource",
    "FtxError",
    "HubError",
    "Identity",
    "ImageProcessor",
    "Layout",
    "Message",
    "ModelError",
    "ModelFacts",
    "ModelFamily",
    "Part",
    "Picture",
    "Publisher",
    "RecipeError",
    "Record",
    "Remote",
    "RemoteFile",
    "RowError",
    "TrainMethod",
    "__version__",
    "hookimpl",
]
