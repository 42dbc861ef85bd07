"""Several independent samples of a distribution as one sample, for multi-sample bounds."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.base_noise import RULES, base_noise
from rgrad.distributions.implicit import has_rsample, rsample, sample
from rgrad.distributions.log_density import Wrapper, log_prob
from rgrad.distributions.noise_families import BaseNoise
from rgrad.distributions.wrappers import JaxRandom
from rgrad.protocols import Sample


class _BaseAndNumber(NamedTuple):
    base: Any
    k: int


class Copies(_BaseAndNumber, Wrapper):
    """The distribution of k independent samples of `base`, stacked along a leading axis into one sample."""

    prefix = "Copies"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.k, *self.base.event_shape)

    def repeated(self) -> Any:
        """The same distribution as one of NumPyro's. None if `base` is not one of NumPyro's."""
        if isinstance(self.base, JaxRandom):
            inner = Copies(self.base.base, self.k).repeated()
            return None if inner is None else JaxRandom(inner)
        return self.base.expand((self.k,)).to_event(1) if isinstance(self.base, dist.Distribution) else None

    @property
    def has_rsample(self) -> bool:
        return has_rsample(self.base)

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return sample(self.base, key, (*shape, self.k))

    def rsample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return rsample(self.base, key, (*shape, self.k))

    def log_probs(self, value: Sample) -> Array:
        """The log density of each of the k samples, shape `(k,)`."""
        return jax.vmap(partial(log_prob, self.base))(value)

    def log_prob(self, value: Sample) -> Array:
        return self.log_probs(value).sum()


def _noise_of_copies(q: Copies) -> BaseNoise:
    inner = base_noise(q.base)
    source = JaxRandom(inner.source) if inner.own else inner.source
    return BaseNoise(
        Copies(source, q.k), inner.push, lambda eps, moved: jax.vmap(lambda e: inner.log_prob(e, None))(eps).sum()
    )


RULES[Copies] = _noise_of_copies
