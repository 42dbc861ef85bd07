"""The variational autoencoder: its bound and gradients against quadrature, checkpoints, resuming, and errors."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.nn import logsumexp
from numpyro.distributions.distribution import validation_enabled

from experiments.common import checkpoint as vae_checkpoint
from experiments.common import record
from experiments.common.checkpoint import Saved, latest, write_checkpoint
from experiments.common.errors import UsageError
from experiments.common.loading import ESTIMATORS
from experiments.common.settings import parse
from experiments.vae import VaeSettings, run
from experiments.vae import experiment as vae_experiment
from experiments.vae import study as vae_task
from experiments.vae.experiment import raise_divergence
from experiments.vae.model import initial_params, log_joint, posterior
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
SMALL = ["--config", str(Path(__file__).parent.parent.parent / "configs" / "vae_small.toml")]
ESTIMATOR, OTHER = VaeSettings().estimators
WITHOUT_TIMES = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def results(folder):
    return json.loads((Path(folder) / "result.json").read_text())["rows"]


def last_arrays(folder, step=200):
    return vae_checkpoint._read(Path(folder) / "checkpoints" / f"{step}.checkpoint")[0].arrays


@pytest.fixture
def whole(small_run):
    """The folder of the small run, without interruption."""
    return small_run("vae")[3]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_joint_density_is_scipys(likelihood):
    params = initial_params(KEY, 6, 3, 2)
    z, x = np.array([0.4, -1.1]), np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    first, second = params["decoder"]
    out = np.tanh(z @ first["weight"] + first["bias"]) @ second["weight"] + second["bias"]
    if likelihood == "bernoulli":
        of_x = scipy.stats.bernoulli(1 / (1 + np.exp(-out))).logpmf(x)
    else:
        of_x = scipy.stats.norm(out, np.exp(params["log_noise"])).logpdf(x)
    truth = of_x.sum() + scipy.stats.norm.logpdf(z).sum()
    np.testing.assert_allclose(log_joint(params, jnp.array(x), likelihood)(jnp.array(z)), truth, rtol=1e-5)


def test_the_training_loss_and_its_gradient_are_those_of_quadrature():
    """For both estimators and one latent. False failures: 1e-6. Catches a bias of 0.06 nats; the gradients are up to 1
    per coordinate."""
    data = jnp.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    params = jax.tree.map(lambda x: 0.7 * x + 0.1, initial_params(KEY, 3, 2, 1))
    settings = SimpleNamespace(batch=4, num_samples=2, likelihood="bernoulli", entropy="detached")
    z = jnp.linspace(-12, 12, 2001)[:, None]
    dz = z[1, 0] - z[0, 0]

    def exact(params):
        def of_image(x):
            q = jax.vmap(posterior(params, x).log_prob)(z)
            return jnp.sum(jnp.exp(q) * (jax.vmap(log_joint(params, x, "bernoulli"))(z) - q)) * dz

        return -jax.vmap(of_image)(data).mean()

    def draw(key):
        one = lambda name: jax.value_and_grad(vae_task.loss, 3)(data, settings, ESTIMATORS[name], params, key)
        return [one(ESTIMATOR), one(OTHER)]

    truth = jax.jit(jax.value_and_grad(exact))(params)
    assert_unbiased(draw, [truth, truth], smallest_bias=0.06, replicates=2**17)


def test_what_is_measured_is_the_elbo_and_a_bound_above_it():
    """Two sets of weights, one latent. The mean ELBO of 64 images is within 6 standard errors of quadrature (1e-8), with
    standard errors below 0.05 nats. The bound with 500 samples is at most 0.02 below log p(x)."""
    params = jax.vmap(lambda key: initial_params(key, 5, 3, 1))(jax.random.split(KEY, 2))
    params = jax.tree.map(lambda x: 0.4 * x, params)
    images = jnp.asarray(jax.random.bernoulli(jax.random.key(1), 0.4, (64, 5)), float)
    z = jnp.linspace(-12, 12, 2001)[:, None]
    dz = z[1, 0] - z[0, 0]

    @jax.jit
    @jax.vmap
    def exact(params):
        def of_image(x):
            q, p = jax.vmap(posterior(params, x).log_prob)(z), jax.vmap(log_joint(params, x, "bernoulli"))(z)
            mean = jnp.sum(jnp.exp(q) * (p - q)) * dz
            return mean, jnp.sum(jnp.exp(q) * (p - q - mean) ** 2) * dz, logsumexp(p) + jnp.log(dz)

        mean, variance, evidence = jax.vmap(of_image)(images)
        return mean.mean(), jnp.sqrt(variance.mean() / 64 / vae_task.HELD_OUT_SAMPLES), evidence.mean()

    elbo, error, evidence = exact(params)
    measured, squared = vae_task._held_out(params, images, KEY, "bernoulli")
    assert np.all(error < 0.05)
    assert np.all(abs(measured - elbo) < 6 * error)
    bound = vae_task._bounds(params, images, KEY, "bernoulli", 500)
    assert np.all(bound > elbo)
    np.testing.assert_allclose(bound, evidence, atol=0.02)
    for i in range(2):
        mine = jax.tree.map(lambda p: p[i], params)
        seen = jax.vmap(lambda x: vae_task.reconstruction(mine, x, "bernoulli"))(images)
        np.testing.assert_allclose(squared[i], jnp.mean((seen - images) ** 2), rtol=1e-5)


def test_the_digits():
    binary, levels = vae_task.load("bernoulli"), vae_task.load("gaussian")
    assert (binary.train.shape, binary.test.shape, binary.shown.shape) == ((1500, 64), (297, 64), (10, 64))
    np.testing.assert_array_equal(binary.train, levels.train >= 0.5)
    assert set(np.unique(levels.test * 16)) <= set(range(17))
    p = (np.asarray(binary.train).sum(0) + 0.5) / 1501
    truth = scipy.stats.bernoulli(p).logpmf(np.asarray(binary.test)).sum(1).mean()
    assert vae_task.independent_pixels(binary, "bernoulli") == pytest.approx(truth)
    train = np.asarray(levels.train, float)
    scale = np.sqrt(((train - train.mean(0)) ** 2).mean())
    truth = scipy.stats.norm(train.mean(0), scale).logpdf(np.asarray(levels.test)).sum(1).mean()
    assert vae_task.independent_pixels(levels, "gaussian") == pytest.approx(truth)


def test_margins():
    """Two seeds with straight curves: 2 and 3 nats ahead at the last step, and 1.5 times as fast."""
    rows = [
        {"estimator": name, "seed": seed, "step": step, "seconds": step * pace, "test_elbo": step * (1 + rise * (seed + 2)),
         "stopped_at": -1}
        for name, pace, rise in (("a", 1.0, 0.1), ("b", 2.0, 0.0)) for seed in (0, 1) for step in (0, 10)
    ]  # fmt: skip
    by_step, by_time = vae_task.margins(rows, ("a", "b"))
    assert (by_step["at"], by_step["place"], by_step["margin"]) == ("step", 10, pytest.approx(2.5))
    half = 12.7062 * 0.5  # Student's t with one degree of freedom, times the standard error
    assert (by_step["low"], by_step["high"]) == (
        pytest.approx(2.5 - half, rel=1e-4),
        pytest.approx(2.5 + half, rel=1e-4),
    )
    assert by_step["verdict"] == "not significant"
    assert (by_time["at"], by_time["place"], by_time["margin"]) == ("seconds", 10.0, pytest.approx(7.5))
    verdict = vae_task._verdict
    assert [verdict(m, 1.0) for m in (2.1, 1.9, -1.9, -2.1)] == [
        "better, by more than the width of the interval", "better, by less than the width of the interval",
        "worse, by less than the width of the interval", "worse, by more than the width of the interval",
    ]  # fmt: skip
    assert verdict(np.nan, 1.0) == "unknown: not finite"


def test_a_run(whole):
    rows = results(whole)
    assert [(r["step"], r["estimator"], r["seed"]) for r in rows] == [
        (step, name, seed) for step in range(0, 201, 50) for name in (ESTIMATOR, OTHER) for seed in range(3)
    ]
    of = {(r["step"], r["estimator"], r["seed"]): r for r in rows}
    for name in (ESTIMATOR, OTHER):
        for seed in range(3):
            first, last = of[0, name, seed], of[200, name, seed]
            assert first["test_elbo"] == of[0, ESTIMATOR, seed]["test_elbo"]  # of the same weights
            assert last["test_elbo"] > first["test_elbo"] + 10
            assert last["iwae"] > last["test_elbo"]
            assert (first["iwae"], first["train_elbo"], last["stopped_at"]) == (None, None, -1)
    assert len({r["test_elbo"] for r in rows if r["step"] == 200}) == 6
    pictures = np.load(whole / "pictures.npz")
    shapes = {name: pictures[name].shape for name in pictures.files}
    assert shapes == {
        "originals": (10, 8, 8),
        **{f"reconstructions/{name}": (10, 8, 8) for name in (ESTIMATOR, OTHER)},
        **{f"samples/{name}": (20, 8, 8) for name in (ESTIMATOR, OTHER)},
    }
    seen = pictures[f"reconstructions/{ESTIMATOR}"]
    assert 0 < seen.min() < seen.max() < 1
    assert len((whole / "margins.csv").read_text().splitlines()) == 3
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["150.checkpoint", "200.checkpoint"]


def test_interrupted_damaged_and_resumed_it_ends_the_same_bit_for_bit(whole, run_main, monkeypatch):
    def interrupted(*args, **kwargs):
        write_checkpoint(*args, **kwargs)
        if args[1].step == 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vae_experiment, "write_checkpoint", interrupted)
        status, _, err = run_main(VaeSettings, run, *SMALL, "--steps", "100", "--out", "out")
        assert (status, err) == (130, "interrupted; step 50 is kept; continue with --resume out\n")
    assert [p.name for p in Path("out").iterdir()] == ["checkpoints"]
    newest = Path("out/checkpoints/100.checkpoint")
    newest.write_bytes(newest.read_bytes()[:-100])
    status, out, err = run_main(VaeSettings, run, *SMALL, "--resume", "out")
    assert (status, err) == (0, "")
    assert out.startswith("the checkpoint of step 100 is damaged (wrong checksum) and ignored\n"
                          "continuing from step 50\n")  # fmt: skip
    assert WITHOUT_TIMES(results("out")) == WITHOUT_TIMES(results(whole))
    for a, b in zip(last_arrays("out"), last_arrays(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_finite_is_named_and_the_last_good_weights_kept(whole):
    settings = parse(VaeSettings, SMALL, "vae")
    saved, _ = vae_checkpoint._read(whole / "checkpoints" / "150.checkpoint")
    with validation_enabled(False):
        task = vae_task.prepare(settings, KEY)
        at = vae_task.restored(task, saved)
        bias = at.fits[OTHER].params["encoder"][-1]
        bias["bias"] = bias["bias"].at[1].set(1e30)  # of the second seed: sigma overflows
        (end,) = vae_task.training(task, at)
    rows = end.rows[-6:]
    assert [r["stopped_at"] for r in rows] == [-1, -1, -1, -1, 150, -1]
    assert np.all(np.abs(end.fits[OTHER].params["encoder"][-1]["bias"][1]) < 1)  # those before the overflow
    truth = [{k: v for k, v in r.items() if k != "iwae"} for r in results(whole)[-6:]]
    assert [r for i, r in enumerate(WITHOUT_TIMES(rows)) if i != 4] == [
        r for i, r in enumerate(WITHOUT_TIMES(truth)) if i != 4
    ]
    assert {c["verdict"] for c in vae_task.margins(end.rows, settings.estimators)} == {"unknown: not finite"}
    with pytest.raises(UsageError, match=rf"not finite \({re.escape(OTHER)}, seed 1: step 150\), and the last good"):
        raise_divergence(rows, settings)


def test_checkpoints(tmp_path, capsys):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(-1), np.array([True, False])]
    rows = [{"estimator": "a", "seconds": 1.5, "train_elbo": float("nan")}]
    for step, before in ((10, None), (20, 10), (30, 20)):
        write_checkpoint(tmp_path, Saved(step, arrays, rows), VaeSettings(), before)
    place = tmp_path / "checkpoints"
    assert sorted(p.name for p in place.iterdir()) == ["20.checkpoint", "30.checkpoint"]
    found = latest(tmp_path, VaeSettings(steps=5_000, out="x", resume="y", config="z"))
    assert (found.step, found.rows[0]["seconds"]) == (30, 1.5)
    for a, b in zip(found.arrays, arrays, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    good = (place / "30.checkpoint").read_bytes()
    capsys.readouterr()
    for bad in (b"", good[:10], good[:-1], good + b"x", good[:500] + bytes([good[500] ^ 1]) + good[501:]):
        (place / "30.checkpoint").write_bytes(bad)
        assert latest(tmp_path, VaeSettings()).step == 20
        assert "step 30 is damaged" in capsys.readouterr().out
    (place / "20.checkpoint").write_bytes(b"x")
    assert latest(tmp_path, VaeSettings()) is None
    assert "starting from step 0" in capsys.readouterr().out


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, Saved(10, [np.zeros(3)], []), VaeSettings(), None)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", fail)
    with pytest.raises(UsageError, match="No space left on device"):
        write_checkpoint(tmp_path, Saved(20, [np.zeros(3)], []), VaeSettings(), 10)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["10.checkpoint"]


BAD = [
    (["--estimators", "reparametrized"], "did you mean 'reparameterized'?"),
    (["--estimators", "reparameterized", "reparameterized"], "has a duplicate"),
    (["--estimators", "arm"], "--estimators arm with --num-samples 2: arm"),
    (["--estimators", "reparameterized+antithetic", "--num-samples", "3"], "n = 3 is odd"),
    (["--num-samples", "1"], "--estimators score_function+leave_one_out with --num-samples 1: leave_one_out: n = 1"),
    (["--likelihood", "poisson"], "--likelihood"),
    (["--entropy", "none"], "--entropy"),
    (["--hidden", "0"], "--hidden: input should be greater than or equal to 1, not 0"),
    (["--latents", "x"], "--latents: 'x' cannot be parsed"),
    (["--batch", "0"], "--batch: input should be greater than or equal to 1, not 0"),
    (["--num-samples", "0"], "--num-samples: input should be greater than or equal to 1, not 0"),
    (["--learning-rate", "0"], "--learning-rate: input should be greater than 0, not 0.0"),
    (["--learning-rate", "nan"], "--learning-rate: input should be a finite number"),
    (["--steps", "250"], "--steps 250: not a multiple of --every 100; give 300"),
    (["--every", "0"], "--every: input should be greater than or equal to 1, not 0"),
    (["--seeds", "1"], "--seeds: input should be greater than or equal to 2, not 1"),
    (["--bound-k", "0"], "--bound-k: input should be greater than or equal to 1, not 0"),
    (
        ["--resume", "nowhere"],
        "--resume nowhere: this folder has no checkpoint; give the folder with the results of a run",
    ),
    (
        ["--resume", "other", "--latents", "3"],
        "--resume other: it was made with latents = 16 (now 3); use the same settings",
    ),
    (
        ["--resume", "other", "--steps", "100"],
        "--steps 100: --resume other is already at step 200; give at least that many",
    ),
    (["--seed", "-1"], "--seed: input should be greater than or equal to 0, not -1"),
    (["--float-width", "16"], "use 32 or 64"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run_main, tmp_path):
    write_checkpoint(tmp_path / "other", Saved(200, [], []), VaeSettings(), None)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run_main(VaeSettings, run, *flags, "--out", "new/deep")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.long
def test_the_reparameterization_trick_is_ahead_by_more_than_its_interval(run_main):
    """The claim of the experiment, at its default size, at equal steps and at equal time."""
    assert run_main(VaeSettings, run, "--out", "out")[0] == 0
    compared = vae_task.margins(results("out"), VaeSettings().estimators)
    assert [c["verdict"] for c in compared] == ["better, by more than the width of the interval"] * 2
