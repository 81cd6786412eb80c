# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that lie elsewhere in the repository, so that no text stands twice.

README, CONTRIBUTING, CHANGELOG, SECURITY, the sample's page and the results of benchmarks become pages, and the links
of every page lead to pages. A link to any other file of the repository becomes plain text: the site stands alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"
ADDRESSES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "samples/README.md": "sample.md",
    **{
        f"{RESULTS}/{path.name}": f"results/{path.name}"
        for path in sorted((ROOT / RESULTS).iterdir())
        if path.suffix in (".md", ".png")
    },
}
_SOURCES = {address: source for source, address in ADDRESSES.items()}
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\[\]]+)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere; called by mkdocs once."""
    for source, address in ADDRESSES.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages; called by mkdocs for each page."""
    address = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(address, f"docs/{address}"))
    return _LINK.sub(lambda link: _turned(link, folder, posixpath.dirname(address)), markdown)


def _turned(link: re.Match[str], folder: str, here: str) -> str:
    """A link as the page has it.

    Args:
        link: As the file has it.
        folder: Of the file, in the repository.
        here: Folder of the page, in the site.

    Raises:
        FileNotFoundError: The repository has no such file.
    """
    whole = posixpath.normpath(posixpath.join(folder, link["target"]))
    if not (ROOT / whole).exists():
        raise FileNotFoundError(f"{folder or '.'}: {link['target']} is no file of the repository")
    address = whole.removeprefix("docs/") if whole.startswith("docs/") else ADDRESSES.get(whole)
    if address is None:
        return link["text"]
    return f"{link['picture']}[{link['text']}]({posixpath.relpath(address, here or '.')}{link['anchor'] or ''})"
