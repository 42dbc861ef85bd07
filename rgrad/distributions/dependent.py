"""Draws that depend on one another: each has the law of `q`, and their mean less noise than that of independent ones.

    rgrad.expect(f, rgrad.antithetic(q), key, n)

Any estimator whose samples are those of `q` takes them: `reparameterized`, `score_function`, and `generalized` for Normal
and LogNormal. A baseline made of the values of the call must leave out whatever its own sample depends on:
`leave_pair_out` does for antithetic draws, and nothing does for the other two. `measure_valued` and `rejection` draw
noise of their own and take `q` itself alone.

(Common random numbers need no draws of their own: what is called with the same key at two parameters shares its noise.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.distributions.draws import check_draw
from rgrad.distributions.log_density import Wrapper
from rgrad.distributions.quantiles import quantile
from rgrad.distributions.wrappers import OfBase, name_of
from rgrad.errors import NoRule, Unsuitable


class DependentDraws(OfBase, Wrapper):
    """`q`, whose n samples of one call are drawn together: what `antithetic`, `stratified` and `quasi` return."""

    prefix = ""  # the call that makes it
    pairs = False
    """Whether the samples depend on one another in the pairs (0, 1), (2, 3), ... alone."""
    batch_shape = ()

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        """Shape `(n, size)`, in (0, 1): each row is uniform, whatever the others are."""
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
        u = self.uniforms(key, n, int(np.prod(self.event_shape)))
        x = jax.vmap(lambda row: quantile(self.base, row.reshape(self.event_shape)))(u)
        if x.shape != (n, *self.event_shape):
            raise NoRule(f"{name_of(self.base)} cannot be drawn coordinate by coordinate", "use independent draws")
        return x

    rsample = sample


class Antithetic(DependentDraws):
    """In pairs, at u and 1 - u."""

    prefix = "antithetic"
    pairs = True

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        if n % 2:
            raise Unsuitable(f"antithetic: n = {n} is odd, and its samples come in pairs; ask for an even n")
        half = _inside(jax.random.uniform(key, (n // 2, size)))
        return jnp.stack([half, 1 - half], 1).reshape(n, size)


class Stratified(DependentDraws):
    """One in each of n strata of equal probability; for vectors in each coordinate (a Latin hypercube)."""

    prefix = "stratified"

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        for_first, for_strata, for_place = jax.random.split(key, 3)
        # In the first coordinate a shift is enough for each row alone to be uniform; the others are permuted, so that no
        # two of them go together. (By sorting once: the library's permutation sorts several times.)
        first = (jnp.arange(n) + jax.random.randint(for_first, (), 0, n)) % n
        others = jnp.argsort(jax.random.bits(for_strata, (size - 1, n), "uint32"))
        strata = jnp.concatenate([first[None], others]).T
        return _inside((strata + jax.random.uniform(for_place, (n, size))) / n)


class Quasi(DependentDraws):
    """The points of Sobol's sequence: the m digits that n points need are shifted at random, the rest are random."""

    prefix = "quasi"

    def uniforms(self, key: Array, n: int, size: int) -> Array:
        for_shift, for_rest = jax.random.split(key)
        m = (n - 1).bit_length()
        shift = jax.random.randint(for_shift, (size,), 0, 2**m)
        return _inside(((_sobol(m, size)[:n] ^ shift) + jax.random.uniform(for_rest, (n, size))) / 2**m)


def antithetic(q: Any) -> Antithetic:
    """`q` drawn in pairs at u and 1 - u of its distribution function: `mu + s eps` and `mu - s eps` for a Normal.

    Takes the odd part of what is averaged out of the noise, as all of `2 x` (the pathwise gradient of x^2); doubles the
    variance of an even one. n must be even. With `score_function` a baseline of the values must leave out both of a
    pair: `rgrad.leave_pair_out` (with `leave_one_out`, n = 2, E[x^2] would give 8 for 4).

    Returns:
        A distribution of one sample, as `q`; `log_prob` and `support` are those of `q`.

    Raises:
        TypeError, ValueError: `q` is none, or has a batch shape. When drawing: ValueError where n is odd,
            NotImplementedError where `q` has no inverse distribution function.

    Source: Hammersley and Morton 1956.
    """
    return Antithetic(_checked(q, "antithetic"))


def stratified(q: Any) -> Stratified:
    """`q` drawn once in each of n strata of equal probability; for vectors a Latin hypercube, stratified by coordinate.

    Variance O(n^-3) in one dimension for smooth functions, against O(n^-1); in more, additive parts alone gain that
    much. Returns and raises as `antithetic`; any n. Takes numbers and moving averages for a baseline.

    Source: McKay, Beckman and Conover 1979; Owen 2013, Monte Carlo theory, methods and examples (sections 8.4, 10.3).
    """
    return Stratified(_checked(q, "stratified"))


def quasi(q: Any) -> Quasi:
    """`q` at randomised low-discrepancy points: Sobol's sequence with a random digital shift, each point jittered.

    Every point alone is uniform, so nothing is biased. Best where n is a power of two. In one dimension that is
    `stratified`; in several the points are evenly spread in all of them together, and the variance falls nearly as
    O(n^-2) for smooth functions, against O(n^-1).
    Returns and raises as `antithetic`; any n. Takes numbers and moving averages for a baseline.

    Source: Buchholz, Wenzel and Mandt 2018, Quasi-Monte Carlo variational inference; the shift: L'Ecuyer and Lemieux 2002.
    """
    return Quasi(_checked(q, "quasi"))


def dependent_draws(q: Any, inside: tuple[Any, ...] = ()) -> DependentDraws | None:
    """The dependent draws that `q` makes, however deep inside of it they are; None if its samples are independent."""
    if isinstance(q, DependentDraws):
        return q
    inside = (*inside, q)  # an object of a user's may lead back to itself
    is_part = lambda part: hasattr(part, "log_prob") and not any(part is other for other in inside)
    parts = jax.tree.leaves(q, is_leaf=is_part)
    if any(part is q for part in parts):  # it is not a pytree
        parts = list(getattr(q, "__dict__", {}).values())
    found = (dependent_draws(part, inside) for part in parts if is_part(part))
    return next((draws for draws in found if draws is not None), None)


def _checked(q: Any, caller: str) -> Any:
    check_draw(q, 1, caller)
    return q


def _inside(u: Array) -> Array:
    """Off 0 and 1, and on a grid on which 1 - u is exact."""
    half = jnp.finfo(u.dtype).eps / 2
    return jnp.clip(jnp.floor(u / (2 * half)) * (2 * half) + half, half, 1 - half)


def _sobol(m: int, size: int) -> np.ndarray:
    """The first 2^m points of Sobol's sequence times 2^m, which are integers: shape `(2^m, size)`."""
    from scipy.stats import qmc  # here, because it takes as long to import as jax

    return (qmc.Sobol(size, scramble=False).random_base2(m) * 2**m).astype(np.int32)
