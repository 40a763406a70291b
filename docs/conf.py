"""How the site is built: `make docs`. Sphinx reads the pages as they are, and runs the notebooks."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from senet import __version__  # noqa: E402

project = "senet"
author = "The senet developers"
copyright = "The senet developers, Apache-2.0"  # noqa: A001
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_pages"]
exclude_patterns = ["jupyter_execute"]
html_theme = "furo"
templates_path = ["_templates"]
html_title = f"senet {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_links_external_new_tab = False
nb_execution_mode = "cache"  # a notebook that has not changed is not run again
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # a cell on a busy machine
nb_merge_streams = True

default_role = "code"  # docstrings have `names` in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = True  # a reference inside senet that leads nowhere is an error; other libraries' are not looked up
nitpick_ignore_regex = [("py:.*", r"(?!senet\.).*"), ("py:.*", r"senet\.\w+\..*")]
