"""The documentation site: sphinx-build -W --keep-going -b html .docs OUT

Pages that exist elsewhere in the repository are included, and the others in `.gitignore` are written by `pages.py`.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import rgrad  # noqa: E402

project = "rgrad"
author = "the rgrad authors"
release = rgrad.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_design",
    "docstrings",
    "links",
    "pages",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 3

add_module_names = False
python_maximum_signature_line_length = 88
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Objective")}  # in overloads: not the long unions

html_theme = "furo"
html_title = f"rgrad {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
