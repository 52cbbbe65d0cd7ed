"""The documentation site: `scripts/docs` builds it."""

import re
from importlib.metadata import version as version_of

project = "oc2d"
copyright = "oc2d developers"  # noqa: A001 - Sphinx's name
release = version_of("oc2d")
extensions = ["myst_parser"]
exclude_patterns = ["decisions/000-template.md"]
html_theme = "alabaster"
html_theme_options = {"description": "OpenC2 Consumer", "fixed_sidebar": True, "page_width": "70em"}
html_copy_source = False
myst_heading_anchors = 4


def setup(app):
    """Name what links to files of the source: they are no part of the site."""

    def read(_app, _name, source):
        source[0] = re.sub(r"\[([^]]+)\]\((?:\.\./)+(?!docs/)[^)]*\)", r"\1", source[0])

    app.connect("source-read", read)
