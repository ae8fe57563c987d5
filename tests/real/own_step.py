"""A small network learns from a larger one (distillation), in a training step of its own.

It knows nothing of nbtrain: `python own_step.py` trains it in this process.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

table = load_breast_cancer(as_frame=True)
features = StandardScaler().fit_transform(table.data).astype("float32")
malignant = (table.target == 0).to_numpy().astype("float32")[:, None]
is_held_out = np.arange(len(features)) % 4 == 0

BATCH, EPOCHS = 40, 8


class Distiller(keras.Model):
    """Trains `student` on the labels and on the opinions of `teacher`."""

    def __init__(self, student, teacher, temperature=3.0, share=0.4):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False
        self.temperature, self.share = temperature, share
        self.label_loss = keras.metrics.Mean(name="label_loss")
        self.opinion_loss = keras.metrics.Mean(name="opinion_loss")
        self.auc = keras.metrics.AUC(from_logits=True, name="auc")

    @property
    def metrics(self):
        return [self.label_loss, self.opinion_loss, self.auc]

    def call(self, x, training=False):
        return self.student(x, training=training)

    def losses_of(self, x, y, training):
        logits = self.student(x, training=training)
        opinions = tf.sigmoid(self.teacher(x) / self.temperature)
        by_label = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits))
        by_opinion = tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(opinions, logits / self.temperature)
        )
        self.label_loss.update_state(by_label, sample_weight=tf.shape(x)[0])
        self.opinion_loss.update_state(by_opinion, sample_weight=tf.shape(x)[0])
        self.auc.update_state(y, logits)
        return by_label, by_opinion

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            by_label, by_opinion = self.losses_of(x, y, training=True)
            loss = (1 - self.share) * by_label + self.share * self.temperature**2 * by_opinion
        variables = self.student.trainable_variables
        gradients = tape.gradient(loss, variables)
        gradients, norm = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {m.name: m.result() for m in self.metrics} | {"norm": norm}

    def test_step(self, data):
        x, y = data
        self.losses_of(x, y, training=False)
        return {m.name: m.result() for m in self.metrics}


def dataset():
    return features[~is_held_out], malignant[~is_held_out]


def validation():
    return features[is_held_out], malignant[is_held_out]


def model():
    width = features.shape[1]
    known = LogisticRegression(max_iter=1000).fit(
        features[~is_held_out], malignant[~is_held_out, 0]
    )
    teacher = keras.Sequential([keras.Input((width,)), layers.Dense(1)])
    teacher.layers[0].set_weights([known.coef_.T.astype("float32"), known.intercept_])
    student = keras.Sequential(
        [keras.Input((width,)), layers.Dense(6, activation="gelu"), layers.Dense(1)]
    )
    distiller = Distiller(student, teacher)
    distiller.compile(optimizer=keras.optimizers.RMSprop(2e-3, use_ema=True))
    return distiller


if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    x, y = dataset()
    model().fit(x, y, batch_size=BATCH, validation_data=validation(), epochs=EPOCHS)
