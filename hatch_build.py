"""Puts the front end into wheels: JupyterLab's extension goes where JupyterLab looks for it.

A wheel never comes without it: in a checkout it is built here, which needs node; an sdist brings
it along. An editable install takes it if it was built (`tools/frontend.py`), and works without.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "share/jupyter/labextensions/nbtrain"


class FrontEnd(BuildHookInterface):
    """Adds the built front end to what is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it where it has to be there, and say where its files go."""
        root = Path(self.root)
        if version != "editable" and not os.environ.get("NBTRAIN_NO_FRONTEND_BUILD"):
            self._build(root)
        extension = root / "nbtrain" / "labextension"
        if self.target_name == "wheel" and (extension / "package.json").exists():
            build_data["shared_data"] |= {
                str(extension): TARGET,
                str(root / "labextension" / "install.json"): f"{TARGET}/install.json",
            }

    def _build(self, root: Path) -> None:
        sys.path.insert(0, str(root / "tools"))
        try:
            import frontend
        finally:
            sys.path.pop(0)
        if frontend.is_built():
            return
        if lacking := frontend.lacking():
            raise RuntimeError(
                f"JupyterLab's extension is not built yet, and can't be: {lacking[0]};"
                " NBTRAIN_NO_FRONTEND_BUILD=1 goes without it"
            )
        frontend.build()
