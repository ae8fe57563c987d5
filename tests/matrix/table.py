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

- **exact**: no difference above 1e-6 (float32 rounds every sum, and workers add in another order).
- **exact to …**: the same with another tolerance, for the reason given.
- **own numbers**: the form draws at random in every step. Workers draw apart, as they should;
  among themselves they are identical, but there is nothing to compare with one process.
- **refused**: `fit` does not begin (or ends at once), and the error says what to do instead.

## What can't be seen from outside

nbtrain takes a loss for a mean over the examples. A training step that sums over the batch by hand
(`tf.reduce_sum` with no division), and a loss that compares the examples of a batch with each
other, come out different on several workers. The stock ones are refused; for a `train_step` with
a sum in its source there is a warning; others go unnoticed: train one epoch with `--workers 1` and
with `--workers 2` and compare, if in doubt. A metric of your own is right if its state is a sum
over examples, as that of all Keras metrics is.
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
        title = family[0].upper() + family[1:] if not family.startswith("tf_keras") else family
        lines += [f"\n## {title}\n", "| form | result |", "| --- | --- |"]
        lines += [f"| {c.title} | {verdict(c, results[c.name])} |" for c in group]
    (ROOT / "docs" / "keras-support.md").write_text("\n".join(lines) + "\n")
    return 0


def verdict(case, result):
    """Return the words for a result."""
    if "refused" in result:
        return f"refused: {result['refused'].replace('|', '/')}"
    if "random" in result:
        return "own numbers"
    if case.tolerance <= 1e-6:
        return "exact"
    return f"exact to {case.tolerance:g}: {case.why}"


if __name__ == "__main__":
    sys.exit(main())
