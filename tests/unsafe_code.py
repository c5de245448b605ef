"""What no Python of ours may do, looked for in its syntax tree: a word in a comment is none."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Find", "unsafe"]

MODULES = {
    "pickle": "runs what it reads",
    "_pickle": "runs what it reads",
    "cPickle": "runs what it reads",
    "cloudpickle": "runs what it reads",
    "dill": "runs what it reads",
    "joblib": "runs what it reads",
    "jsonpickle": "runs what it reads",
    "marshal": "crashes on what it reads",
    "shelve": "is pickle",
    "telnetlib": "sends what it is told in the clear",
}
"""By module, why it is not to be imported."""

CALLS = {
    "asyncio.create_subprocess_shell": "goes through a shell",
    "commands.getoutput": "goes through a shell",
    "eval": "runs a text",
    "exec": "runs a text",
    "logging.config.fileConfig": "evaluates what stands in the file",
    "logging.config.listen": "takes pickles and code from a socket",
    "logging.handlers.SocketHandler": "sends pickles",
    "numpy.lib.format.read_array": "may read pickles",
    "os.popen": "goes through a shell",
    "os.system": "goes through a shell",
    "pandas.read_pickle": "is pickle",
    "pyarrow.PyExtensionType": "is pickle",
    "pyarrow.deserialize": "is pickle",
    "ssl._create_unverified_context": "believes every certificate",
    "subprocess.getoutput": "goes through a shell",
    "subprocess.getstatusoutput": "goes through a shell",
    "tempfile.mktemp": "names a file that another may make first",
    "torch.hub.load": "fetches code and runs it",
    "torch.package.PackageImporter": "runs what it reads",
    "yaml.full_load": "builds more than plain data",
    "yaml.unsafe_load": "runs what it reads",
    "yaml.unsafe_load_all": "runs what it reads",
}
"""By full name, what is wrong with it, called or handed on."""

METHODS = {
    "recv_pyobj": "is pickle from a socket",
    "send_pyobj": "is pickle to a socket",
    "read_pickle": "is pickle",
    "to_pickle": "is pickle",
}
"""By name alone: what they are methods of is seen only at run time."""


def _is(value: object) -> Callable[[ast.expr | None], bool]:
    return lambda given: isinstance(given, ast.Constant) and given.value is value


def _absent_or(value: object) -> Callable[[ast.expr | None], bool]:
    same = _is(value)
    return lambda given: given is None or same(given)


def _safe_loader(given: ast.expr | None) -> bool:
    return given is not None and ast.unparse(given).endswith(("SafeLoader", "BaseLoader"))


ONLY_WITH: dict[str, tuple[str, Callable[[ast.expr | None], bool], str]] = {
    "torch.load": ("weights_only", _is(True), "is pickle without weights_only=True"),
    "numpy.load": ("allow_pickle", _absent_or(False), "is pickle with allow_pickle"),
    "numpy.save": ("allow_pickle", _absent_or(False), "is pickle with allow_pickle"),
    "hashlib.md5": ("usedforsecurity", _is(False), "is broken, and may be meant for security"),
    "hashlib.sha1": ("usedforsecurity", _is(False), "is broken, and may be meant for security"),
    "yaml.load": ("Loader", _safe_loader, "runs what it reads without a safe loader"),
    "yaml.load_all": ("Loader", _safe_loader, "runs what it reads without a safe loader"),
}
"""By full name: an argument, what it must be, and what the call is otherwise."""

ARGUMENTS = {
    "shell": (_is(False), "goes through a shell"),
    "trust_remote_code": (_is(False), "runs code that comes with a model"),
}
"""Of any call: what an argument must be where it is given."""


_LAST = {name.rpartition(".")[2] for name in (*CALLS, *ONLY_WITH)}
_WORDS = re.compile(
    rf"import \*|\b({'|'.join(sorted({*MODULES, *METHODS, *ARGUMENTS, *_LAST, 'hashlib'}))})\b"
)


class Find(NamedTuple):
    """One thing that must not be there."""

    line: int
    what: str
    """The full name, or the argument."""
    why: str


def unsafe(source: str, name: str = "<source>") -> list[Find]:
    """What a file must not do, in the order of its lines."""
    if _WORDS.search(source) is None:  # a file without any of the words does none of it
        return []
    tree = ast.parse(source, name)
    return sorted(set(_Search(tree).finds()))


class _Search:
    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._names: dict[str, str] = {}
        """What a name of this file stands for, wherever it was imported."""
        self._called: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self._names[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Call):
                self._called.add(id(node.func))

    def finds(self) -> Iterator[Find]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._module(node, alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from self._module(node, node.module)
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield from self._module(node, full)
                    if alias.name == "*":
                        yield Find(node.lineno, full, "hides what comes in")
            elif isinstance(node, ast.Call):
                yield from self._call(node)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
                yield from self._mention(node)

    def _module(self, node: ast.stmt | ast.expr, name: str) -> Iterator[Find]:
        parts = name.split(".")
        # Libraries hand it on: `from joblib.externals import cloudpickle`.
        for part in {parts[0], parts[-1]} & MODULES.keys():
            yield Find(node.lineno, name, MODULES[part])

    def _mention(self, node: ast.Attribute | ast.Name) -> Iterator[Find]:
        name = self._full(node)
        if name in CALLS:
            yield Find(node.lineno, name, CALLS[name])
        elif name in ONLY_WITH and id(node) not in self._called:
            yield Find(node.lineno, name, f"{ONLY_WITH[name][2]}, and here nobody sees how")
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield Find(node.lineno, node.attr, METHODS[node.attr])

    def _call(self, node: ast.Call) -> Iterator[Find]:
        name = self._full(node.func)
        given = {word.arg: word.value for word in node.keywords if word.arg}
        if name in ONLY_WITH:
            word, right, why = ONLY_WITH[name]
            if not right(given.get(word)):
                yield Find(node.lineno, name, why)
        if name in ("__import__", "importlib.import_module") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield from self._module(node, first.value)
        if name == "hashlib.new" and node.args and isinstance(node.args[0], ast.Constant):
            yield from self._call_by_name(node, f"hashlib.{node.args[0].value}".lower(), given)
        for word, (right, why) in ARGUMENTS.items():
            if word in given and not right(given[word]):
                yield Find(node.lineno, word, why)

    def _call_by_name(
        self, node: ast.Call, name: str, given: dict[str, ast.expr]
    ) -> Iterator[Find]:
        if name in ONLY_WITH and not ONLY_WITH[name][1](given.get(ONLY_WITH[name][0])):
            yield Find(node.lineno, name, ONLY_WITH[name][2])

    def _full(self, node: ast.expr) -> str | None:
        """The name that an expression has where it was made, None where it is no plain name."""
        if isinstance(node, ast.Name):
            known = self._names.get(node.id, node.id)
            return known.removeprefix("builtins.")
        if isinstance(node, ast.Attribute):
            owner = self._full(node.value)
            return None if owner is None else f"{owner}.{node.attr}".removeprefix("builtins.")
        return None
