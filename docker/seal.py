"""seal.py NAME PACKAGE...: mark the environment that runs this as whole, as `ftx env create` does last."""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path

name, *packages = sys.argv[1:]
here = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
versions = {package: importlib.metadata.version(package) for package in packages if package in here}
facts = {"name": name, "versions": {"python": platform.python_version(), **versions}}
Path(sys.prefix, "ftx-environment.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
