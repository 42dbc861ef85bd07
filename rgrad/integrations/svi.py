"""A loss for NumPyro's SVI in which every latent site has its own estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.infer.elbo import ELBO
from numpyro.util import _validate_model, check_model_guide_match

from rgrad.autodiff import first_order
from rgrad.backend.noise import split
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.errors import nearest
from rgrad.estimators.baselines import leave_one_out
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import ESTIMATORS, estimator_of
from rgrad.expectations.particles import PARTICLES, baseline_over_particles, default_estimator
from rgrad.integrations.bound import bound, gradient_for, gradient_name
from rgrad.integrations.costs import costs
from rgrad.integrations.sites import NONE, Dependence, ModelAndGuide, dependence, run, summed_to
from rgrad.protocols import Estimator

Entropy = Literal["sampled", "exact", "detached"]
BySite = Mapping[str, Estimator | str] | Callable[[str, Any], Estimator | str | None]


class SVILoss(ELBO):  # type: ignore[misc]
    """The negative ELBO for `numpyro.infer.SVI`, with an estimator of your choice at every latent site of the guide.

        svi = SVI(model, guide, optim, rgrad.SVILoss(num_particles=8, estimators={"z": "enumerated"}))

    Sites that are not named are reparameterized if possible. Otherwise, and for mixtures, they use the score function,
    with a leave-one-out baseline over the particles if there are several. Any estimator of `rgrad.ESTIMATORS`, and any of your own, works at
    every site to which it applies.

    - A site is charged only with the costs that can depend on it, and within plates each element only with its own. As
      in NumPyro, the elements of a plate must not use one another's values inside the plate.
    - Scales and subsampling multiply costs, never scores. A masked latent site is drawn like any other, and only its
      own cost is masked.
    - In plates, `enumerated` sums over the values of each element separately if everything that depends on the site is
      inside these plates. This takes K evaluations for K values. Otherwise it sums over all combinations.

    With `k`, the loss is the negative importance-weighted bound of k samples of all sites together (IWAE), averaged over
    `num_particles` independent bounds. With subsampled plates it is one bound for the whole subsample, not one for each
    element. Sites are then reparameterized or use the score function; `gradient` says how the bound is differentiated.

    Args:
        num_particles: independent runs of guide and model, whose losses are averaged.
        estimators: an estimator, or a name of `rgrad.ESTIMATORS`, by the name of the site; or a function of the name and
            the distribution of a site that returns one of these, or None for the default.
        entropy: "sampled"; "exact", minus the entropy of each site of the guide by a formula; or "detached", the
            samples without the score of the guide (sticking the landing).
        k: the number of samples in a bound. None: the ELBO.
        gradient: of a bound, a name or the function: "reparameterized", "doubly_reparameterized" or
            "sticking_the_landing", for which every site must be reparameterized; "score_function" or "vimco", at the
            sites that are not reparameterized. See `rgrad.iwae`. None: "reparameterized" if every site is, otherwise
            "vimco".
        vectorize_particles: as in NumPyro. If it is not True, baselines over the particles are not possible.

    Raises:
        ValueError: when called, `estimators` names a site that the guide does not have; a baseline over one particle;
            an unknown `entropy` or `gradient`; a site of a bound whose estimator is neither of the two.
        rgrad.NotApplicable: when called, an estimator does not apply to the distribution of its site.

    Example:
        >>> import numpyro
        >>> model = lambda: numpyro.sample("z", dist.Bernoulli(0.3))
        >>> guide = lambda: numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logit", 0.0)))
        >>> svi = rgrad.SVILoss(estimators={"z": "enumerated"})
        >>> loss = lambda logit: svi.loss(key, {"logit": logit}, model, guide)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.3f}")  # exact: the loss is KL(q, p)
        0.212

    Source: Ranganath, Gerrish and Blei 2014, Black box variational inference, https://arxiv.org/abs/1401.0118; Schulman
    et al. 2015, Gradient estimation using stochastic computation graphs, https://arxiv.org/abs/1506.05254.
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_particles: int = 1,
        estimators: BySite | None = None,
        entropy: Entropy = "sampled",
        k: int | None = None,
        gradient: Estimator | str | None = None,
        vectorize_particles: Any = True,
    ):
        if isinstance(num_particles, bool) or not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(f"SVILoss: num_particles must be an int of at least 1, got {num_particles!r}")
        if entropy not in get_args(Entropy):
            raise ValueError(
                f"SVILoss: entropy must be one of {', '.join(map(repr, get_args(Entropy)))}, got {entropy!r}"
            )
        if not (estimators is None or isinstance(estimators, Mapping) or callable(estimators)):
            raise TypeError(
                f"SVILoss: estimators must be a dict of site names to estimators, or a function of the name and the "
                f"distribution of a site, got {type(estimators).__name__}"
            )
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"SVILoss: k must be None, or an int of at least 1, got {k!r}")
        if k is None and gradient is not None:
            raise ValueError(
                "SVILoss: gradient is that of a bound of k samples; pass k=, or choose estimators= for the sites"
            )
        if k is not None and entropy != "sampled":
            raise ValueError(
                f"SVILoss: a bound of k samples needs entropy='sampled', got {entropy!r}; for sticking the landing, pass "
                "gradient='sticking_the_landing'"
            )
        super().__init__(num_particles, vectorize_particles)
        self.estimators, self.entropy, self.k = estimators, entropy, k
        self.gradient = None if k is None else gradient_name(gradient, k)
        self.centred = num_particles > 1 and vectorize_particles is True

    def loss_with_mutable_state(
        self, rng_key: Any, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The loss, a scalar per call, and the values of mutable sites in the first particle."""
        of = ModelAndGuide(model, guide, args, kwargs, dict(param_map), self.entropy, self._chosen)
        warn_if_wrong()
        shapes, sites = self._sites(of)
        if self.k is not None:
            one = self._bound(of, sites, self.k)
        else:
            # Which costs depend on which sites does not matter if all sites are reparameterized.
            of_paths = all(estimator is reparameterized for estimator in sites.values())
            one = partial(_particle, of, NONE if of_paths else dependence(of, shapes), self.num_particles)
        keys = split(rng_key, self.num_particles)
        if self.vectorize_particles is True:
            losses, mutable = jax.vmap(one, axis_name=PARTICLES)(keys)
        else:
            losses, mutable = self.vectorize_particles_fn(one, keys)
        first = jax.tree.map(lambda x: x[0], mutable) if mutable else None
        return {"loss": self._first_order(losses.mean(), param_map), "mutable_state": first}

    def _first_order(self, loss: Array, params: Any) -> Array:
        """The loss. If the score of the guide was dropped, a second derivative would be biased, so it raises."""
        if self.entropy != "detached":
            return loss
        leaves = [x for x in map(jnp.asarray, jax.tree.leaves(params)) if jnp.issubdtype(x.dtype, jnp.floating)]
        return first_order(loss, leaves, [jnp.zeros_like(x) for x in leaves], 'SVILoss(entropy="detached")')

    def _chosen(self, name: str, q: Any) -> Estimator:
        """The estimator of a site."""
        given = self.estimators
        found = given.get(name) if isinstance(given, Mapping) else given(name, q) if given is not None else None
        if found is not None:
            return estimator_of(found, f"SVILoss: site {name!r}")
        return default_estimator(q, self.centred and self.k is None)

    def _sites(self, of: ModelAndGuide) -> tuple[Any, dict[str, Estimator]]:
        """The shape and the estimator of each latent site, by name. Model and guide are checked against each other."""
        scored = ESTIMATORS["score_function"].estimator
        all_drawn = of._replace(chosen=lambda name, q: reparameterized if q.has_rsample else scored, entropy="sampled")

        def latents(key: Array) -> Any:
            ran = run(all_drawn, key, {}, NONE)
            found.update({site.name: self._chosen(site.name, site.distribution) for site in ran.sites})
            model, guide = ran.traces
            check_model_guide_match(model, guide)
            _validate_model(model, plate_warning="loose")
            return {site.name: guide[site.name]["value"] for site in ran.sites}

        found: dict[str, Estimator] = {}
        shapes = jax.eval_shape(latents, jax.random.key(0))
        if isinstance(self.estimators, Mapping):
            for name in self.estimators:
                if name not in found:
                    raise ValueError(
                        f"SVILoss: estimators: the guide has no latent site {name!r}{nearest(name, found)}"
                    )
        return shapes, found

    def _bound(self, of: ModelAndGuide, sites: dict[str, Estimator], k: int) -> Any:
        gradient = gradient_for(sites, self.gradient, k)
        centre = (
            baseline_over_particles(leave_one_out, self.num_particles, "SVILoss") if self.centred else jnp.zeros_like
        )
        return partial(bound, of, gradient, k, centre)


def _particle(of: ModelAndGuide, deps: Dependence, n: int, key: Array) -> tuple[Array, Any]:
    """The loss of one particle, a scalar, and the values of mutable sites."""
    terms, mutable = costs(of, deps, n, key, {})
    return summed_to(terms, ()), mutable
