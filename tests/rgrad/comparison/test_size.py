"""`rgrad.compare` with very many coordinates: it runs no Python code for each of them, and its memory is bounded."""

import pickle
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad.comparison import blocks as blocks_module
from rgrad.comparison.contenders import Contenders
from rgrad.comparison.entry import Entry
from rgrad.comparison.judged import no_verdict
from rgrad.comparison.jumps import LENGTHS, SEGMENTS, segments_for
from rgrad.comparison.labels import Labels
from rgrad.comparison.result import conclude
from rgrad.comparison.rows import KEPT, WIDTH
from rgrad.comparison.runs import GATHERED, Run
from rgrad.comparison.tails import FOLLOWED, Tails
from rgrad.comparison.verdicts import TOP, Mean
from rgrad.problems import labels_of

MANY = 100_000
KINDS = {"path": "path", "loo": "score", "score": "score", "mine": None}
CALLS = 10**5


class Problem(NamedTuple):
    distribution: object
    objective: object
    params: dict
    wrt: tuple = ()


def entry_of(mean, variance, heavy=False):
    """An estimate with these means and variances in each coordinate, as if it were normal."""
    moments = rgrad.Moments(np.int64(CALLS), mean, variance, 0 * mean, 3 * variance**2, np.zeros(mean.size, int))
    heavy, total = np.broadcast_to(heavy, mean.shape), variance.sum()
    return Entry(moments, Mean.of(moments, False), total, 0.01 * total, 1e-6, 1e6, 1e-6, 0.0, heavy, False)


def synthetic(size):
    """Four estimators with every kind of verdict and reason, and what `conclude` takes."""
    rng = np.random.default_rng(0)
    truth, variance = rng.standard_normal(size), rng.uniform(0.5, 1.5, size)
    noisy = lambda: truth + rng.standard_normal(size) * (variance / CALLS) ** 0.5
    found = {name: entry_of(noisy(), variance * scale) for name, scale in zip(KINDS, (1, 2, 3, 1), strict=True)}
    mine = found["mine"].moments.mean
    mine[::7] += 1  # biased
    mine[1::7] = np.nan
    found["mine"] = entry_of(mine, variance, heavy=np.arange(size) % 11 == 0)
    found["mine"].mean.effective[4::9] = 10  # too few draws
    found["path"].moments.mean[::5] += 1  # disputed with the score
    found["loo"].mean.error[::13] = 10  # too much noise
    labels = Labels({"w": np.zeros(size)})
    jumping = np.arange(size) % 17 == 0
    return found, Contenders({}, {}, labels, tuple(KINDS), {}, None, {}, jumping=jumping, kinds=KINDS,
                             references=("loo", "score"))  # fmt: skip


def lines_run(call):
    """The number of lines of rgrad's Python code that `call` runs. An iteration of a loop or of a generator counts."""
    count = 0

    def local(frame, event, arg):
        nonlocal count
        count += event == "line"
        return local

    def trace(frame, event, arg):
        return local(frame, "line", arg) if "/rgrad/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_judging_runs_no_python_for_each_coordinate():
    """About 10 lines for each block of coordinates and pair of estimators, and not one for each coordinate."""
    found, task = synthetic(MANY)
    count = lines_run(lambda: str(conclude(found, task, "operations", 10, 1.0, 1.0)))
    assert 500 < count < MANY / 10


def test_measuring_runs_no_python_for_each_coordinate():
    x = np.random.default_rng(0).standard_normal((2, MANY)).astype(np.float32)
    run = run_of(lambda *_: x, lanes=2)
    assert 50 < lines_run(lambda: [run.batch("operations") for _ in range(9)] and run.entry("operations")) < MANY / 10


def test_a_row_is_made_when_it_is_asked_for():
    found, task = synthetic(MANY)
    c = conclude(found, task, "operations", 10, 1.0, 1.0)
    assert c.rows._kept == {}
    assert len(c.rows) == 4 * MANY
    row = c.rows[2 * MANY + 70_003]
    assert (row["estimator"], row["parameter"]) == ("score", "w[70003]")
    assert row["mean"] == found["score"].moments.mean[70_003]
    assert list(c.rows._kept) == [("score", 70_003 // WIDTH)]
    assert str(c.rows[-1]) == str(c.rows[4 * MANY - 1])
    assert c.rows[-1]["parameter"] == f"w[{MANY - 1}]"
    for i in range(0, 4 * MANY, WIDTH // 2):
        assert c.rows[i]["parameter"] == f"w[{i % MANY}]"
    assert len(c.rows._kept) <= KEPT
    assert repr(c.rows).startswith("<400,000 rows")
    with pytest.raises(IndexError):
        c.rows[4 * MANY]


def test_rows_are_a_sequence_like_a_list():
    found, task = synthetic(50)
    c = conclude(found, task, "operations", 10, 1.0, 1.0)
    every = [c.rows[i] for i in range(200)]
    assert list(map(str, c.rows)) == list(map(str, every))
    assert list(map(str, c.rows[45:55:3])) == list(map(str, every[45:55:3]))
    assert [row["estimator"] for row in c.rows[::50]] == list(KINDS)
    assert str(pickle.loads(pickle.dumps(c))) == str(c)


def test_reasons_have_the_numbers_of_their_coordinate():
    found, task = synthetic(1001)
    rows = conclude(found, task, "operations", 10, 1.0, 1.0).rows
    assert rows[17]["why"] == "the objective jumps in w[17]"
    said = {row["why"].split(" ")[0] for row in rows}
    assert {"", "the", "nan", "infinite", "only", "differs", "no"} <= said
    few = [row for row in rows if row["why"].startswith("only")]
    assert {row["why"] for row in few} == {"only 10 draws determine the mean"}
    assert all(row["biased"] is None for row in rows if row["why"])


def test_the_text_of_a_huge_comparison_is_short():
    found, task = synthetic(MANY)
    text = " ".join(str(conclude(found, task, "operations", 10, 1.0, 1.0)).split())
    assert "The 100,000 coordinates are not shown one by one: see `rows`." in text
    assert len(text) < 4000
    assert "w[0], w[102], w[119]" in text  # those that jump
    assert "and 5,875 more, and no estimator includes" in text


def test_labels():
    parameters = {"b": jnp.zeros((2, 3)), "a": jnp.zeros(()), "empty": jnp.zeros((0, 2)), "z": jnp.zeros(4)}
    labels = Labels(parameters)
    every = [label for name in sorted(parameters) for label in labels_of(name, parameters[name])]
    assert list(labels) == every
    assert labels[-1] == every[-1] == "z[3]"
    assert labels[2:9:3] == every[2:9:3]
    assert labels.of(["a", "z"]).tolist() == [label[0] in "az" for label in every]


def run_of(run, lanes):
    """A `Run` of a program that returns `run(parameters, keys)`."""
    program = SimpleNamespace(run=run, lanes=lanes, parameters=None, operations=1.0, constant=False)
    return Run("mine", program, jax.random.key(0))


@pytest.mark.parametrize(("lanes", "width"), [(1, 64), (3, 64), (3, 1000), (2 * GATHERED, 70)])
def test_moments_in_blocks_are_those_of_all_calls(lanes, width, monkeypatch):
    """Calls that wait, and blocks that do not divide the coordinates, change nothing."""
    monkeypatch.setattr(blocks_module, "NUMBERS", width * max(lanes, GATHERED))
    x = np.random.default_rng(0).gamma(1.0, size=(lanes * 40, 150))
    batches = iter(np.split(x, 40))
    run = run_of(lambda *_: next(batches), lanes)
    for _ in range(25):
        run.batch("operations")
    run.entry("operations")  # in between
    for _ in range(15):
        run.batch("operations")
    entry = run.entry("operations")
    away = x - x.mean(0)
    assert int(entry.moments.count) == len(x)
    np.testing.assert_allclose(entry.moments.mean, x.mean(0))
    for k, moment in ((2, entry.moments.m2), (3, entry.moments.m3), (4, entry.moments.m4)):
        np.testing.assert_allclose(moment, (away**k).mean(0), rtol=1e-9)
    assert entry.total == pytest.approx(x.var(0, ddof=1).sum())
    squares = ((x - x.mean(0)) ** 2).sum(1)
    assert entry.total_error == pytest.approx(squares.std() / len(x) ** 0.5, rel=0.3)


@pytest.mark.parametrize("size", [2, FOLLOWED + 1])
@pytest.mark.parametrize("power", [-0.7, -0.2])
def test_tails_are_followed_in_bounded_memory(size, power):
    """The variance of |z|^-0.7 is infinite. With many coordinates, only the tail of the whole gradient shows it."""
    rng, calls = np.random.default_rng(0), 200
    tails = Tails(size)
    for _ in range(200):
        x = rng.standard_normal((calls, size), dtype=np.float32)
        x[:, 1] = np.abs(x[:, 1]) ** power * (1.0 if power < -0.5 else 5.0)
        tails.add(x, (x.astype(float) ** 2).sum(1))
        assert sum(part.size for part in tails._kept) <= min(size, FOLLOWED) * (2 * (TOP + 1) + calls)
    heavy = tails.heavy(200 * calls)
    assert heavy.shape == (size,)
    assert heavy[1] == (power < -0.5)
    assert heavy[0] == (size > FOLLOWED and power < -0.5)  # it is not known which one it is


def test_a_variance_of_rounding_size_is_never_suspected():
    """One coordinate has heavy tails, and a variance of 1e-16 in a gradient of size 1, or of 1."""
    for scale, suspected in ((1e-8, False), (1.0, True)):
        rng = np.random.default_rng(0)
        draws = lambda *_: np.stack(
            [1 + rng.standard_normal(4096), scale * np.abs(rng.standard_normal(4096)) ** -0.7], 1
        )
        run = run_of(draws, 4096)
        for _ in range(20):
            run.batch("operations")
        entry = run.entry("operations")
        assert entry.heavy.tolist() == [False, suspected]
        assert entry.eligible is not suspected


def test_a_coordinate_that_contributes_nothing_disqualifies_no_estimator():
    for share, eligible in ((1e-7, True), (1e-3, False)):
        entry = entry_of(np.ones(2), np.array([1.0, share]), heavy=np.array([False, True]))
        assert entry.eligible is eligible


def test_the_next_best_is_named_or_it_is_said_that_another_cannot_be_recommended():
    one = lambda variance, heavy=False: entry_of(np.ones(1), np.full(1, variance), heavy)
    task = Contenders({}, {}, ("x",), ("a", "b", "c"), {}, None, {})
    say = lambda found: conclude(found, task, "operations", 10, 1.0, 1.0).recommendation
    assert "times as efficient as b, the next best (95 %" in say({"a": one(1.0), "b": one(2.0), "c": one(3.0)})
    assert "2 times as efficient as c, the next best (95 %" in say({"a": one(1.0), "b": one(3.0, True), "c": one(2.0)})
    for found in (
        {"a": one(1.0), "b": one(2.0, True), "c": one(3.0)},
        {"a": one(1.5, True), "b": one(3.0), "c": one(1.0)},
    ):
        assert "3 times as efficient as" in say(found)
        assert ", the next best of those that can be recommended (95 %" in say(found)


def test_losses_have_their_own_samples():
    loss = lambda p, key: p["a"] * jax.random.normal(key)
    c = rgrad.compare({"a": loss}, key=jax.random.key(0), params={"a": 1.0}, cost="operations", budget=1e-4)
    assert "One call is one gradient estimate. Measured for" in str(c)
    assert c.n is None
    assert "samples" not in str(c)


def test_progress_covers_compiling_and_measuring():
    problem = Problem(lambda p: dist.Normal(p["loc"], 1.0), lambda p, x: x**2, {"loc": 1.0})
    shares = []
    two = ["reparameterized", "score_function+leave_one_out"]
    c = rgrad.compare(problem, two, key=jax.random.key(0), cost="operations", budget=0.05, progress=shares.append)
    programs = [0.5 / k for k in range(2, 6)]
    count = next(k for k in range(2, 6) if shares[:k] == [0.5 / k] * k and shares[k] not in programs)
    assert sum(shares[:count]) == pytest.approx(0.5)
    assert sum(shares) == pytest.approx(0.5 + 0.5 * c.spent / 0.05e9)


def test_fewer_lines_are_searched_for_jumps_in_many_dimensions():
    assert segments_for(1) == segments_for(4096) == SEGMENTS
    assert segments_for(10**6) == 2 * LENGTHS
    assert segments_for(10**5) % LENGTHS == 0
    assert segments_for(10**5) * 10**5 <= 2**24


def test_ten_thousand_coordinates_from_end_to_end():
    problem = Problem(
        lambda p: dist.Normal(p["loc"], 1.0).to_event(1), lambda p, x: jnp.sum(x**2), {"loc": jnp.ones(10_000)}
    )
    two = ["reparameterized", "score_function+leave_one_out"]
    c = rgrad.compare(problem, two, key=jax.random.key(0), cost="operations", budget=2.0)
    assert c.recommended == "reparameterized"
    assert len(c.rows) == 20_000
    assert c.rows[9_999]["parameter"] == "loc[9999]"
    assert abs(c.rows[9_999]["mean"] - 2) < 6 * c.rows[9_999]["standard_error"]
    assert "The 10,000 coordinates are not shown" in str(c)


def test_verdicts_keep_their_reasons_when_they_are_joined():
    two = no_verdict(4, "first").updated(np.array([0, 1, 1, 0], bool), no_verdict(4, "second"))
    three = two.untold(np.array([0, 0, 1, 0], bool), "third")
    assert [three.why(i) for i in range(4)] == ["first", "second", "third", "first"]
    assert three.first(np.array([0, 1, 1, 0], bool)) == "second"
    assert two.first(np.zeros(4, bool)) == ""
