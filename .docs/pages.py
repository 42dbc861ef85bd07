"""Writes the pages that are made from the code.

These are the reference, the table of estimators, the gallery, the tutorials and a few short ones.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

from links import INCLUDE

import rgrad
from experiments.common.readme import HOME, README, entries, markdown
from experiments.common.tutorials import FOLDER, cells, tutorial_files

HERE = Path(__file__).parent
ROOT = HERE.parent


class Group(NamedTuple):
    """Public names that belong together, as the facade lists them."""

    title: str
    text: str
    names: list[str]

    @property
    def page(self) -> str:
        """Named after the first public name. `distribution` and `Distribution` must differ in more than their case."""
        first = self.names[0]
        return f"reference/{'type-' if inspect.isclass(getattr(rgrad, first)) else ''}{first.lower()}"


def groups() -> list[Group]:
    """The groups of `rgrad.__all__`: its comments are their titles. One that starts with `...` goes on with the last."""
    stub = (ROOT / "rgrad" / "__init__.pyi").read_text(encoding="utf-8")
    found: list[Group] = []
    comment = ""
    for line in stub.partition("__all__ = [")[2].splitlines():
        line = line.strip()
        if line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif line.startswith('"'):
            if comment:
                if comment.startswith("... "):
                    comment = found[-1].text.removesuffix("...") + comment.removeprefix("... ")
                title = re.split(r"[.;:](?:\s|$)| \.\.\.$", comment)[0]
                found.append(Group(title, comment, []))
                comment = ""
            found[-1].names.append(ast.literal_eval(line.rstrip(",")))
    return found


def first_sentence(name: str) -> str:
    """The start of the docstring, as Markdown. A few constants have none."""
    text = " ".join((inspect.getdoc(getattr(rgrad, name)) or "").split("\n\n")[0].split())
    return re.split(r"(?<!e\.g)(?<!i\.e)\.(?:\s|$)|: `|:$", text)[0]


def members(cls: type) -> list[str]:
    """Directives for the fields, properties and methods that rgrad documents. Those of a library's base are left out."""
    own = [c for c in cls.__mro__ if c.__module__.startswith("rgrad.") and c.__name__ != "Printed"]
    found = dict.fromkeys(getattr(cls, "_fields", ()), "attribute")
    for name, value in (pair for c in own for pair in vars(c).items()):
        value = getattr(value, "__func__", value)
        public = not name.startswith("_") or (name == "__call__" and "_is_protocol" not in vars(cls))
        if public and getattr(value, "__doc__", None) and (isinstance(value, property) or inspect.isfunction(value)):
            found.setdefault(name, "property" if isinstance(value, property) else "method")
    return [f".. auto{kind}:: {name}" for name, kind in found.items()]


def entry(name: str) -> str:
    """The directive that documents a public name."""
    what = getattr(rgrad, name)
    if inspect.isclass(what):
        return "\n\n   ".join([f".. autoclass:: rgrad.{name}", *members(what)]) + "\n"
    if inspect.ismodule(what):
        return f".. automodule:: rgrad.{name}\n   :members:\n   :imported-members:\n"
    if callable(what):
        return f".. autofunction:: rgrad.{name}\n"
    kind = type(next(iter(what.values()))).__name__
    return f".. py:data:: rgrad.{name}\n\n   A read-only mapping of names to rows, of type ``{kind}``. :doc:`/estimators` shows them, and ``{kind}`` has an example.\n"


def reference() -> dict[str, str]:
    """One page for each group, and an index with the first sentence of every name."""
    lines, pages = [], {}
    for group in groups():
        title = group.title.replace("`", "``")
        text = group.text.replace("`", "``")
        intro = "" if group.text.rstrip(" .") == group.title else f"{text}\n\n"
        body = "\n".join(entry(name) for name in group.names)
        intro += "The examples assume :doc:`these lines </reference/index>`.\n\n"
        pages[f"{group.page}.rst"] = f"{title}\n{'=' * len(title)}\n\n{intro}{body}"
        lines.append(f"## [{group.title}](/{group.page}.rst)\n")
        lines += [
            f"- `rgrad.{name}`: {first_sentence(name)}" if first_sentence(name) else f"- `rgrad.{name}`"
            for name in group.names
        ]
        lines.append("")
    toc = "\n".join(f"/{group.page}" for group in groups())
    text = "Every public name, in the groups of `rgrad/__init__.pyi`. The order is that in which a reader needs them."
    start = re.findall(r">>> (.*)", rgrad.__doc__ or "")
    text += "\n\nEvery name has an example. The examples assume:\n\n```python\n" + "\n".join(start) + "\n```"
    body = "\n".join(lines)
    pages["reference/index.md"] = f"# Reference\n\n{text}\n\n{body}\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    return pages


def papers(text: str) -> str:
    """The sources of a docstring that have a link, as Markdown: authors, year, link."""
    source = " ".join(text.partition("\nSource: ")[2].split("\n\n")[0].split())
    found = []
    for words, link in re.findall(r"(.*?)(https?://\S+[\w/])", source):
        authors = re.findall(r"[A-Z][\w-]+(?:(?:, | and )[A-Z][\w-]+)*(?: et al\.)? \d{4}", words)
        found.append(f"[{authors[-1] if authors else link}]({link})")
    return "; ".join(found)


def estimators() -> str:
    """`rgrad.ESTIMATORS` as a table."""
    rows = []
    for row in rgrad.ESTIMATORS.values():
        base = getattr(rgrad, row.name.partition("+")[0])
        text = inspect.getdoc(base) or ""
        order = "all" if row.order is None else {1: "first"}.get(row.order, str(row.order))
        _, plus, variant = row.name.partition("+")
        options = getattr(row.estimator, "keywords", {})
        what = ", ".join(f"`{option}={getattr(value, '__name__', value)}`" for option, value in options.items())
        what = (what or f"`rgrad.{variant}(q)`") if plus else first_sentence(row.name)
        rows.append([
            f"`{row.name}`", what, row.kind, order, "**yes**" if row.biased else "",
            "yes" if row.compared else "", "" if plus else papers(text),
        ])  # fmt: skip
    header = ["estimator", "what it is", "kind", "derivatives", "biased", "in `rgrad.compare`", "papers"]
    table = markdown(header, rows, header)
    return f"""# Table of estimators

The rows of `rgrad.ESTIMATORS`. The names are those for `--estimators`, and for every argument that takes an estimator. Two
estimators of one kind may be wrong in the same way, so they do not confirm each other. "Derivatives" says which orders of
derivatives are right. [Which estimator should I use?](/which-estimator.md) says to which distributions each applies, and
what it costs. [The table of distributions](/distributions.md) has the details.

{table}
"""


def gallery() -> dict[str, str]:
    """A page for each experiment, which includes its README, and an index of cards."""
    cards, names, pages = [], [], {}
    for e in entries():
        own = e.name == "distributions"  # it has a page of its own
        page = "/distributions" if own else f"/gallery/{e.name}"
        if not own:
            names.append(page)
            pages[f"gallery/{e.name}.md"] = (
                f"```{{include}} /../{(HOME / e.name / README).relative_to(ROOT).as_posix()}\n```\n"
            )
        picture = f":img-top: /../experiments/{e.name}/figure.png\n:img-alt: {e.question}\n" if e.picture else ""
        card = f":::{{grid-item-card}} {e.question}\n:link: {page}\n:link-type: doc\n{picture}\n{e.answer} *({e.duration})*\n:::\n"
        cards.append(card)
    grid, toc = "\n".join(cards), "\n".join(names)
    pages["gallery/index.md"] = f"""# Gallery

Each experiment answers one question with one command.

::::{{grid}} 1 2 2 2
:gutter: 3

{grid}
::::

## How to run them

```{{include}} /../experiments/README.md
:start-after: "<!-- end -->"
```

## Where the questions come from

```{{include}} /../README.md
:start-after: "## The texts behind rgrad"
:end-before: "## "
```

```{{toctree}}
:hidden:

{toc}
```
"""
    return pages


def tutorials() -> dict[str, str]:
    """A page for each tutorial, with the code of its cells, and an index."""
    pages = {}
    for path in tutorial_files():
        name = path.relative_to(ROOT).as_posix()
        parts = [f"```python\n{cell.text}```" if cell.is_code else cell.text for cell in cells(path)]
        heading, _, text = "\n\n".join(parts).replace("](../", "](/../experiments/").partition("\n")
        file = (
            f"*This page is the file {{download}}`{name} </../{name}>`. [How to run it](index.md), also as a notebook.*"
        )
        pages[f"tutorials/{path.stem}.md"] = f"{heading}\n\n{file}\n\n{text.strip()}\n"
    readme = (FOLDER / README).relative_to(ROOT).as_posix()
    toc = "\n".join(path.stem for path in tutorial_files())
    pages["tutorials/index.md"] = f"```{{include}} /../{readme}\n```\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    return pages


def recipes() -> str:
    """The sections of the recipes that no other page includes."""
    used = set()
    for page in [*HERE.glob("*.md"), *HERE.glob("howto/*.md")]:
        if page.name != "recipes.md":
            for path, options in INCLUDE.findall(page.read_text(encoding="utf-8")):
                used |= {(path, name) for name in re.findall(r'^:start-after: "## (.*)"$', options, re.M)}
    file = "rgrad/RECIPES.md"
    sections = re.findall(r"^## (.*)$", (ROOT / file).read_text(encoding="utf-8"), re.M)
    left = [name for name in sections if (file, name) not in used]
    parts = []
    for name in left:
        last = "" if name == sections[-1] else ':end-before: "## "\n'
        parts.append(f'## {name}\n\n```{{include}} /../{file}\n:start-after: "## {name}"\n{last}```\n')
    return "# More recipes\n\n" + "\n".join(parts)


def changelog() -> str:
    if (ROOT / ".github" / "CHANGELOG.md").exists():
        return "```{include} /../.github/CHANGELOG.md\n```\n"
    return "# Changelog\n\nThis version has no list of changes.\n"


def citing() -> str:
    """The entry of the contributing guide, on a page of its own."""
    guide = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bibtex\n.*?```", guide, re.S)
    return f"""# Citing

If rgrad is useful for a publication, please cite it, with the version that you used (`pip show rgrad`):

{block}

Please also cite the paper of the estimator. [The table of estimators](/estimators.md) links to it.
"""


def written() -> dict[str, str]:
    """Maps each page that is made here to its text."""
    return {
        **reference(), **gallery(), **tutorials(), "estimators.md": estimators(), "recipes.md": recipes(), "changelog.md": changelog(),
        "citing.md": citing(),
    }  # fmt: skip


def on_start(app: Any) -> None:
    pages = written()
    for folder in ("reference", "gallery", "tutorials"):
        (HERE / folder).mkdir(exist_ok=True)
        for old in (HERE / folder).iterdir():
            if f"{folder}/{old.name}" not in pages:
                old.unlink()
    for name, text in pages.items():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # so that Sphinx reads only what has changed
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", on_start)
    return {"parallel_read_safe": True}
