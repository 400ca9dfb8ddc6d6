"""The site: sphinx-build -W docs build/docs, or make docs.  Needs no network."""

import sys
from pathlib import Path

import tinyconv

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "tinyconv"
author = copyright = "the tinyconv authors"
release = version = tinyconv.__version__

extensions = [
    "sphinx.ext.autodoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "live",
    "reference",
    "gallery",
]
exclude_patterns = ["_ext", "gallery/**/*.py", "gallery/*.ipynb", "gallery/*.zip"]
suppress_warnings = ["config.cache"]  # functions in the gallery's settings cannot be pickled

html_theme = "furo"
html_title = "tinyconv"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
pygments_dark_style = "github-dark"

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method without words of its own is its base class's
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

# What the tests run, too: small settings of each example.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "reset_argv": "gallery.small",
    "image_scrapers": ("gallery.files",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # its table asks the network for a script
    "show_signature": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
}
