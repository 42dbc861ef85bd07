"""Links between the files of the repository become links between the pages that include them.

In code, `rgrad.NAME` and the names of estimators become links to the API reference, also in the chart.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import rgrad

HERE = Path(__file__).parent
INCLUDE = re.compile(r"^```\{include\} /\.\./(\S+)\n((?::.*\n)*)", re.M)
TARGET = re.compile(r'(\]\(|src=")([^)\s"]+)(?=[)"])')
PUBLIC = re.compile(r"rgrad\.([a-zA-Z]\w*)(?:\(.*\))?", re.S)
NAME = re.compile(r"(?<![\w.])[a-z]\w+(?![\w=])")
HOME = {
    ("README.md", ""): "index",
    ("rgrad/RECIPES.md", ""): "howto/index",
    ("rgrad/ESTIMATORS.md", ""): "estimators",
}


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


@cache
def places() -> dict[tuple[str, str], str]:
    """Maps a file of the repository, and a section of it, to the page that includes it."""
    found = dict(HOME)
    for page in sorted(HERE.rglob("*.md")):
        name = page.relative_to(HERE).with_suffix("").as_posix()
        for path, options in INCLUDE.findall(page.read_text(encoding="utf-8")):
            section = re.search(r'^:start-after: "## (.*)"$', options, re.M)
            found.setdefault((path, slug(section[1]) if section else ""), name)
        if name.startswith("tutorials/"):
            found[f"experiments/{name}.py", ""] = name
    return found


def on_include(app: Any, path: Path, page: str, content: list[str]) -> None:
    """Rewrites the links of an included file. A file that no page includes is offered as a download."""
    name = posixpath.normpath(posixpath.join(HERE.name, path.as_posix()))

    def rewritten(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if "://" in target or not target:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        where = places().get((file, anchor)) or places().get((file, ""))
        if where is None:
            return f"{match[1]}/../{file}"
        return f"{match[1]}/{where}.md" + (f"#{anchor}" if anchor else "")

    content[0] = TARGET.sub(rewritten, content[0])


def reference(text: str, name: str, node: nodes.Node) -> nodes.Node:
    """A link to the entry of a public name."""
    link = addnodes.pending_xref("", node, refdomain="py", reftype="obj", reftarget=f"rgrad.{name}", refexplicit=True)
    link["refwarn"] = True
    return link


class LinkNames(SphinxTransform):
    """Code that is a public name links to its entry."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        in_reference = self.env.docname.startswith("reference/")
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, nodes.reference | addnodes.pending_xref):
                continue
            text = node.astext()
            match = PUBLIC.fullmatch(text)
            name = match[1] if match else text.partition("+")[0]
            if name in rgrad.__all__ and (match or text in rgrad.ESTIMATORS or in_reference):
                node.replace_self(reference(text, name, node.deepcopy()))
        for node in list(self.document.findall(nodes.literal_block)):
            if "──" in node.astext():
                node.replace_self(chart(node.astext()))


def chart(text: str) -> nodes.literal_block:
    """The chart of estimators, each name a link."""
    block, done = nodes.literal_block("", "", classes=["chart"]), 0
    for match in NAME.finditer(text):
        if match[0] in rgrad.ESTIMATORS or (match[0] in rgrad.__all__ and "_" in match[0]):
            block += [
                nodes.Text(text[done : match.start()]),
                reference(match[0], match[0], nodes.literal("", match[0])),
            ]
            done = match.end()
    block += nodes.Text(text[done:])
    return block


def setup(app: Any) -> dict[str, bool]:
    app.connect("include-read", on_include)
    app.add_transform(LinkNames)
    return {"parallel_read_safe": True}
