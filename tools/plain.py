"""Train a notebook's model in one process with Keras alone: what nbtrain has to be equal to.

`python tools/plain.py NOTEBOOK WEIGHTS.npz` runs the notebook's data cell and the functions of its
`%%k8s_train` cell, and never imports nbtrain.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

MAGIC = "%%k8s_train"


def tagged(notebook: Path, tag: str) -> str:
    """Return the source of the notebook's one cell with this tag."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    (cell,) = [cell for cell in cells if tag in cell["metadata"].get("tags", ())]
    return "".join(cell["source"])


def split(cell: str) -> tuple[dict[str, str], str]:
    """Return the options and the body of a training cell."""
    line, _, body = cell.partition("\n")
    words = shlex.split(line.removeprefix(MAGIC))
    return {
        name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }, body


def train(namespace: dict[str, Any], options: dict[str, str]) -> Any:
    """Return the model of the functions in `namespace`, trained by plain `fit`."""
    import keras

    keras.utils.set_random_seed(int(options["seed"]))
    model = namespace["model"]()
    x, y = namespace["dataset"]()
    model.fit(
        x,
        y,
        epochs=int(options["epochs"]),
        batch_size=int(options["batch"]),
        validation_data=namespace["validation"](),
        verbose=0,
    )
    return model


def main() -> None:
    """Train, and save the weights and what the model says of the held-out data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    options, body = split(tagged(arguments.notebook, "train"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for source in (tagged(arguments.notebook, "data"), body):
        exec(compile(source, str(arguments.notebook), "exec"), namespace)
    model = train(namespace, options)
    import numpy as np

    x, y = namespace["validation"]()
    weights = {f"weight_{i:03d}": w for i, w in enumerate(model.get_weights())}
    np.savez(arguments.weights, x=x, y=y, predicted=model.predict(x, verbose=0), **weights)
    if "nbtrain" in sys.modules:
        sys.exit("this process has imported nbtrain: it proves nothing")


if __name__ == "__main__":
    main()
