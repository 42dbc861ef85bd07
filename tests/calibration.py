"""Tests of random numbers, with a stated probability of false failure and a stated smallest bias that they catch."""

import jax
import numpy as np
from scipy.special import ndtri

import rgrad

FALSE_FAILURE = 1e-6  # the probability for a whole call, over all coordinates
POWER = 0.999  # the probability with which the smallest bias is caught


def assert_unbiased(draw, truth, *, smallest_bias, replicates=20_000, seed=0, false_failure=FALSE_FAILURE):
    """Assert that the mean of `draw(key)` is `truth`.

    The probability of a false failure is at most `false_failure`. Only a tenth of it is used for the normal quantile,
    because the mean of finitely many replicates is only nearly normal. A bias of `smallest_bias` in any coordinate is
    caught with probability `POWER` or more. If the noise is too large for that, the test fails and asks for more
    replicates, so a tolerance cannot be wider than the test says. Differences that rounding can explain do not count
    as bias: 1e-5 of the truth or of a standard deviation, and 1e-6.

    Args:
        truth: has the structure of what `draw` returns. It comes from a closed form, enumeration or quadrature.
        smallest_bias: absolute; one number for all coordinates.
    """
    moments = rgrad.measure(draw, jax.random.key(seed), replicates)
    leaves = [np.ravel(x) for x in jax.tree.leaves((moments.mean, moments.standard_error, moments.variance_freedom))]
    third = len(leaves) // 3
    mean, error, freedom = (np.concatenate(leaves[i * third : (i + 1) * third]) for i in range(3))
    truth = np.concatenate([np.ravel(np.asarray(x, float)) for x in jax.tree.leaves(truth)])
    assert truth.shape == mean.shape, f"truth has {truth.size} numbers, the draw {mean.size}"
    assert np.all(np.isfinite(mean)), f"the mean is not finite: {mean}"
    random = np.sqrt(replicates) * error > 1e-5 * np.abs(truth) + 1e-6  # more than rounding
    assert np.all(freedom[random] > 300), (
        f"tails too heavy to judge: {names_of(moments.mean)[np.argmin(np.where(random, freedom, np.inf))]} has {freedom[random].min():.0f} degrees of freedom"
    )
    z = -ndtri(false_failure / 10 / (2 * mean.size))
    rounding = 1e-5 * np.maximum(np.abs(truth), np.sqrt(replicates) * error) + 1e-6
    caught = (z + ndtri(POWER)) * error + rounding
    assert np.all(caught <= smallest_bias), (
        f"would only catch a bias of {caught.max():.3g} in {names_of(moments.mean)[caught.argmax()]}, not {smallest_bias}; add replicates"
    )
    wrong = np.abs(mean - truth) > z * error + rounding
    assert not np.any(wrong), (
        f"biased: {names_of(moments.mean)[wrong]}: mean {mean[wrong]} for {truth[wrong]}, "
        f"{(mean - truth)[wrong] / np.maximum(error[wrong], 1e-30)} standard errors"
    )


def names_of(tree):
    """Return the path of every coordinate of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return np.array([jax.tree_util.keystr(path) + str(i) for path, leaf in leaves for i in np.ndindex(np.shape(leaf))])
