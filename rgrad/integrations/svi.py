"""A loss for NumPyro's SVI in which every latent site has an estimator of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro.infer.elbo import ELBO
from numpyro.util import _validate_model, check_model_guide_match

from rgrad.autodiff import attach
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.admission import check_density
from rgrad.distributions.implicit import sample
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.probabilities import probability, refuse_never_drawn
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import name_of
from rgrad.errors import Unsuitable, nearest
from rgrad.estimators.baselines import leave_one_out, plain
from rgrad.estimators.enumerated import enumerated, support_of
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import ESTIMATORS, estimator_of, naming_others
from rgrad.expectations.in_place import is_score_function
from rgrad.expectations.particles import PARTICLES, baseline_over_particles, default_estimator, over_particles
from rgrad.integrations.sites import (
    NONE,
    Dependence,
    Given,
    LatentSite,
    ModelAndGuide,
    SiteReached,
    Term,
    dependence,
    in_plates,
    run,
    summed_to,
    values_of_each,
)
from rgrad.protocols import Estimator

Entropy = Literal["sampled", "exact", "detached"]
BySite = Mapping[str, Estimator | str] | Callable[[str, Any], Estimator | str | None]


class SVILoss(ELBO):  # type: ignore[misc]
    """The negative ELBO for `numpyro.infer.SVI`, with an estimator of your choice at every latent site of the guide.

        svi = SVI(model, guide, optim, rgrad.SVILoss(num_particles=8, estimators={"z": "enumerated"}))

    Sites that are not named are reparameterized if they can be. All others use the score function, with a leave-one-out
    baseline over the particles if there are several. Any estimator of `rgrad.ESTIMATORS` and of your own works at any
    site to which it applies.

    - A site is charged only with the costs that can depend on it, and within plates each element only with its own. As
      in NumPyro, the elements of a plate must not use one another's values inside the plate.
    - Scales and subsampling multiply costs, never scores. A masked latent site is drawn like any other, and only its
      own cost is masked.
    - In plates, `enumerated` sums over the values of each element separately if everything that depends on the site is
      inside these plates. This takes K evaluations for K values. Otherwise it sums over all combinations.

    Args:
        num_particles: independent runs of guide and model, whose losses are averaged.
        estimators: an estimator, or a name of `rgrad.ESTIMATORS`, by the name of the site; or a function of the name and
            the distribution of a site that returns one of these, or None for the default.
        entropy: "sampled"; "exact", minus the entropy of each site of the guide by a formula; or "detached", the
            samples without the score of the guide (sticking the landing).
        vectorize_particles: as in NumPyro. If it is not True, baselines over the particles are not possible.

    Raises:
        ValueError: when called, `estimators` names a site that the guide does not have; a baseline over one particle;
            an unknown `entropy`.
        rgrad.NotApplicable: when called, an estimator does not apply to the distribution of its site.

    Source: Ranganath, Gerrish and Blei 2014, Black box variational inference, https://arxiv.org/abs/1401.0118; Schulman
    et al. 2015, Gradient estimation using stochastic computation graphs, https://arxiv.org/abs/1506.05254.
    """

    can_infer_discrete = True

    def __init__(
        self,
        num_particles: int = 1,
        estimators: BySite | None = None,
        entropy: Entropy = "sampled",
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
        super().__init__(num_particles, vectorize_particles)
        self.estimators, self.entropy = estimators, entropy
        self.centred = num_particles > 1 and vectorize_particles is True

    def loss_with_mutable_state(
        self, rng_key: Any, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The loss, a scalar per call, and the values of mutable sites: those of the first particle."""
        of = ModelAndGuide(model, guide, args, kwargs, dict(param_map), self.entropy, self._chosen)
        warn_if_wrong()
        deps = self._dependence(of)
        one = partial(_particle, of, deps, self.num_particles)
        keys = jax.random.split(rng_key, self.num_particles)
        if self.vectorize_particles is True:
            losses, mutable = jax.vmap(one, axis_name=PARTICLES)(keys)
        else:
            losses, mutable = self.vectorize_particles_fn(one, keys)
        first = jax.tree.map(lambda x: x[0], mutable) if mutable else None
        return {"loss": losses.mean(), "mutable_state": first}

    def _chosen(self, name: str, q: Any) -> Estimator:
        """The estimator of a site."""
        given = self.estimators
        found = given.get(name) if isinstance(given, Mapping) else given(name, q) if given is not None else None
        if found is not None:
            return estimator_of(found, f"SVILoss: site {name!r}")
        return default_estimator(q, self.centred)

    def _dependence(self, of: ModelAndGuide) -> Dependence:
        """Which costs can depend on which sites. Not needed, and not computed, if all sites are reparameterized."""
        scored = ESTIMATORS["score_function"].estimator
        all_drawn = of._replace(chosen=lambda name, q: reparameterized if q.has_rsample else scored)

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
        if all(estimator is reparameterized for estimator in found.values()):
            return NONE
        return dependence(of, shapes)


def _particle(of: ModelAndGuide, deps: Dependence, n: int, key: Array) -> tuple[Array, Any]:
    """The loss of one particle, a scalar, and the values of mutable sites."""
    terms, mutable = _costs(of, deps, n, key, {})
    return summed_to(terms, ()), mutable


def _costs(of: ModelAndGuide, deps: Dependence, n: int, key: Array, given: Given) -> tuple[list[Term], Any]:
    """The cost terms given the values of some sites, with their derivatives in the parameters of all other sites.

    The guide runs until a site that has no value and whose estimator evaluates the rest. The rest is this function with
    one more value. So each level takes one such site out of the terms.
    """
    try:
        ran = run(of, key, given, deps)
    except SiteReached as reached:
        if reached.run.given is not given:  # a site of another loss around this one
            raise
        site, sites = reached.site, reached.run.sites
    else:
        mutable = {name: s["value"] for tr in reversed(ran.traces) for name, s in tr.items() if s["type"] == "mutable"}
        return _with_scores(ran.terms, ran.sites, given, deps, n), mutable
    rest = lambda x: _costs(of, deps, n, key, {**given, site.name: x})
    terms, mutable = _summed_out(site, rest, deps) if _is_enumerated(site) else _estimated(site, rest, deps, n)
    return _with_scores(terms, sites, given, deps, n), mutable


def _with_scores(terms: list[Term], sites: list[LatentSite], given: Given, deps: Dependence, n: int) -> list[Term]:
    """The terms, and the score functions of the sites after the last given one.

    Those before it are added by the levels with fewer given sites, when the given ones are no longer in the terms: the
    baseline of a site must not be weighted by probabilities that depend on the site.
    """
    last = max((i for i, site in enumerate(sites) if site.name in given), default=-1)
    scored = [site for site in sites[last + 1 :] if is_score_function(site.estimator)]
    return [*terms, *(part for site in scored for part in _scores(site, terms, deps, n))]


def _scores(site: LatentSite, terms: list[Term], deps: Dependence, n: int) -> Iterator[Term]:
    """The score function of a site: terms of value 0 whose derivative is (cost - baseline) d log q.

    Costs that depend on the same sites and have the same plates are added first. Each of these sums is charged by
    itself, because the sums may still be summed over later sites. Leave-one-out is linear, so it is computed for each.
    """
    q, caller = site.distribution, f"SVILoss: site {site.name!r}: score_function"
    check_density(q, name_of(q), caller)
    log_q = in_plates(log_prob(q, site.value), site.frames)  # unscaled and unmasked
    log_q = forbid_moving_support(refuse_never_drawn(log_q, q, caller), q, caller)
    baseline = baseline_over_particles(baseline_of(site.estimator), n, f"SVILoss: site {site.name!r}")
    groups: dict[Any, Any] = {}
    for term in terms:
        if site.name in term.depends_on:
            place = frozenset(term.frames), term.depends_on
            groups[place] = term if place not in groups else term._replace(value=term.value + groups[place].value)
    own = deps.values[site.name]
    apart = [
        Term(summed_to([t], {*t.frames, *site.frames}), (*t.frames, *site.frames), t.depends_on)
        for t in groups.values()
    ]
    if callable(baseline) and plain(baseline_of(site.estimator)) is not leave_one_out:  # it may be nonlinear
        everything = frozenset().union(*(t.depends_on for t in apart))
        apart = [Term(summed_to(apart, site.frames), site.frames, everything)]
    for term in apart:
        centred = term.value - (baseline(term.value) if callable(baseline) else 0.0)
        yield Term(attach(centred, log_q) - centred, term.frames, term.depends_on | own)
    if not callable(baseline):
        constant = jnp.broadcast_to(jnp.asarray(baseline, log_q.dtype), log_q.shape)
        yield Term(constant - attach(constant, log_q), site.frames, own)


def baseline_of(estimator: Any) -> Any:
    return getattr(estimator, "keywords", {}).get("baseline", 0.0)


def _is_enumerated(site: LatentSite) -> bool:
    return site.estimator is enumerated or getattr(site.estimator, "func", None) is enumerated


def _split(terms: list[Term], site: LatentSite) -> tuple[list[Term], list[Term]]:
    """The terms that depend on a site, and the others."""
    return [t for t in terms if site.name in t.depends_on], [t for t in terms if site.name not in t.depends_on]


def _summed_out(site: LatentSite, rest: Any, deps: Dependence) -> tuple[list[Term], Any]:
    """The terms, summed over all values of a site. In plates, each element is summed over separately if possible."""
    q, own = site.distribution, deps.values[site.name] - {site.name}
    found: list[tuple[Any, frozenset[str]]] = []

    def values(x: Any) -> Any:
        terms, mutable = rest(x)
        found[:] = [(t.frames, t.depends_on) for t in terms]
        return [t.value for t in terms], mutable

    with naming_others(q):
        apart = deps.inside(site) and q.batch_shape != ()
        points = values_of_each(q) if apart else jnp.asarray(support_of(q.to_event(len(q.batch_shape))))
    costs, mutable = jax.vmap(values)(points)
    p = jax.vmap(partial(probability, q))(points)
    p = p if apart else p.reshape(len(points), -1).prod(1)
    terms = []
    for (frames, depends_on), cost in zip(found, costs, strict=True):
        if site.name not in depends_on:
            terms.append(Term(cost[0], frames, depends_on))
            continue
        if apart and not set(site.frames) <= set(frames):
            raise Unsuitable(
                f"SVILoss: site {site.name!r} is summed over for each element of its plates, but the baseline of another "
                "site mixes them; use rgrad.leave_one_out or a number there"
            )
        weight = p.reshape(len(points), *(1,) * (cost.ndim - p.ndim), *p.shape[1:])
        cost = jnp.where((weight > 0) | jnp.isfinite(cost), cost, 0.0)  # 0 log 0 is 0
        terms.append(Term((weight * cost).sum(0), frames, (depends_on | own) - {site.name}))
    return terms, jax.tree.map(lambda x: x[0], mutable)


def _estimated(site: LatentSite, rest: Any, deps: Dependence, n: int) -> tuple[list[Term], Any]:
    """The terms that depend on a site, as one term whose derivative is estimated by the estimator of the site."""
    q = site.distribution.to_event(len(site.distribution.batch_shape))
    terms, mutable = rest(lax.stop_gradient(sample(q, site.key, ())))
    dependent, others = _split(terms, site)
    f = lambda x: summed_to(_split(rest(x)[0], site)[0], ())
    with naming_others(q):
        (term,) = over_particles(site.estimator, n, f"SVILoss: site {site.name!r}")(f, q, site.key, 1)
    everything = frozenset().union(deps.values[site.name], *(t.depends_on for t in dependent))
    return [*others, Term(term, (), everything - {site.name})], mutable
