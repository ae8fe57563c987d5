"""A convolutional network for handwritten digits, on augmented images.

It knows nothing of nbtrain: `python images.py` trains it in this process.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

digits = load_digits()
train_images, test_images, train_labels, test_labels = train_test_split(
    (digits.images[..., None] / 16).astype("float32"), digits.target, test_size=0.2, random_state=0
)

BATCH, EPOCHS = 64, 6


def augment(image_and_label, seed):
    """Move an image by up to a pixel and change its contrast, by a seed of its own."""
    image, label = image_and_label
    image = tf.image.resize_with_crop_or_pad(image, 10, 10)
    image = tf.image.stateless_random_crop(image, (8, 8, 1), seed)
    image = tf.image.stateless_random_contrast(image, 0.7, 1.3, seed)
    return image, label


def dataset():
    images = tf.data.Dataset.from_tensor_slices((train_images, train_labels))
    images = images.cache().shuffle(len(train_labels), seed=1)
    seeds = tf.data.Dataset.random(seed=2, rerandomize_each_iteration=True).batch(2)
    augmented = tf.data.Dataset.zip(images, seeds).map(augment, tf.data.AUTOTUNE)
    return augmented.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def validation():
    return tf.data.Dataset.from_tensor_slices((test_images, test_labels)).batch(100)


def block(x, filters, stride=1):
    """Two convolutions and a way around them."""
    way_around = layers.Conv2D(filters, 1, stride)(x)
    x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.add([layers.BatchNormalization()(x), way_around]))


def model():
    # In float32 another order of sums grows to 0.05 in six epochs on some CPUs, in one process too.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    image = keras.Input((8, 8, 1))
    x = block(image, 16)
    x = block(x, 32, stride=2)
    x = layers.GlobalAveragePooling2D()(x)
    classifier = keras.Model(image, layers.Dense(10)(x))
    classifier.compile(
        optimizer=keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return classifier


def callbacks():
    return [
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=1),
        keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True),
        keras.callbacks.CSVLogger("log.csv"),
    ]


if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    network = model()
    network.fit(dataset(), validation_data=validation(), epochs=EPOCHS, callbacks=callbacks())
    guesses = network.predict(test_images).argmax(1)
    print("right:", np.mean(guesses == test_labels))
