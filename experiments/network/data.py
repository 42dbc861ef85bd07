"""The digits that scikit-learn bundles, split into the data set and test images."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

LEVELS = 16  # of a pixel


class LabelledDigits(NamedTuple):
    x: Array
    """The data set, shape `(images, 64)`, from 0 to 1."""
    labels: Array
    test_x: Array
    """The other images."""
    test_labels: Array


def load(images: int) -> LabelledDigits:
    """The first `images` of the digits in a fixed random order, and the rest."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    order = np.random.default_rng(0).permutation(len(bundle.data))
    x, labels = jnp.asarray(bundle.data[order] / LEVELS, float), jnp.asarray(bundle.target[order])
    return LabelledDigits(x[:images], labels[:images], x[images:], labels[images:])
