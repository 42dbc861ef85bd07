"""The READMEs are correct: their code blocks run, their commands and files exist, and their tables are as generated."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import rgrad
from experiments import readme as generated
from experiments.__main__ import listed
from experiments.common.errors import UsageError
from experiments.common.readme import entries, markdown, names_of_tables, plus_minus, with_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted(p.parent.name for p in (ROOT / "experiments").glob("*/__main__.py"))
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "rgrad").glob("*.md")),
        *sorted((ROOT / "experiments").rglob("*.md")),
    )
]
BLOCKS = [
    (name, i, block)
    for name in DOCUMENTS
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S))
]


@pytest.mark.parametrize(("name", "i", "block"), BLOCKS, ids=[f"{name}-{i}" for name, i, _ in BLOCKS])
def test_code_blocks_run(name, i, block, capsys):
    namespace = {}
    exec(compile(block, f"{name} block {i}", "exec"), namespace)
    if "loss(theta, average" in block:
        assert abs(float(namespace["theta"]) - 3) < 1
    if "ends = " in block:  # 200 steps of Adam, whose end has a spread of about 0.1
        assert all(abs(float(end) - 3) < 1 for end in namespace["ends"])
    if "fits = " in block:  # the mean of a hundred fits, whose spread is under 0.2
        assert abs(float(namespace["fits"].params["mu"].mean()) - 3) < 0.15


def test_the_blocks_are_found():
    assert {name for name, *_ in BLOCKS} >= {
        "README.md", "rgrad/MIGRATING.md", "rgrad/RECIPES.md", "experiments/fit/README.md", "experiments/sweep/README.md"
    }  # fmt: skip
    assert len(BLOCKS) >= 7


def test_each_line_of_the_optax_table_runs():
    """Means of 1,000 per-sample Jacobians are within 6 standard errors of 2 mu and 2 sigma^2. For normal means, the
    false failure probability of all 36 numbers is 1e-6. The seed is fixed."""
    namespace = {}
    text = (ROOT / "rgrad" / "MIGRATING.md").read_text()
    (block,) = (block for name, _, block in BLOCKS if name == "rgrad/MIGRATING.md")
    exec(block, namespace)
    mean, log_scale = namespace["params"]
    truth = (2 * mean, 2 * np.exp(2 * log_scale))
    lines = re.findall(r"^\| `[^|]*` \| `(jacobians\([^|`]*)`(?:, then `([^|`]*)`)? \|$", text, re.M)
    assert len(lines) == text.count("_jacobians(f") + text.count("_jacobians(...") + text.count("_estimation_") == 9
    for code, then in lines:
        found = eval(code, namespace)
        one = re.search(r"\[([01])\]$", code)
        for part, exact in [(found, truth[int(one[1])])] if one else zip(found, truth, strict=True):
            assert part.shape == (1000, 2)
            error = part.std(0) / 1000**0.5
            assert np.all(np.abs(part.mean(0) - exact) <= 6 * error + 1e-5), code
        if then:
            assert eval(then, namespace | {"values": np.ones(3)}).value == 1


def test_the_first_block_prints_the_figures_that_it_promises(capsys):
    """Variances of 10,000 replicates: 6 standard errors are 9 % and 8.5 %. False failures: below 1e-6."""
    exec(BLOCKS[0][2], {})
    (score_mean, score), (path_mean, path) = (
        map(float, line.split()[:2]) for line in capsys.readouterr().out.splitlines()
    )
    assert score == pytest.approx(0.87, rel=0.09)
    assert path == pytest.approx(0.04, rel=0.09)
    assert score_mean == pytest.approx(4, abs=6 * (0.87 / 10_000) ** 0.5)
    assert path_mean == pytest.approx(4, abs=6 * (0.04 / 10_000) ** 0.5)


def test_the_two_commands():
    """Each command is one code block. CI reads the second one from the README."""
    for name, end in (
        ("main", ".venv/bin/python -m experiments.variance"),
        ("test", ".venv/bin/python -m pytest -n 2 --dist loadfile"),
    ):
        (command,) = re.findall(rf"<!-- {name} command -->\n```bash\n(.*)\n```\n", README)
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(end)
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_both_entries_for_bibtex_are_the_same():
    guide = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    (entry,) = re.findall(r"```bibtex\n(.*?)```", guide, re.S)
    words = re.sub(r"\s+", " ", entry).replace(", }", "}").strip()
    assert f"`{words}`" in README
    assert f"version = {{{rgrad.__version__}}}" in words


def test_the_readme_is_short_and_in_order():
    assert len(README.splitlines()) <= 200
    parts = ("```python", "![", "## Two commands", "## Your own problem", "## From Python", "## For NumPyro users",
             "## Which estimator",
             "## Symptoms", "## What to trust", "## The texts", "## Links")  # fmt: skip
    places = [README.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_named_exists(name):
    """Extras, files, links and their anchors."""
    text, folder = (ROOT / name).read_text(), (ROOT / name).parent
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(extras)
    for path in re.findall(r"(?<![\w./])(?:configs|experiments|rgrad)/[\w./]+\.\w+", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"python -m (experiments[\w.]*\w)", text):
        assert (ROOT / path.replace(".", "/") / "__main__.py").is_file() or (
            ROOT / f"{path.replace('.', '/')}.py"
        ).is_file()
    for name in re.findall(r"`rgrad\.([a-zA-Z]\w*)", text):
        assert hasattr(rgrad, name), name
    for target in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("http"):
            continue
        assert (folder / path).is_file(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)$", (folder / path).read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_readme_and_is_in_the_gallery(name):
    gallery = (ROOT / "experiments" / "README.md").read_text()
    text = (ROOT / "experiments" / name / "README.md").read_text()
    assert f"({name}/README.md)" in gallery
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == len(names_of_tables(text))
    assert f"python -m experiments.{name}" in text
    if (ROOT / "experiments" / name / "figure.png").exists():
        assert "](figure.png)" in text


def test_tables_are_those_that_are_generated():
    """`python -m experiments.readme` rewrites them."""
    for path, text in generated.written().items():
        assert path.read_text() == text, f"{path}: run python -m experiments.readme"
    table = (ROOT / "rgrad" / "ESTIMATORS.md").read_text()
    for name in rgrad.ESTIMATORS:
        assert f"| `{name}` |" in table


def test_the_list_of_experiments_needs_no_jax():
    found = entries()
    assert [entry.name for entry in found] == EXPERIMENTS
    code = (
        "import runpy, sys\nrunpy.run_module('experiments', run_name='__main__', alter_sys=True)\n"
        "assert not {'jax', 'numpyro', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == listed(found) + "\n"
    for entry in found:
        assert entry.command.startswith(f"python -m experiments.{entry.name}")
        assert re.fullmatch(r"[\d.]+ (seconds?|minutes?)", entry.duration)


def test_tables_are_replaced_by_name():
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    assert names_of_tables(text) == ["one", "two"]
    assert with_tables(text, {"two": "| x |"}) == text.replace("two -->\n", "two -->\n| x |\n")
    assert with_tables(with_tables(text, {"one": r"a\1b"}), {"one": "old"}) == text
    with pytest.raises(UsageError, match="has no block `<!-- table: onee -->`; did you mean 'one'"):
        with_tables(text, {"onee": ""})
    assert markdown(["a", "b"], [["|x|", "1"]]) == "| a | b |\n|---|---:|\n| \\|x\\| | 1 |"


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [(8009.2, 50.4, "8009 +- 50"), (7967.1, 142.3, "7967 +- 142"), (568.51, 6.21, "568.5 +- 6.2"),
     (-55.4752, 0.00712, "-55.4752 +- 0.0071"), (3.0, 0.0, "3 +- 0")],
)  # fmt: skip
def test_an_interval_has_two_digits(value, half, text):
    assert plus_minus(value, half) == text
