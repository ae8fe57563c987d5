/** The notebook that the launcher's card opens: it needs nothing but nbtrain. */

const TEXT = `# Distributed training

The cell with \`%%k8s_train\` trains the model of \`model()\` on several worker processes.
Run all cells; the sidebar **Training runs** shows the run as well.`;

const DATA = `%load_ext nbtrain
import numpy as np

# Two spirals: which of them is a point on?
rng = np.random.default_rng(0)
turn = rng.uniform(0.5, 3, 20_000)
label = rng.integers(0, 2, turn.size)
angle = 2 * np.pi * turn / 1.5 + np.pi * label
x = np.stack([turn * np.cos(angle), turn * np.sin(angle)], 1) + rng.normal(0, 0.05, (turn.size, 2))
x, y = x.astype("float32"), label.astype("float32")`;

const TRAIN = `%%k8s_train --workers 2 --epochs 10 --batch 256 --name spirals --replace
def model():
    import keras

    m = keras.Sequential([
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ])
    m.compile(keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=["accuracy"])
    return m

def dataset():
    return x[:16_000], y[:16_000]

def validation():
    return x[16_000:], y[16_000:]`;

const RESULT = 'spirals.model.predict(x[:5], verbose=0).round(2), y[:5]';

export const EXAMPLE = {
  nbformat: 4,
  nbformat_minor: 5,
  metadata: {
    kernelspec: { name: 'python3', display_name: 'Python 3', language: 'python' },
    language_info: { name: 'python' }
  },
  cells: [
    { id: 'text', cell_type: 'markdown', metadata: {}, source: TEXT },
    ...[DATA, TRAIN, RESULT].map((source, index) => ({
      id: `code-${index}`,
      cell_type: 'code',
      metadata: {},
      source,
      outputs: [],
      execution_count: null
    }))
  ]
};
