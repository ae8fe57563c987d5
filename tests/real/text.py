"""From which chapter of Python's language reference is a paragraph? A recurrent network, masked.

It knows nothing of nbtrain: `python text.py` trains it in this process.
"""

import re
from pydoc_data.topics import topics

import keras
import tensorflow as tf
from keras import layers

CHAPTERS = ["atom-literals", "class", "compound", "debugger", "formatstrings", "function"]
CHAPTERS += ["numeric-types", "specialnames", "typesseq", "types"]
VOCABULARY, BATCH, EPOCHS = 1500, 48, 4

paragraphs = [
    (" ".join(paragraph.split()), number)
    for number, chapter in enumerate(c for c in CHAPTERS if c in topics)
    for paragraph in re.split(r"\n\s*\n", topics[chapter])
    if len(paragraph.split()) > 5
]
held_out = paragraphs[::5]
to_train_on = [p for i, p in enumerate(paragraphs) if i % 5]


def vectorized(pairs):
    """Return words as numbers, paragraphs as long as they are."""
    vectorization = layers.TextVectorization(VOCABULARY)
    vectorization.adapt([text for text, _ in to_train_on])
    texts, chapters = zip(*pairs, strict=True)
    data = tf.data.Dataset.from_tensor_slices((list(texts), list(chapters)))
    return data.map(lambda text, chapter: (vectorization(text)[:120], chapter))


def dataset():
    return vectorized(to_train_on).shuffle(2000, seed=4).padded_batch(BATCH)


def validation():
    return vectorized(held_out).padded_batch(64)


def model():
    words = keras.Input((None,), dtype="int64")
    x = layers.Embedding(VOCABULARY, 32, mask_zero=True)(words)
    x = layers.Bidirectional(layers.GRU(24, return_sequences=True))(x)
    x = layers.add([x, layers.MultiHeadAttention(2, 24)(x, x)])
    x = layers.LayerNormalization()(x)
    x = layers.GlobalAveragePooling1D()(x)
    chapter = layers.Dense(len(CHAPTERS), activation="softmax")(x)
    network = keras.Model(words, chapter)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 100)
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-4, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    return network


if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    network = model()
    network.fit(dataset(), validation_data=validation(), epochs=EPOCHS)
