"""Which estimators have a rule for a distribution: what an error names where another has none."""

from typing import Any

import numpyro.distributions as dist

from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import WithKey
from rgrad.distributions.implicit import elementary, has_rsample


def those_for(q: Any) -> str:
    """`reparameterized, generalized, or score_function`: the estimators that have a rule for `q`, none of them biased."""
    from rgrad.distributions.standardised import by_moments
    from rgrad.estimators.measure_valued import weak_derivatives
    from rgrad.estimators.rejection import as_gammas
    from rgrad.estimators.relaxed import OneHotCategorical

    base = q.base if isinstance(q, WithKey) else q
    one = elementary(base)
    of_bits = isinstance(one, dist.BernoulliProbs | dist.BernoulliLogits)
    rules = {
        "enumerated": getattr(one, "has_enumerate_support", False),
        "generalized": _has_rule(by_moments, one),
        "rejection": _has_rule(as_gammas, one),
        "measure_valued": _has_rule(weak_derivatives, one),
        **dict.fromkeys(("arm", "disarm"), of_bits),
        "rebar": of_bits or isinstance(one, OneHotCategorical),
    }
    if dependent_draws(q) is not None:  # the others draw noise of their own
        rules = {}
    found = [name for name, applies in rules.items() if applies]
    names = ["reparameterized", *found, "score_function"] if has_rsample(base) else ["score_function", *found]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + ", or " + names[-1]


def _has_rule(rule: Any, q: Any) -> bool:
    return rule.dispatch(type(q)) is not rule.dispatch(object)
