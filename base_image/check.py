"""Fail the build of an image that is not what its labels say.

`check.py python` looks at Python alone, before gigabytes are installed into the wrong one;
`check.py all` imports everything as well, so that a system library that is missing is found here
and not by the first run.
"""

import importlib
import json
import platform
import sys
from pathlib import Path


def found(name):
    """Return the version that there is; of Python the minor one is what is asked for."""
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return importlib.import_module(name).__version__
    except ImportError as error:
        sys.exit(f"{name} can't be imported in this image: {error}")


def main(what):
    """Compare what there is with versions.json; exit with a sentence where it differs."""
    expected = json.loads(Path(__file__).with_name("versions.json").read_text("utf-8"))
    for name in ["python"] if what == "python" else expected:
        if found(name) != expected[name]:
            sys.exit(
                f"The image has {name} {found(name)}, and the notebook {expected[name]}. "
                + (
                    f"Give a Python image that fits: --python-image python:{expected[name]}-slim"
                    if name == "python"
                    else "One of the extra requirements asks for another version."
                )
            )


if __name__ == "__main__":
    main(sys.argv[1])
