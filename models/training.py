"""Fits a float network: Adam on the mean cross-entropy, in batches drawn by seed.

A network is a dict of arrays and a pure function from (arrays, inputs) to logits.
One thread does the sums, so that the order of additions does not depend on the machine's core count.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np


def he_normal(rng, *shape):
    """A weight [out, in, ...] with the variance that ReLU keeps (He et al. 2015)."""
    fan_in = int(np.prod(shape[1:]))
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)


def fit(logits_of, weights, inputs, labels, *, epochs, batch, rate, seed):
    """Trained weights; the learning rate falls to zero along a half cosine."""

    def loss(weights, inputs, labels):
        log_probabilities = jax.nn.log_softmax(logits_of(weights, inputs))
        return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))

    @jax.jit
    def step(weights, mean, square, count, rate, inputs, labels):
        gradient = jax.grad(loss)(weights, inputs, labels)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, gradient)
        unbias_mean, unbias_square = 1 - 0.9**count, 1 - 0.999**count
        weights = jax.tree.map(
            lambda w, m, s: w - rate * (m / unbias_mean) / (jnp.sqrt(s / unbias_square) + 1e-8), weights, mean, square
        )
        return weights, mean, square

    rng = np.random.default_rng(seed)
    mean = square = jax.tree.map(jnp.zeros_like, weights)
    batches = len(inputs) // batch
    count, last = 0, epochs * batches
    for _ in range(epochs):
        order = rng.permutation(len(inputs))
        for rows in order[: batches * batch].reshape(batches, batch):
            falling = rate * 0.5 * (1 + np.cos(np.pi * count / last))
            count += 1
            weights, mean, square = step(weights, mean, square, float(count), falling, inputs[rows], labels[rows])
    return {name: np.asarray(array) for name, array in weights.items()}
