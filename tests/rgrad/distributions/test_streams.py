"""No two random streams in one call share a word. No key is used twice, however it was made."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.extend.core import Literal

import rgrad
from rgrad.backend import noise
from rgrad.tracing.traced import parts_of_scan


@pytest.fixture(autouse=True)
def _whole_operations(monkeypatch):
    """rgrad's own `split` and `fold_in` give the words of jax.random's, as its tests show. Here they must be visible."""
    monkeypatch.setattr(noise, "_is_fused", lambda key, size=1: False)


SPLIT, FOLD_IN, OTHER = "split", "fold_in", "other"
LOOPS = ("scan", "while", "cond")
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def words_used(draw, key):
    """Count how often each word is drawn in one call: a Counter of (key, which of its words).

    A word of threefry is determined by a key and a counter. `split` and `fold_in` use the same words: child i of
    `split(key, n)` is `fold_in(key, i)`. So only one of these may happen to a key: it is split in one way, it is folded
    with different numbers, or its bits are drawn once. Only the operations on keys are run. A sampler counts as drawing
    from every key it receives. (`jax.random.poisson` has two loops with one key, and uses one of them.)
    """
    used = Counter()
    is_key = lambda x: x is not None and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    def keys_of(x):
        words = jax.random.key_data(x) if is_key(x) else x
        return [tuple(map(int, row)) for row in np.asarray(words).reshape(-1, 2)]

    def made(equation, ins):
        """Return the results; None for those that are neither keys nor words of keys."""
        name = equation.primitive.name
        if name == "random_split":
            for k in keys_of(ins[0]):
                used[k, SPLIT, tuple(equation.params["shape"])] = 1  # the same children each time
        elif name == "random_fold_in":
            for k, d in zip(keys_of(ins[0]), np.broadcast_to(ins[1], ins[0].shape).ravel(), strict=True):
                used[k, FOLD_IN, int(d)] = 1
        elif name == "rgrad_noise":
            used.update((k, OTHER) for k in keys_of(jnp.stack([*jnp.broadcast_arrays(*ins)], -1)))
        elif name in LOOPS or not all(a.aval.dtype == np.uint32 or is_key(a.aval) for a in equation.outvars):
            used.update((k, OTHER) for x in ins if is_key(x) for k in keys_of(x))
        elif name == "random_bits":
            used.update((k, OTHER) for k in keys_of(ins[0]))
        elif all(x is not None for x in ins):
            return bind(equation, ins)
        return bind(equation, ins) if name in ("random_split", "random_fold_in") else [None] * len(equation.outvars)

    def run(jaxpr, consts, args):
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        read = lambda atom: atom.val if isinstance(atom, Literal) else env[atom]
        for equation in jaxpr.eqns:
            ins = [read(atom) for atom in equation.invars]
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if equation.primitive.name in CALLS and equation.params.get("name") != "_poisson":
                outs = run(inner.jaxpr, inner.consts, ins)
            elif equation.primitive.name == "scan" and not any(map(is_key, ins[parts_of_scan(equation.params)[0] :])):
                ins = [x if i < parts_of_scan(equation.params)[0] else None for i, x in enumerate(ins)]
                for _ in range(2):  # a key that does not change draws the same words in every iteration
                    outs = run(inner.jaxpr, inner.consts, ins)
            elif any(x is not None and not isinstance(a, Literal) for x, a in zip(ins, equation.invars, strict=True)):
                outs = made(equation, ins)
            else:
                outs = [None] * len(equation.outvars)
            env.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    closed = jax.make_jaxpr(draw)(key)
    run(closed.jaxpr, [None] * len(closed.consts), jax.tree.leaves(key))
    return used


def bind(equation, ins):
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # depends on the version of JAX
    outs = equation.primitive.bind(*functions, *ins, **params)
    return outs if equation.primitive.multiple_results else [outs]


def assert_no_word_twice(draw):
    used = words_used(draw, jax.random.key(3))
    assert used, "nothing random was seen"
    twice = [of for of, times in used.items() if times > 1]
    assert not twice, f"drawn twice: {twice[:3]}"
    ways = Counter(k for k, _ in {(of[0], of[1:] if of[1] == SPLIT else of[1]) for of in used})
    twice = [k for k, times in ways.items() if times > 1]
    assert not twice, f"used in two ways: {[of for of in used if of[0] in twice][:4]}"


vector = lambda q: q.to_event(1)
VECTORS = {
    "Normal": lambda t: vector(dist.Normal(t, jnp.array([1.0, 2.0]))),
    "LogNormal": lambda t: vector(dist.LogNormal(t, jnp.array([1.0, 2.0]))),
    "Gamma": lambda t: vector(dist.Gamma(t, jnp.array([1.0, 2.0]))),
    "InverseGamma": lambda t: vector(dist.InverseGamma(t + 2, jnp.array([1.0, 2.0]))),
    "Beta": lambda t: vector(dist.Beta(t, jnp.array([1.0, 2.0]))),
    "Dirichlet": lambda t: dist.Dirichlet(t * jnp.ones(3)),
    "Exponential": lambda t: vector(dist.Exponential(t * jnp.ones(2))),
    "Poisson": lambda t: vector(dist.Poisson(t * jnp.ones(2))),
    "VonMises": lambda t: vector(dist.VonMises(t, jnp.array([1.0, 2.0]))),
    "Bernoulli": lambda t: vector(dist.Bernoulli(logits=t * jnp.ones(2))),
    "OneHotCategorical": lambda t: vector(rgrad.OneHotCategorical(t * jnp.arange(6.0).reshape(2, 3))),
}
GAMMAS, BITS = ("Gamma", "InverseGamma", "Beta", "Dirichlet"), ("Bernoulli", "OneHotCategorical")
TAKES = {
    "reparameterized": ("Normal", "LogNormal", *GAMMAS, "Exponential", "VonMises"),
    "score_function": tuple(VECTORS),
    "generalized": ("Normal", "LogNormal", *GAMMAS),
    "rejection": GAMMAS,
    "measure_valued": ("Normal", "LogNormal", "Exponential", "Poisson", "Bernoulli"),
    "arm": ("Bernoulli",),
    "disarm": ("Bernoulli",),
    "rebar": BITS,
    "relax": BITS,
    "gumbel_softmax": BITS,
    "straight_through": BITS,
}


@pytest.mark.parametrize("estimator", TAKES)
@pytest.mark.parametrize("keyed", [False, True])
def test_no_word_is_drawn_twice(estimator, keyed):
    """One call with three samples, and its gradient. If f takes keys, they are made but not used here, because f may be
    evaluated several times with one of them."""
    e = getattr(rgrad, estimator)
    f = (lambda x, key: jnp.cos(x).sum()) if keyed else (lambda x: jnp.cos(x).sum())
    for name in TAKES[estimator]:
        loss = lambda t, key, q=VECTORS[name]: rgrad.expect(f, q(t), key, 3, e, keyed=keyed)
        assert_no_word_twice(lambda key, loss=loss: jax.value_and_grad(loss)(2.0, key))


@pytest.mark.parametrize("draws", ["antithetic", "stratified", "quasi", "jax_random"])
def test_no_word_is_drawn_twice_by_other_draws(draws):
    q = lambda t: getattr(rgrad, draws)(VECTORS["Normal"](t))
    loss = lambda t, key: rgrad.expect(lambda x, key: x.sum(), q(t), key, 4, keyed=True)
    assert_no_word_twice(lambda key: jax.grad(loss)(2.0, key))


def test_a_word_that_is_drawn_twice_is_detected():
    """One case is `fold_in(key, 1)` beside `split(key, n)`: both give the same key."""
    normal, split, fold_in = jax.random.normal, jax.random.split, jax.random.fold_in
    for draw in (
        lambda key: normal(key) + normal(key),
        lambda key: normal(split(key)[0]) + normal(fold_in(key, 1)),
        lambda key: normal(split(key)[0]) + normal(key),
        lambda key: normal(split(key)[0]) + normal(split(key, 3)[0]),
        lambda key: normal(split(key)[0]) + rgrad.noise.normal(split(key)[0], (2,)),
        lambda key: jax.random.gamma(key, 2.0, (2,)) + normal(fold_in(key, 1)),
        lambda key: jax.random.poisson(key, 2.0) + normal(key),
    ):
        with pytest.raises(AssertionError, match=r"drawn twice|used in two ways"):
            assert_no_word_twice(draw)
    assert_no_word_twice(lambda key: normal(fold_in(key, 0)) + jax.random.gamma(fold_in(key, 1), 2.0, (2,)))
