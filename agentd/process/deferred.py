"""Imports of packages that bring along what an idle worker never uses.

    with deferred("asyncio"):
        import structlog

There is a worker per agent, and hands for each that works: what one does not load is saved often.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Let what is imported inside get placeholders for these modules, if they are not loaded yet.

    A placeholder imports its module when something of it is first called. Only for modules of which
    nothing is used while the importing module is loaded, and only at the start of a process:
    another thread would get the placeholder too. A package's submodules cannot be imported inside.
    """
    missing = {name: _Placeholder(name) for name in names if name not in sys.modules}
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name, placeholder in missing.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while modules are imported: nothing of them is, and it takes 2 ms."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Placeholder(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is not self:
            return getattr(importlib.import_module(self.__name__), attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), attribute)(*args, **kwargs)

        return call
