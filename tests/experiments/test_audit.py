"""The experiment on audits: what it finds in the gallery and in a file of the user, and bad input."""

import csv
import json
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

import rgrad
from experiments.audit import AuditSettings
from experiments.audit import run as run_audit
from experiments.audit.gallery import LOSSES
from experiments.audit.settings import GALLERY
from experiments.audit.study import BIASED, NUMBERS, OK, Audited, noise_of, relative_to, rows_of

MINE = """
from pathlib import Path
import jax, jax.numpy as jnp
from jax.lax import stop_gradient

with Path("runs.txt").open("a") as file:
    file.write("run ")

params = {"a": 0.7, "rest": {"b": 1.5}}

def loss(p, key):
    x = stop_gradient(p["a"]) + jax.random.normal(key)  # the cut
    return x**2 + p["rest"]["b"] * p["a"]

def value(p, key): return (p["a"] + jax.random.normal(key)) ** 2 + p["rest"]["b"] * p["a"]
def aux(p, key): return value(p, key), 3
def vector(p, key): return jnp.ones(2) * p["a"]
def one(p): return p["a"]
def typo(p, key): return p["c"]
def divided(p, key): return 1 / 0
def logarithm(p, key): return jnp.log(-p["a"]) * jax.random.normal(key)
def boolean(p, key): return p["a"] > 0
def stops(p, key): raise SystemExit(0)
number = 3
integers = {"a": 2, "rest": {"b": 1.5}}
nothing = {}
words = "some words"
infinite = {"a": float("inf"), "rest": {"b": 1.5}}
count = iter(range(10_000))
def impure(p, key): return p["a"] * next(count)
"""


@pytest.fixture
def run(run_main):
    """`run(*flags) -> (status, stdout, stderr)`, in a folder that contains only mine.py."""
    Path("mine.py").write_text(MINE)
    return partial(run_main, AuditSettings, run_audit)


OWN = ("--loss", "mine.py:loss", "--params", "mine.py:params")


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())["rows"]


def test_the_findings_of_the_small_run(small_run):
    """Two wrong losses and a right one. Each verdict is wrong with a probability of at most 0.01, and the key is fixed."""
    status, out, _, folder = small_run("audit")
    assert status == 0
    assert "wrong gradients that are called BIASED: 2 of 2" in out
    assert "right gradients that are called ok: 1 of 1" in out
    assert "There is no --loss" not in out  # --demo is given
    rows = result(folder)
    assert {(r["loss"], r["audit"], r["right"]) for r in rows} == {
        ("bit by where", BIASED, False), ("custom_vjp, twice too large", BIASED, False), ("leave-one-out baseline", OK, True)
    }  # fmt: skip
    bit = next(r for r in rows if r["loss"] == "bit by where")
    assert (bit["gradient"], bit["noise"]) == (0, 0)
    assert bit["low"] <= -0.4 <= bit["high"]  # the derivative of 0.49 p + 0.09 (1 - p)
    cuts = {cut["loss"]: cut for cut in csv.DictReader((folder / "cuts.csv").open())}
    assert set(cuts) == {"bit by where", "custom_vjp, twice too large"}
    assert cuts["bit by where"]["code"] == "bit = jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)"
    assert cuts["custom_vjp, twice too large"]["function"] == "custom_rule"
    assert all(0.8 < float(cut["share"]) < 1.2 for cut in cuts.values())


def test_the_gallery_has_the_names_of_the_settings():
    assert tuple(LOSSES) == GALLERY
    assert sum(loss.right for loss in LOSSES.values()) == 3


@pytest.mark.long
def test_every_verdict_on_the_gallery(run):
    status, out, err = run("--out", "a")
    assert (status, err) == (0, "")
    assert "There is no --loss, so these are the losses of the gallery" in out
    assert all((row["audit"] == OK) == row["right"] for row in result("a"))
    assert {row["loss"] for row in result("a")} == set(GALLERY)


def test_a_loss_of_the_user(run):
    """Biased in one parameter, with status 0. The file is run once for the loss, the value and the parameters."""
    status, out, err = run(*OWN, "--value", "mine.py:value", "--out", "a", "--budget", 1)
    assert (status, err) == (0, "")
    assert Path("runs.txt").read_text() == "run "
    assert out.startswith("mine.py:loss at mine.py:params\n")
    assert "BIASED: The gradient in a is 1.5" in out
    line = next(i for i, text in enumerate(MINE.splitlines(), 1) if "# the cut" in text)
    assert f"mine.py:{line}: stop_gradient explains" in out
    verdicts = {row["row"]: row["verdict"] for row in result("a")}
    assert verdicts == {"a": BIASED, "rest.b": OK}
    assert {row["cuts"].split(" ")[0] for row in result("a")} == {f"mine.py:{line}"}
    (cut,) = csv.DictReader(Path("a/cuts.csv").open())
    assert (cut["row"], cut["line"], cut["file"]) == ("a", str(line), "mine.py")
    assert float(cut["missing"]) == pytest.approx(2 * 0.7, abs=0.3)


def test_the_flags_reach_the_audit(run, monkeypatch):
    monkeypatch.setattr(rgrad, "audit", seen := Mock(return_value=rgrad.Audit("ok", "Right.", [], [], 0.1, 0.2)))
    flags = ("--loss", "mine.py:aux", "--params", "mine.py:params", "--value", "mine.py:aux", "--wrt", "rest.b", "--has-aux",
             "--order", 2, "--tolerance", 0.01, "--budget", 3)  # fmt: skip
    assert run(*flags, "--out", "a")[0] == 0
    (loss, params, _), options = seen.call_args
    assert (loss.__name__, options.pop("value")) == ("aux", loss)
    assert params == {"a": 0.7, "rest": {"b": 1.5}}
    assert options == {"budget": 3.0, "wrt": ("rest.b",), "has_aux": True, "order": 2, "tolerance": 0.01}


def test_an_audit_without_rows(run):
    """A loss with side effects: the reason is in the table, there is no cut, and the exit status is 0."""
    status, out, err = run("--loss", "mine.py:impure", "--params", "mine.py:params", "--wrt", "a", "--out", "a")
    assert (status, err) == (0, "")
    assert "side effects: The loss returns different values" in out
    (row,) = result("a")
    assert (row["audit"], row["verdict"], row["bias"]) == ("side effects", "side effects", None)
    assert "numpy.random" in row["why"]
    assert Path("a/cuts.csv").read_text().count("\n") == 1
    assert Path("a/figure.png").is_file()


def test_relative_numbers():
    """A gradient of half the truth is -50 %, whatever the sign of the truth."""
    for sign in (-1, 1):
        row = {"truth": 2.0 * sign, "bias": -1.0 * sign, "largest_bias": 1.5, "largest_relative": 0.75, "gradient_error": 0.1, "calls": 400}  # fmt: skip
        assert row["bias"] * relative_to(row) == pytest.approx(-0.5)
        assert noise_of(row) == pytest.approx(2.0)
    assert relative_to(row | {"largest_bias": 0.0}) == 0.0


def test_an_audit_without_rows_has_the_columns_of_the_others():
    row = dict.fromkeys((*NUMBERS, "name", "verdict", "step", "keys", "calls", "seconds_needed", "why"), 1.0)
    of = lambda rows: Audited("mine", None, "", rgrad.Audit("side effects", "It changes.", rows, [], 0.0, 0.0))
    (empty,), (full,) = rows_of([of([])]), rows_of([of([row])])
    assert list(empty) == list(full)
    assert empty["why"] == "It changes."


def test_a_bug_of_our_own_is_not_blamed_on_the_user(run, monkeypatch):
    monkeypatch.setattr(rgrad, "audit", Mock(side_effect=KeyError("planted")))
    for flags in (OWN, ()):
        with pytest.raises(KeyError, match="planted"):
            run(*flags, "--out", "a")
    assert not Path("a").exists()


BAD = [
    (["--loss", "no.py:loss", "--params", "mine.py:params"], "--loss no.py:loss: no file no.py"),
    (["--loss", "mine.py:los", "--params", "mine.py:params"], "--loss mine.py:los: mine.py has no 'los'; did you mean 'loss'?"),
    (["--loss", "mine.py", "--params", "mine.py:params"], "--loss mine.py: write mine.py:NAME with a name defined in it"),
    (["--loss", "loss", "--params", "mine.py:params"], "--loss loss: write module:attribute, or file.py:attribute"),
    (["--loss", "nowhere:loss", "--params", "mine.py:params"], "--loss nowhere:loss: no module 'nowhere'"),
    (["--loss", "mine.py:number", "--params", "mine.py:params"], "--loss mine.py:number: expected a function (params, key) -> scalar, got int"),
    (["--loss", "mine.py:one", "--params", "mine.py:params"], "--loss mine.py:one: loss must take (params, key), got one(p)"),
    (["--loss", "mine.py:vector", "--params", "mine.py:params"], "--loss mine.py:vector: loss must return a scalar, got shape (2,)"),
    (["--loss", "mine.py:aux", "--params", "mine.py:params"], "--loss mine.py:aux: loss must return a scalar, got tuple"),
    (["--loss", "mine.py:boolean", "--params", "mine.py:params"], "--loss mine.py:boolean: loss must return a float, got bool"),
    (["--loss", "mine.py:typo", "--params", "mine.py:params"], "--loss mine.py:typo: KeyError: 'c' (mine.py, line "),
    (["--loss", "mine.py:divided", "--params", "mine.py:params"], "ZeroDivisionError: division by zero (mine.py, line "),
    (["--loss", "mine.py:stops", "--params", "mine.py:params"], "ended the run; remove the call of sys.exit"),
    (["--loss", "mine.py:logarithm", "--params", "mine.py:params", "--budget", "0.1"], "--loss mine.py:logarithm: the loss is nan or infinite"),
    (["--loss", "mine.py:loss"], "--loss mine.py:loss: --params is missing"),
    (["--params", "mine.py:params"], "--params mine.py:params: --loss is missing"),
    (["--value", "mine.py:value"], "--value mine.py:value: --loss is missing"),
    (["--wrt", "a"], "--wrt a: --loss is missing"),
    (["--has-aux"], "--has-aux: --loss is missing"),
    ([*OWN, "--demo"], "--demo: --loss mine.py:loss is given too"),
    ([*OWN, "--readme"], "--readme: the README shows the gallery"),
    ([*OWN, "--value", "mine.py:number"], "--value mine.py:number: expected a function"),
    ([*OWN, "--value", "mine.py:vector"], "--value mine.py:vector: value must return a scalar, got shape (2,)"),
    ([*OWN, "--has-aux"], "--loss mine.py:loss: with has_aux, loss must return (value, aux)"),
    ([*OWN, "--wrt", "c"], "--wrt c: unknown parameter 'c'"),
    ([*OWN, "--wrt", "a", "a"], "--wrt: a a has a duplicate"),
    (["--loss", "mine.py:loss", "--params", "mine.py:integers"], "--params mine.py:integers: parameter a = 2 is not a float"),
    (["--loss", "mine.py:loss", "--params", "mine.py:nothing"], "--params mine.py:nothing: params must contain at least one number"),
    (["--loss", "mine.py:loss", "--params", "mine.py:words"], "--params mine.py:words: params must contain at least one number"),
    (["--loss", "mine.py:loss", "--params", "mine.py:infinite"], "--params mine.py:infinite: parameter a is nan or infinite"),
    (["--loss", "mine.py:loss", "--params", "mine.py:param"], "did you mean 'params'?"),
    (["--budget", "0"], "--budget: input should be greater than 0"),
    (["--tolerance", "1"], "--tolerance: input should be less than 1"),
    (["--order", "3"], "--order: '3' is not a choice; expected one of ('1', '2')"),
    (["--gallery", "bit"], "--gallery: unknown name 'bit'"),
    (["--gallery"], "--gallery: nothing is given"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run):
    status, out, err = run("--out", "new/deep", *flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: --")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("new").exists()
