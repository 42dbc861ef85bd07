"""The tutorials run, and find what their text says."""

import time

import pytest

from experiments.common.tutorials import FOLDER, TutorialCell, cells, title, tutorial_files

FILES = tutorial_files()
# What the texts say about the results, by the number of the tutorial.
FACTS = {
    1: lambda t: (
        abs(t["found"]["score_function"] - 0.87) < 0.06
        and abs(t["found"]["reparameterized"] - 0.04) < 0.003
        and t["answer"]["reparameterized"] > 50 * t["answer"]["score_function"]
    ),
    2: lambda t: (
        t["without_dropout"].whole.variance.value < t["noise"].whole.variance.value
        and t["noise"].leaves["in"].noise_scale.value > t["noise"].leaves["out"].noise_scale.value
        and abs(t["variances"][0] / t["variances"][-1] / 30 - 1) < 0.3
    ),
    3: lambda t: (
        all(low - 4e-4 < 0.01966 < high + 4e-4 for name, (low, high) in t["means"].items() if name[:2] != "st")
        and t["means"]["straight_through"][0] > 4 * 0.01966
        and max(end for name, end in t["ends"].items() if name != "straight_through") < 0.05
        and abs(t["ends"]["straight_through"] - 0.45) < 0.05
        and t["variances"] == sorted(t["variances"])
    ),
    4: lambda t: (
        t["variance"]["TraceGraph_ELBO"] > 3 * t["variance"]["SVILoss"] > 9 * t["variance"]["SVILoss, z summed"]
        and all(abs(ends.mean() - t["exact"]) < 0.1 for ends in t["ends"].values())
        and t["bounds"]["ELBO"] < t["bounds"]["10 samples"]
    ),
    5: lambda t: (
        [t[name].verdict for name in ("found", "again", "by_hand", "answer")] == ["BIASED", "ok", "BIASED", "BIASED"]
        and [t[name].cuts[0].operation for name in ("found", "answer")] == ["lt", "gt"]
    ),
    6: lambda t: len(t["rows"]) == 186 and 1.5 < t["ratio"] < 2.6 and len(list(t["folder"].iterdir())) > 3,
}


def run(path, most, monkeypatch, folder):
    """The names that the first `most` cells of code define. They write no file."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.chdir(folder)
    namespace = {}
    for cell in [cell for cell in cells(path) if cell.is_code][:most]:
        exec(compile(cell.text, str(path), "exec"), namespace)
    assert list(folder.iterdir()) == []
    return namespace


def test_there_are_tutorials():
    assert len(FILES) >= 6
    assert [int(path.name.partition("_")[0]) for path in FILES] == list(range(1, len(FILES) + 1))
    assert len({title(path) for path in FILES}) == len(FILES)
    assert f"[{title(FILES[0])}]({FILES[0].name})" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_starts(path, monkeypatch, tmp_path):
    """The first cell of code runs, the others compile, and it ends with an exercise and its answer."""
    found = cells(path)
    assert found[0].text.startswith("# ")
    assert not found[0].is_code
    headings = [line for cell in found if not cell.is_code for line in cell.text.splitlines() if line.startswith("## ")]
    assert headings[-2:] == ["## Exercise", "## Answer"]
    assert found[-1].is_code
    for cell in found:
        assert not cell.is_code or compile(cell.text, str(path), "exec")
    run(path, 1, monkeypatch, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch, tmp_path):
    start = time.perf_counter()
    names = run(path, None, monkeypatch, tmp_path)
    assert time.perf_counter() - start < 120
    assert FACTS.get(FILES.index(path) + 1, lambda _: True)(names)


def test_notebooks_have_the_same_cells():
    """jupytext, which makes them, reads the files in the same way."""
    jupytext = pytest.importorskip("jupytext", reason="pip install '.[docs]'")
    for path in FILES:
        notebook = jupytext.reads(path.read_text(), fmt="py:percent")
        assert [
            TutorialCell(cell.cell_type == "code", cell.source.rstrip()) for cell in notebook.cells if cell.source
        ] == [TutorialCell(cell.is_code, cell.text.rstrip()) for cell in cells(path)]


def test_cells_are_read(tmp_path):
    (tmp_path / "1.py").write_text("# %% [markdown]\n# # Title\n#\n# Text\n\n# %%\nx = 1\n\n\n# %%\ny = 2\n")
    assert cells(tmp_path / "1.py") == [
        TutorialCell(False, "# Title\n\nText"),
        TutorialCell(True, "x = 1\n"),
        TutorialCell(True, "y = 2\n"),
    ]
    assert title(tmp_path / "1.py") == "Title"
