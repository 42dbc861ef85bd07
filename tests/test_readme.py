"""The README is true: its code blocks run, its commands are those of the project."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("i", range(len(BLOCKS)))
def test_code_blocks_run(i, capsys):
    namespace = {}
    exec(compile(BLOCKS[i], f"README block {i}", "exec"), namespace)
    if "loss(theta, average" in BLOCKS[i]:
        assert abs(float(namespace["theta"]) - 3) < 1
    if "rgrad.fit" in BLOCKS[i]:  # medians of a hundred fits whose spread is under 0.2 and 0.1
        assert abs(float(namespace["fits"].params["mu"].mean()) - 3) < 0.15


def test_each_line_of_the_optax_table_runs():
    """Means of 1,000 per-sample Jacobians within 6 of their standard errors of 2 mu and 2 sigma^2 (1e-6 together for the
    36 numbers, were they normal; the seed is fixed)."""
    namespace = {}
    (block,) = (block for block in BLOCKS if "jacobians = " in block)
    exec(block, namespace)
    mean, log_scale = namespace["params"]
    truth = (2 * mean, 2 * np.exp(2 * log_scale))
    lines = re.findall(r"^\| `[^|]*` \| `(jacobians\([^|`]*)`(?:, then `([^|`]*)`)? \|$", README, re.M)
    assert len(lines) == README.count("_jacobians(f") + README.count("_jacobians(...") + README.count("_estimation_")
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
    """Variances of 10,000 replicates: 6 standard deviations are 9 % and 8.5 %, false failures under 1e-6."""
    exec(BLOCKS[0], {})
    (score_mean, score), (path_mean, path) = (
        map(float, line.split()[:2]) for line in capsys.readouterr().out.splitlines()
    )
    assert score == pytest.approx(0.87, rel=0.09)
    assert path == pytest.approx(0.04, rel=0.09)
    assert score_mean == pytest.approx(4, abs=6 * (0.87 / 10_000) ** 0.5)
    assert path_mean == pytest.approx(4, abs=6 * (0.04 / 10_000) ** 0.5)


def test_the_two_commands():
    """Each is one block; CI reads the second one from here."""
    for name, end in (
        ("main", ".venv/bin/python -m experiments.variance"),
        ("test", ".venv/bin/python -m pytest -n 2 --dist loadfile"),
    ):
        (command,) = re.findall(rf"<!-- {name} command -->\n```bash\n(.*)\n```\n", README)
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(end)
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[(\w+)\]", README)) <= set(extras)


def test_files_that_are_named_exist():
    for path in re.findall(r"(?:configs|experiments)/[\w./]+\.\w+", README):
        assert (ROOT / path).is_file(), path
