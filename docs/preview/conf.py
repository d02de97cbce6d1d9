# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx settings of the documentation. No inventory is fetched: the two labels of Ansible's own that are referred to stand here."""

from __future__ import annotations

import zlib
from pathlib import Path

project = "stillframe.checkpoint"
copyright = "Stillframe contributors"  # noqa: A001
title = html_short_title = "stillframe.checkpoint"
extensions = ["sphinx.ext.intersphinx", "sphinx_antsibull_ext"]
default_role = "any"
nitpicky = True
highlight_language = "YAML+Jinja"
pygments_style = "ansible"
html_theme = "sphinx_ansible_theme"
html_theme_options = {"documentation_home_url": "index.html", "vcs_pageview_mode": "", "topbar_links": {}}
html_show_sphinx = False
html_use_index = False
html_copy_source = False

ANSIBLE = "https://docs.ansible.com/projects/ansible/devel/"
LABELS = {
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}


def inventory(path: Path) -> str:
    """Write LABELS to PATH in Sphinx' inventory format, version 2, and return the path."""
    head = "# Sphinx inventory version 2\n# Project: Ansible\n# Version: devel\n# The remainder of this file is compressed using zlib.\n"
    body = "".join(f"{name} std:label -1 {page}# {name}\n" for name, page in LABELS.items())
    path.write_bytes(head.encode() + zlib.compress(body.encode()))
    return str(path)


intersphinx_mapping = {"ansible_devel": (ANSIBLE, inventory(Path(__file__).parent / "ansible_devel.inv"))}
