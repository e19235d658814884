"""Keras's own ResNet50 on images of 32 x 32, the smallest that it takes, as a runtime to compare with."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.tensorflow import fastest, limited
from mdsl.benchmarking.peers import Prepared


def prepare(model: str, inputs: dict[str, np.ndarray], threads: int) -> Prepared:
    tf = limited(threads)
    keras: Any = import_module("keras")
    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
    image = tf.constant(np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32))
    call, how = fastest(lambda x: network(x, training=False), [image])
    return Prepared(call, lambda found: [found.numpy()], keras.__version__, how)
