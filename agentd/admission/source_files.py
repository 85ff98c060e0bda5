"""The files that make an agent: its module, its prompts, and the shared ones, each read once."""

from pathlib import Path

from agentd.admission.precheck import find_module_and_prompt, own_or_shipped
from agentd.admission.version import MODULE, SourceFile
from agentd.config.toml import UTF_16, as_text, unreadable
from agentd.errors import ConfigError
from agentd.paths import Paths
from agentd.whole import read_start

SOURCE_BYTES_MAX = 2_000_000  # of one module or .baml file
SHARED_BAML = ("clients.baml", "tools.baml")


def find_sources(agent: str, paths: Paths, where: str) -> list[SourceFile]:
    """Read the module and the .baml files; a person's own go before the shipped ones.

    Raises:
        Waiting: the module or its .baml file is not there; `where` names who wants it.
        ConfigError: a file cannot be read.
    """
    module, prompt = find_module_and_prompt(agent, paths, where)
    sources = [_read(module, MODULE), _read(prompt, f"baml_src/{prompt.name}")]
    for shared in SHARED_BAML:
        found = own_or_shipped(shared, paths.baml_src, "baml_src")
        if found is None:
            raise ConfigError("is missing", where=shared, hint="install agentd again")
        if prompt.name != shared:
            sources.append(_read(found, f"baml_src/{shared}"))
    return sources


def _read(path: Path, place: str) -> SourceFile:
    try:
        data = read_start(path, SOURCE_BYTES_MAX + 1)
    except OSError as error:
        raise unreadable(error, path) from error
    if len(data) > SOURCE_BYTES_MAX:
        raise ConfigError(
            f"larger than {SOURCE_BYTES_MAX} bytes", where=str(path), hint="not an agent's source"
        )
    return SourceFile(path, place, _text(data, path))


def _text(data: bytes, path: Path) -> bytes:
    """Return a module's or a prompt's content as Python and BAML read it.

    BAML takes a byte order mark for a wrong keyword. Python reads more encodings than UTF-8, where
    they are declared; but neither a NUL nor UTF-16.
    """
    odd = data.startswith(UTF_16) or b"\0" in data
    if path.suffix == ".py" and not odd:
        return data
    try:
        return as_text(data, path).encode()
    except ConfigError as error:
        what = f"does not compile: it {error.what}"
        raise ConfigError(what, where=error.where, hint=error.hint) from error
