"""The other side of the matrix: plain Keras in one process, which never imports nbtrain."""

from __future__ import annotations

import gc
import json
import sys
import traceback

import numpy as np

from .cases import CASES


def train(case, out):
    begin_anew(case)
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
    variables = {f"model/{i}": v for i, v in enumerate(weights(model))}
    for name, optimizer in optimizers(model).items():
        variables |= {f"{name}/{i}": v for i, v in enumerate(optimizer_variables(optimizer))}
    np.savez(out, **{k: np.array(v.numpy(), dtype="float64") for k, v in variables.items()})
    return {"history": {k: np.ravel(v).tolist() for k, v in history.history.items()}}


def begin_anew(case):
    """Forget the case before, and seed."""
    import keras

    keras.backend.clear_session()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(case.seed)
    if case.family.startswith("tf_keras"):
        import tf_keras

        tf_keras.backend.clear_session()
        tf_keras.backend.set_floatx("float32")
        tf_keras.mixed_precision.set_global_policy("float32")
        tf_keras.utils.set_random_seed(case.seed)
    # TensorFlow keeps much of what a case has made, and `clear_session` collects garbage: that
    # would look at all of it once more in every case, and take three quarters of the time.
    gc.freeze()


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


def weights(model):
    """Return the variables of a model; tf_keras counts those of metrics among them."""
    import keras

    if isinstance(model, keras.Model):
        return model.variables
    metrics = {id(v) for m in model.metrics for v in m.variables}
    return [v for v in model.variables if id(v) not in metrics]


def optimizers(model):
    import keras

    kinds = (keras.optimizers.Optimizer,)
    if "tf_keras" in sys.modules:
        import tf_keras

        kinds += (tf_keras.optimizers.Optimizer, tf_keras.optimizers.legacy.Optimizer)
    extra = {
        f"optimizer.{k}": v
        for k, v in vars(model).items()
        if isinstance(v, kinds) and v is not model.optimizer
    }
    return {"optimizer": model.optimizer, **extra}


def optimizer_variables(optimizer):
    """Return what an optimizer has learnt; one that is not used (a GAN's) has nothing."""
    import keras

    if isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer.variables if optimizer.built else []
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.variables() if callable(inner.variables) else inner.variables


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
