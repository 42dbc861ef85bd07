"""Docstrings are in Google style, with Markdown's single backticks and indented code. Sphinx reads reStructuredText."""

import ast
import inspect
import re
import textwrap
from typing import Any

FIELDS = {"Args:": ":param {}:", "Returns:": ":returns:", "Raises:": ":raises {}:"}
ENTRY = re.compile(r"    ([\w.*]+): (.*)")
CODE = re.compile(r"`([^`]+)`")
OUTSIDE = re.compile(r"\||(?<=\w)_(?!\w)|(?<=\w)\*\*(?=\d)")
"""What reStructuredText would take for a reference or for bold, outside code."""
ADDRESS = re.compile(r"<(?:function|class) '?([\w.]+)'?(?: at 0x\w+)?>")


def converted(text: str) -> str:
    """The docstring in reStructuredText: sections become fields, and indented code and the example become code blocks.

    Napoleon is not used: it reads the words before a colon as a type, in `Returns:` and in the text of an attribute.
    """
    lines, found, prose, field = text.expandtabs().splitlines(), [], [], ""
    while lines:
        line = lines.pop(0)
        if line and not line.startswith(" "):
            field = FIELDS.get(line, "")
        if field and line in FIELDS:
            prose += ["", field] if line == "Returns:" else [""]
        elif line == "Example:":
            code = textwrap.dedent("\n".join(_indented(lines))).strip()
            found += [_prose(prose), "", ".. rubric:: Example", "", ".. code-block:: pycon", ""]
            found += [textwrap.indent(code, "    "), ""]
            prose = []
        elif field and (entry := ENTRY.fullmatch(line)) and "{}" in field:
            prose.append(f"{field.format(entry[1])} {entry[2]}")
        elif line.startswith("    ") and not field and not "".join(prose[-1:]).strip():
            code = textwrap.dedent("\n".join([line, *_indented(lines)])).rstrip()
            found += [_prose(prose), f".. code-block:: {_language(code)}", "", textwrap.indent(code, "    "), ""]
            prose = []
        else:
            prose.append(line)
    return "\n".join([*found, _prose(prose)])


def _indented(lines: list[str]) -> list[str]:
    """Takes the lines up to the next one that is not indented."""
    end = next((i for i, line in enumerate(lines) if line[:1].strip()), len(lines))
    taken, lines[:end] = lines[:end], []
    return taken


def _prose(lines: list[str]) -> str:
    parts = re.split(CODE, "\n".join(lines))
    return "".join(f"``{part}``" if i % 2 else OUTSIDE.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def _language(code: str) -> str:
    """`python` if it parses, which equations may too."""
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def on_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    text = "\n".join(lines)
    if text.startswith("Alias for field number"):  # of a NamedTuple: Python wrote it
        text = ""
    lines[:] = converted(text).splitlines()


def on_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """The annotations as they are in the source: short names instead of the unions that they stand for.

    A class has a signature if its docstring explains the arguments. The others are made by rgrad, or are protocols.
    """
    if what in ("class", "exception"):
        return None if signature is None or "Args:" in (obj.__doc__ or "") else ("", None)
    if what not in ("function", "method"):
        return None
    found = inspect.signature(obj)
    if what == "method":
        found = found.replace(parameters=[p for p in found.parameters.values() if p.name != "self"])
    source = re.sub(r"(?<=[:>] )'([^']*)'", r"\1", str(found))
    source = ADDRESS.sub(lambda match: match[1].rpartition(".")[2], source).replace("jax.jaxlib._jax.", "")
    arguments, arrow, result = source.rpartition(" -> ")
    return (arguments, result) if arrow else (source, None)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    return {"parallel_read_safe": True}
