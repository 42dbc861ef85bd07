"""Dependent draws. Each sample has the distribution of `q`, but a mean over them can have much less variance.

    rgrad.expect(f, rgrad.antithetic(q), key, n)

Every estimator that uses samples of `q` accepts them: `reparameterized`, `score_function`, and `generalized` for Normal
and LogNormal. A baseline computed from the values must leave out every sample on which its own sample depends.
`leave_pair_out` does this for antithetic draws. No baseline does it for the other two. `measure_valued` and `rejection`
draw their own noise and accept only `q` itself.

Common random numbers need no special draws: two calls with the same key share their noise, at any parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.backend.noise import split
from rgrad.distributions.draws import check_draw
from rgrad.distributions.log_density import Wrapper
from rgrad.distributions.others import as_distribution
from rgrad.distributions.quantiles import no_quantile, quantile
from rgrad.distributions.triangular import lower
from rgrad.distributions.wrappers import OfBase, SeenAs, inside, name_of
from rgrad.errors import NoRule, Unsuitable


class DependentDraws(OfBase, Wrapper):
    """`q`, with the n samples of one call drawn together. `antithetic`, `stratified` and `quasi` return it."""

    prefix = ""  # the name of the function that makes it
    pairs = False
    """Whether the samples depend on one another only within the pairs (0, 1), (2, 3), ..."""
    batch_shape = ()

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        """An array of shape `(n, size)` in (0, 1). Each row is uniform, but the rows may be dependent."""
        raise NotImplementedError

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        return getattr(self.base, "support", ())

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.base.event_shape

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        (n,) = shape
        size = int(np.prod(self.event_shape))
        u = self.uniforms(key, n, size) if size else jnp.zeros((n, 0))
        base = lower(self.base)
        x = jax.vmap(lambda row: quantile(base, row.reshape(self.event_shape)))(u)
        if x.shape != (n, *self.event_shape):
            raise NoRule(
                f"{self.prefix}: {name_of(self.base)} cannot be drawn one coordinate at a time", "use independent draws"
            )
        return x

    rsample = sample


class Antithetic(DependentDraws):
    """Pairs of samples, at u and 1 - u of the distribution function."""

    prefix = "antithetic"
    pairs = True

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        if n % 2:
            raise Unsuitable(f"antithetic: n = {n} is odd, but samples come in pairs; ask for an even n")
        half = _inside(jax.random.uniform(key, (n // 2, size)))
        return jnp.stack([half, 1 - half], 1).reshape(n, size)


class Stratified(DependentDraws):
    """One sample in each of n strata of equal probability. For vectors, in each coordinate (a Latin hypercube)."""

    prefix = "stratified"

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        for_first, for_strata, for_place = split(key, 3)
        # In the first coordinate, a random shift is enough to make each row uniform. The other coordinates are
        # permuted, so that no two of them move together. One sort for each is enough; `jax.random.permutation` sorts
        # several times.
        first = (jnp.arange(n) + jax.random.randint(for_first, (), 0, n)) % n
        others = jnp.argsort(jax.random.bits(for_strata, (size - 1, n), "uint32"))
        strata = jnp.concatenate([first[None], others]).T
        place = jax.random.uniform(for_place, (n, size))
        return _inside((strata.astype(place.dtype) + place) / n)


class Quasi(DependentDraws):
    """Points of the Sobol sequence. The first m binary digits get a random shift; the further digits are random."""

    prefix = "quasi"

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        for_shift, for_rest = split(key)
        m = (n - 1).bit_length()
        shift = jax.random.randint(for_shift, (size,), 0, 2**m)
        rest = jax.random.uniform(for_rest, (n, size))
        return _inside(((_sobol(m, size)[:n] ^ shift[None]).astype(rest.dtype) + rest) / 2**m)


def antithetic(q: Any) -> Antithetic:
    """`q`, drawn in pairs at u and 1 - u of its distribution function: `mu + s eps` and `mu - s eps` for a Normal.

    This removes the noise of the odd part of what is averaged, e.g. all of `2 x` (the pathwise gradient of x^2). It
    doubles the variance of an even function. n must be even. With `score_function`, a baseline of the values must leave
    out both samples of a pair: use `rgrad.leave_pair_out`. With `leave_one_out` and n = 2, the gradient of E[x^2] at
    N(2, 1) would be 8, not 4.

    Returns:
        A distribution of one sample, like `q`, with its `log_prob` and `support`.

    Raises:
        TypeError, ValueError: `q` is not a distribution, or it has a batch shape.
        NotImplementedError: `q` has no inverse distribution function.
        ValueError: when drawing, n is odd.

    Example:
        >>> loss = lambda theta: rgrad.expect(lambda x: x**2, rgrad.antithetic(dist.Normal(theta, 1.0)), key, 2)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.2f}")  # exact, because 2 x is linear
        4.00

    Source: Hammersley and Morton 1956, https://doi.org/10.1017/S0305004100031455.
    """
    return inside(_checked(q, "antithetic"), Antithetic)


def stratified(q: Any) -> Stratified:
    """`q`, drawn once in each of n strata of equal probability. Each coordinate of a vector is stratified.

    For vectors this is a Latin hypercube. In one dimension, the variance for smooth functions is O(n^-3), not O(n^-1).
    In several dimensions, only the additive parts of a function gain this much. n may be any number. The baseline may
    be a number or a moving average. Returns and raises as `antithetic` does.

    Example:
        >>> mean = lambda theta: rgrad.expect(lambda x: x**2, rgrad.stratified(dist.Normal(theta, 1.0)), key, 1000)
        >>> print(f"{jax.jit(mean)(2.0):.2f}")  # the truth is 5
        5.00

    Source: McKay, Beckman and Conover 1979, https://doi.org/10.1080/00401706.1979.10489755; Owen 2013, Monte Carlo
    theory, methods and examples, https://artowen.su.domains/mc/ (sections 8.4 and 10.3).
    """
    return inside(_checked(q, "stratified"), Stratified)


def quasi(q: Any) -> Quasi:
    """`q`, drawn at low-discrepancy points: a Sobol sequence with a random digital shift, and each point jittered.

    Each point is uniform on its own, so estimates are unbiased. It works best if n is a power of two. In one dimension
    it is then the same as `stratified`. In several dimensions the points fill the whole space evenly, and for smooth
    functions the variance falls nearly as O(n^-2), not O(n^-1). n may be any number. The baseline may be a number or a
    moving average. Returns and raises as `antithetic` does.

    Example:
        >>> mean = lambda theta: rgrad.expect(lambda x: x**2, rgrad.quasi(dist.Normal(theta, 1.0)), key, 1024)
        >>> print(f"{jax.jit(mean)(2.0):.2f}")  # the truth is 5
        5.00

    Source: Buchholz, Wenzel and Mandt 2018, Quasi-Monte Carlo variational inference, https://arxiv.org/abs/1807.01604.
    The shift is from L'Ecuyer and Lemieux 2002, https://doi.org/10.1007/0-306-48102-2_20.
    """
    return inside(_checked(q, "quasi"), Quasi)


def dependent_draws(q: Any, inside: tuple[Any, ...] = ()) -> DependentDraws | None:
    """The dependent draws found anywhere inside `q`. None if its samples are independent."""
    if isinstance(q, DependentDraws):
        return q
    inside = (*inside, q)  # a user's object may contain itself
    is_part = lambda part: hasattr(part, "log_prob") and not any(part is other for other in inside)
    parts = jax.tree.leaves(q, is_leaf=is_part)
    if any(part is q for part in parts):  # it is not a pytree
        parts = list(getattr(q, "__dict__", {}).values())
    found = (dependent_draws(part, inside) for part in parts if is_part(part))
    return next((draws for draws in found if draws is not None), None)


def _checked(q: Any, caller: str) -> Any:
    q = as_distribution(q, caller)
    check_draw(q, 1, caller)
    if not hasattr(q, "event_shape"):
        raise no_quantile(q)
    bare = q.base if isinstance(q, SeenAs) else q
    jax.eval_shape(partial(quantile, lower(bare)), jax.ShapeDtypeStruct(q.event_shape, jnp.result_type(float)))
    return q


def _inside(u: Array) -> Array:
    """u, moved away from 0 and 1, and onto a grid on which 1 - u is exact."""
    half = jnp.finfo(u.dtype).eps / 2
    return jnp.clip(jnp.floor(u / (2 * half)) * (2 * half) + half, half, 1 - half)


def _sobol(m: int, size: int) -> np.ndarray:
    """The first 2^m points of the Sobol sequence, times 2^m: integers of shape `(2^m, size)`."""
    from scipy.stats import qmc  # not at the top, because it takes as long to import as jax

    return (qmc.Sobol(size, scramble=False).random_base2(m) * 2**m).astype(np.int32)
