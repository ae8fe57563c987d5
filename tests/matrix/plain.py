"""The other side of the matrix: plain Keras in one process, which never imports nbtrain."""

from __future__ import annotations

import json
import sys
import traceback

import numpy as np

from .cases import CASES


def train(case, out):
    import keras

    keras.backend.clear_session()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(case.seed)
    functions = case.functions()
    model = functions["model"]()
    data = functions["dataset"]() if callable(functions["dataset"]) else functions["dataset"]
    arguments = dict(case.fit)
    arguments |= as_arguments(data, case.batch)
    if functions.get("validation"):
        arguments["validation_data"] = functions["validation"]()
        if case.batch and isinstance(arguments["validation_data"], tuple):
            arguments.setdefault("validation_batch_size", case.batch)
    if functions.get("callbacks"):
        arguments["callbacks"] = functions["callbacks"]()
    history = model.fit(**arguments, epochs=case.epochs, verbose=0)
    variables = {f"model/{i}": v for i, v in enumerate(model.variables)}
    for name, optimizer in optimizers(model).items():
        if optimizer.built:  # a GAN does not use the one of `compile`
            variables |= {f"{name}/{i}": v for i, v in enumerate(optimizer.variables)}
    np.savez(out, **{k: np.array(v, dtype="float64") for k, v in variables.items()})
    return {"history": {k: np.ravel(v).tolist() for k, v in history.history.items()}}


def as_arguments(data, batch):
    """Return the data as arguments of `fit`; `batch` is for what is not batched itself."""
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset):
        shapes = [spec.shape for spec in tf.nest.flatten(data.element_spec)]
        is_batched = not batch or any(s.rank and s[0] is None for s in shapes)
        return {"x": data if is_batched else data.batch(batch)}
    if isinstance(data, tuple):
        names = ("x", "y", "sample_weight")
        return dict(zip(names, data, strict=False)) | ({"batch_size": batch} if batch else {})
    if isinstance(data, (dict, np.ndarray)):
        return {"x": data} | ({"batch_size": batch} if batch else {})
    return {"x": data}


def optimizers(model):
    import keras

    extra = {
        f"optimizer.{k}": v
        for k, v in vars(model).items()
        if isinstance(v, keras.optimizers.Optimizer) and v is not model.optimizer
    }
    return {"optimizer": model.optimizer, **extra}


def main():
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        name, out = json.loads(line)
        try:
            answer = train(CASES[name], out)
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        assert not any(m.split(".")[0] == "nbtrain" for m in sys.modules)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
