"""MkDocs hook: what the site takes from outside docs/, and the checks that a strict build makes of it.

- The node reference: a page for each node, from its help page (web/docs) and its declaration (INPUT_TYPES,
  RETURN_TYPES, CATEGORY, tooltips). The pack is imported by path, without ComfyUI; PyTorch must be installed.
- Pages elsewhere in the repository (`PAGES`, and every README.md below studies/) become pages of the site.
- A relative link out of docs/ is written as GitHub shows it. On the site it leads to the page made of its
  target, to a copy of a picture, or to the repository. A target that does not exist is a warning.
- The Python reference names every public name of the core.

Every warning fails a strict build.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS, HELP = "docs", "web/docs"
PACK = "my3dgen_pack_for_docs"
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "my3dgen_core/starter/CARD.md": "starter.md",
}
"""Pages of the site that stand elsewhere in the repository, and where they come on the site."""
CHECKED = ("README.md", "SECURITY.md")
"""No pages of the site, but their links are checked too."""
CATEGORIES = ("Person", "Latents", "Cameras", "Output")
"""Order of the node reference; other categories follow."""
NODES_MARK = "<!-- nodes -->"
"""Mark in docs/nodes.md that the table of all nodes replaces."""
API_PAGE = "docs/api.md"
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".svg", ".gif"}

log = logging.getLogger("mkdocs.hooks.docs_site")
_LINK = re.compile(r"(\]\(|<img [^>]*?src=\")([^)\s\"]+)")
_IMAGE = re.compile(r'<img src="([^"]+)" alt="([^"]*)" width="(\d+)">')
_FENCE = re.compile(r"^\s*(```|~~~)")
_PYTHON_REFERENCE = re.compile(r"^::: my3dgen_core\.(\w+)$", re.MULTILINE)


# --- Hooks ------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the nodes of each category to the section "Nodes" of the navigation."""
    assert config.nav is not None
    section = next(entry["Nodes"] for entry in config.nav if isinstance(entry, dict) and "Nodes" in entry)
    for category, nodes in by_category().items():
        section.append({category: [{node.name: node.page} for node in nodes]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, those from elsewhere in the repository, and the pictures that pages show."""
    from mkdocs.structure.files import File

    texts = {node.page: node.markdown() for nodes in by_category().values() for node in nodes}
    for source, page in outside_pages().items():
        if not source.startswith(f"{HELP}/"):
            texts[page] = (ROOT / source).read_text(encoding="utf-8")
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for file in list(files.documentation_pages()):
        source = source_of(file.src_uri)
        for picture in pictures_of(source, texts.get(file.src_uri) or file.content_string):
            if files.get_file_from_path(picture) is None:
                data = (ROOT / picture).read_bytes()
                files.append(File.generated(config, picture, content=data))
    check_links(config)
    check_python_reference()
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links out of docs/, and fill in what is generated."""
    source = source_of(page.file.src_uri)
    if source == API_PAGE:
        public = public_names()
        return _PYTHON_REFERENCE.sub(lambda found: found[0] if found[1] in public else "", markdown)
    markdown = _IMAGE.sub(
        r'![\2](\1){ width="\3" }', markdown
    )  # GitHub knows no attributes of Markdown's images
    text = rewrite_links(markdown, lambda target: site_link(source, page.file.src_uri, target, config))
    return text.replace(NODES_MARK, nodes_table())


# --- Links ------------------------------------------------------------------------------------------------


@functools.cache
def outside_pages() -> dict[str, str]:
    """Path in the repository -> page of the site, of all pages that do not stand in docs/."""
    pages = dict(PAGES)
    for path in sorted((ROOT / "studies").rglob("README.md")):
        source = path.relative_to(ROOT).as_posix()
        pages[source] = source.replace("README.md", "index.md")
    pages |= {f"{HELP}/{node.id}.md": node.page for nodes in by_category().values() for node in nodes}
    return pages


def source_of(page: str) -> str:
    """Path in the repository of the text of a page of the site."""
    for source, outside in outside_pages().items():
        if outside == page:
            return source
    return f"{DOCS}/{page}"


def rewrite_links(text: str, change: Callable[[str], str]) -> str:
    """`text` with every relative link outside of code blocks replaced by `change(target)`."""
    lines, fenced = [], False
    for line in text.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        if not fenced:
            line = _LINK.sub(lambda m: m[1] + (change(m[2]) if is_relative(m[2]) else m[2]), line)
        lines.append(line)
    return "\n".join(lines)


def is_relative(target: str) -> bool:
    return not re.match(r"[a-z]+:|#|/", target)


def target_path(source: str, target: str) -> str:
    """Path in the repository that a link in the file `source` leads to; a folder without its last slash."""
    return os.path.normpath(os.path.join(os.path.dirname(source), target)).replace(os.sep, "/")


def site_link(source: str, page: str, target: str, config: MkDocsConfig) -> str:
    """The link that `target`, a link in the file `source`, becomes on the page `page` of the site."""
    path, _, anchor = target.partition("#")
    found = target_path(source, path)
    if not (ROOT / found).exists():
        log.warning("'%s' has a link to '%s', which does not exist.", source, target)
        return target
    if (ROOT / found).is_dir() and (ROOT / found / "README.md").is_file():
        found = f"{found}/README.md"
    if found.startswith(f"{DOCS}/"):
        place = found.removeprefix(f"{DOCS}/")
    elif found in outside_pages():
        place = outside_pages()[found]
    elif Path(found).suffix.lower() in PICTURES:
        place = found
    else:
        kind = "tree" if (ROOT / found).is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{found}" + (f"#{anchor}" if anchor else "")
    relative = os.path.relpath(place, os.path.dirname(page) or ".").replace(os.sep, "/")
    return relative + (f"#{anchor}" if anchor else "")


def pictures_of(source: str, text: str) -> list[str]:
    """Paths of the pictures outside docs/ that the text of the file `source` shows or links to."""
    found: list[str] = []

    def collect(target: str) -> str:
        path = target_path(source, target)
        outside = not path.startswith(f"{DOCS}/") and (ROOT / path).is_file()
        if outside and Path(path).suffix.lower() in PICTURES:
            found.append(path)
        return target

    rewrite_links(text, collect)
    return found


def check_links(config: MkDocsConfig) -> None:
    """Warn of dead links in the files that GitHub shows and the site does not."""
    for source in CHECKED:
        link = functools.partial(site_link, source, "index.md", config=config)
        rewrite_links((ROOT / source).read_text(encoding="utf-8"), link)


# --- Python reference -------------------------------------------------------------------------------------


@functools.cache
def public_names() -> frozenset[str]:
    """`my3dgen_core.__all__`, read without importing it."""
    tree = ast.parse((ROOT / "my3dgen_core" / "__init__.py").read_text(encoding="utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(statement.value))
    raise ValueError("my3dgen_core/__init__.py has no __all__.")


def check_python_reference() -> None:
    """Warn of public names that docs/api.md lacks; mention those that it has and the core does not export."""
    listed = set(_PYTHON_REFERENCE.findall((ROOT / API_PAGE).read_text(encoding="utf-8")))
    if missing := public_names() - listed:
        log.warning("'%s' lacks public names: %s.", API_PAGE, ", ".join(sorted(missing)))
    if unknown := listed - public_names():
        log.info("'%s' leaves out what is not public: %s.", API_PAGE, ", ".join(sorted(unknown)))


# --- Node reference ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A node of the pack, for its page."""

    id: str
    name: str
    cls: Any
    inputs: dict[str, dict[str, tuple[Any, ...]]]

    @property
    def page(self) -> str:
        return f"nodes/{self.id}.md"

    @property
    def category(self) -> str:
        return str(self.cls.CATEGORY).split("/")[-1]

    @property
    def description(self) -> str:
        return str(getattr(self.cls, "DESCRIPTION", "")).strip()

    def markdown(self) -> str:
        """The page: the help page with its title, then the tables of inputs and outputs."""
        file = ROOT / HELP / f"{self.id}.md"
        if not file.is_file():
            log.warning("The node %s has no help page %s/%s.md.", self.id, HELP, self.id)
            return f"# {self.name}\n\n{self.description}\n\n{self._tables()}"
        title, _, text = file.read_text(encoding="utf-8").partition("\n")
        if title.removeprefix("# ").strip() != self.name:
            log.warning("%s/%s.md is titled '%s'; the node is '%s'.", HELP, self.id, title, self.name)
        place = f"`{self.id}` in *{self.cls.CATEGORY}*"
        return f"# {self.name}\n\n{place}\n\n{text.strip()}\n\n{self._tables()}"

    def _tables(self) -> str:
        parts = []
        rows = [
            _row(f"`{name}`", _type(entry[0]), _default(entry), _range(entry), _options(entry).get("tooltip"))
            for kind in ("required", "optional")
            for name, entry in self.inputs.get(kind, {}).items()
        ]
        if rows:
            head = _row("input", "type", "default", "values", "what it does"), "|---" * 5 + "|"
            parts.append("\n".join(["## Inputs", "", *head, *rows]))
        types = tuple(self.cls.RETURN_TYPES)
        names = getattr(self.cls, "RETURN_NAMES", types)
        tips = getattr(self.cls, "OUTPUT_TOOLTIPS", ("",) * len(types))
        if types:
            head = _row("output", "type", "what it is"), "|---" * 3 + "|"
            outputs = [_row(f"`{n}`", f"`{t}`", tip) for n, t, tip in zip(names, types, tips, strict=True)]
            parts.append("\n".join(["## Outputs", "", *head, *outputs]))
        return "\n\n".join(parts) + "\n"


def _options(entry: tuple[Any, ...]) -> dict[str, Any]:
    return entry[1] if len(entry) > 1 else {}


def _type(kind: Any) -> str:
    return "choice" if isinstance(kind, (list, tuple)) else f"`{kind}`"


def _default(entry: tuple[Any, ...]) -> str:
    value = _options(entry).get("default", entry[0][0] if isinstance(entry[0], list) and entry[0] else None)
    return "" if value is None or value == "" else f"`{value}`"


def _range(entry: tuple[Any, ...]) -> str:
    options = _options(entry)
    if isinstance(entry[0], (list, tuple)):
        return ", ".join(f"`{choice}`" for choice in entry[0])
    if "min" in options and "max" in options:
        return f"{options['min']:,} to {options['max']:,}"
    return ""


def _row(*cells: str | None) -> str:
    return "| " + " | ".join((cell or "").replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


@functools.cache
def by_category() -> dict[str, list[Node]]:
    """All nodes by category, each in the order in which the pack registers them."""
    pack = _pack()
    found: dict[str, list[Node]] = {category: [] for category in CATEGORIES}
    with _empty_folder():  # lists of files show what comes with the pack, not what lies on this machine
        for name, cls in pack.NODE_CLASS_MAPPINGS.items():
            node = Node(name, pack.NODE_DISPLAY_NAME_MAPPINGS[name], cls, cls.INPUT_TYPES())
            found.setdefault(node.category, []).append(node)
    return {category: nodes for category, nodes in found.items() if nodes}


def _pack() -> ModuleType:
    """The pack, imported by path as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    """An empty working folder for the length of the block."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def nodes_table() -> str:
    """The table of all nodes for docs/nodes.md, by category."""
    parts = []
    for category, nodes in by_category().items():
        rows = [_row(f"[{node.name}](nodes/{node.id}.md)", node.description) for node in nodes]
        parts.append("\n".join([f"## {category}", "", _row("node", "what it does"), "|---|---|", *rows]))
    return "\n\n".join(parts)
