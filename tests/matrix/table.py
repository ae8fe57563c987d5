"""Write docs/keras-support.md from a run of the whole matrix: `python -m tests.matrix.table`."""

from __future__ import annotations

import json
import sys
from itertools import groupby

from .cases import CASES
from .test_matrix import RESULTS, ROOT

HEAD = """# What Keras forms give the numbers of one process

Made by `python -m tests.matrix.table` from a run of the whole matrix (`make test-full`): every
form was trained by one process that never imports nbtrain (`keras.utils.set_random_seed(seed)`,
`model()`, `dataset()`, plain `fit`) and by two workers under MultiWorkerMirroredStrategy. Compared
are all weights, the optimizer's state and every value of the history; the workers among
themselves to the last bit.

- **exact**: no difference above 1e-6 (float32 rounds every sum, and workers add in another order);
  of numbers larger than 1, no difference above a millionth of them. What is NaN or infinite in one
  process is so on the workers.
- **exact to …**: the same with another tolerance, for the reason given.
- **own numbers**: the form draws at random in every step. Workers draw apart, as they should;
  among themselves they are identical, but there is nothing to compare with one process.
- **refused**: `fit` does not begin (or ends at once), and the error says what to do instead.

## What can't be seen from outside

Before it trains, nbtrain tries a compiled loss and metrics of your own on a few examples, and looks
at the operations that they are made of: those that couple the examples of a batch (contrastive
losses, Dice, a sum over the batch, a mean over the labels that are not missing) are computed from
the outputs of all workers. So is a `Loss` object of Keras that you call in a `train_step` of
your own (`keras.losses.Dice()(y, p)`). That is not possible for what else you compute there: such
losses are taken for means over the examples. Two things in the source bring a warning: a sum over
the batch (`tf.reduce_sum`) that is not divided by a number of examples (`tf.shape(x)[0]`), and a
coupled loss of Keras called as a function (`keras.losses.dice`, `tversky`, `circle`). And a
rehearsal, which runs in containers and pods have, compares the gradients of a few examples with
those of their halves where a `train_step` computes its loss by itself, and warns if they are not
the mean. It passes over models of tf_keras, of float16 or bfloat16, with BatchNormalization, with
more than 20 million weights, and steps that draw random numbers or have anything computed by Keras'
losses. Others go unnoticed.

**Layers** that couple the examples of a batch (`x - ops.mean(x, axis=0)`, a minibatch standard
deviation, in-batch negatives), and an `add_loss` or `activity_regularizer` that is no mean over the
examples (`ops.var(x)`), give other numbers on each worker's part of a batch, and nbtrain can't make
them right. Before it trains, it calls a model that has layers, a `call`, operations or functions of
your own on four made-up examples, and on their two halves; if the outputs or added losses don't fit
together, a warning names the layer. Unnoticed are models that draw random numbers even where they
are not trained (a variational autoencoder), of float16 or bfloat16, with more than 20 million
weights, with variables that are not Keras' own in a layer, that can't be called on made-up
values (strings, say; a rehearsal then takes real ones), or, in tf_keras, that are not built by
`model()` or keep values or metrics in a layer. With Dropout or BatchNormalization in it, and in
tf_keras always, a model is called as in validation, so that what it does in training alone is not
seen; nor is what the first weights multiply by zero.

Train one epoch with `--workers 1` and with `--workers 2` and compare, if in doubt.

The scalars that such a step returns are taken for means over the examples as well, and come out as
the mean over the workers, weighted by their examples: a maximum over the batch, or a number of
examples (which brings a warning), is then not that of one process. A metric is right: `Mean`,
`Sum().update_state(1.0)` for the number of steps, `Sum().update_state(tf.shape(x)[0])` for that of
examples. A tensor that is a sum already (`Sum().update_state(tf.reduce_sum(e))`) is added up over
the workers; a mean counts once for each worker there.

A layer of your own with state brings a warning. One that counts calls is right; one that counts
*examples* counts those of one worker, and in an uneven batch, where the workers' numbers differ,
the run ends with an error at the end of the epoch. Count with a metric, which is summed over the
workers.

Callbacks run on all workers, and all have to do the same: `evaluate`, `predict` and reading a
metric take all of them. What only one may do is writing files: nbtrain gives the stock callbacks of
the other workers a folder of their own.

With `mixed_float16` the gradients are put together before they are tested for an overflow, so all
workers skip a step where one process skips it. But the gradients of a part of the batch are larger
than their share of the whole batch's (the mean is over 8 examples, not 16): right at the limit of
float16 a worker can overflow, and all halve the loss scale, where one process just does not.

**A training can amplify rounding.** Workers add in another order than one process, which changes
float32 numbers in their seventh digit; in a network that is far from converging this can double
with every few steps. The convolutional network of [tests/real/images.py](../tests/real/images.py)
was measured in float32: on one machine two workers differed from one process by 4e-7 after six
epochs, on another by 0.05, where the loss of one process alone changes in its third digit without
oneDNN (`TF_ENABLE_ONEDNN_OPTS=0`). In float64 it is 7e-11. So where numbers differ, train with
`keras.config.set_dtype_policy("float64")` once: what is rounding then vanishes.
"""


def main() -> int:
    results = json.loads(RESULTS.read_text())
    missing = sorted(set(CASES) - set(results))
    if missing:
        print(f"the matrix is not whole; missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    lines = [HEAD]
    cases = sorted(CASES.values(), key=lambda c: c.family)
    for family, group in groupby(cases, key=lambda c: c.family):
        lines += [f"\n## {heading(family)}\n", "| form | result |", "| --- | --- |"]
        for c in group:
            result = results[c.name]
            assert result.get("difference", 0.0) <= c.tolerance, c.name
            lines.append(f"| {c.title} | {verdict(c, result.get('refused', ''))} |")
    (ROOT / "docs" / "keras-support.md").write_text("\n".join(lines) + "\n")
    return 0


def heading(family):
    """Return the heading of a family's table."""
    return family if family.startswith("tf_keras") else family[0].upper() + family[1:]


def verdict(case, refusal=""):
    """Return the words for a form, all of whose results were as its case says."""
    if case.refused:
        return f"refused: {refusal.replace('|', '/')}"
    if case.random:
        return f"own numbers: {case.why}" if case.why else "own numbers"
    if case.tolerance <= 1e-6:
        return "exact"
    return f"exact to {case.tolerance:g}: {case.why}"


if __name__ == "__main__":
    sys.exit(main())
