"""Indexes the documents, so that the app starts at once. A container runs this when it is built."""

from __future__ import annotations

import sys

from documents import open_documents
from refused import CannotStart
from settings import read_settings

if __name__ == "__main__":
    try:
        open_documents(read_settings())
    except CannotStart as error:
        sys.exit(f"app: {error}")
