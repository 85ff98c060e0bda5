"""An agent's code for a replay: as it is now, or as a kept version has it.

No folder of a daemon is written. Prompts are compiled once per content, into a workshop that many
replays share.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agentd.admission.compile import BAML_VERSION, compile_client
from agentd.admission.mcp_sources import mcp_sources
from agentd.admission.precheck import Waiting
from agentd.admission.source_files import find_sources
from agentd.admission.version import (
    MODULE,
    Accepted,
    SourceFile,
    Version,
    digest_of,
    make_version,
    module_of,
    verified_manifest,
)
from agentd.config.agent import AgentConfig
from agentd.errors import RecordingError
from agentd.mcp.definitions import FILE
from agentd.mcp.pins import Pins
from agentd.paths import Paths

# Of a configuration, what makes up the agent.
MAKES = ("agent", "done", "params", "result", "limits", "permissions", "approve")
PROMPTS = "baml_src/"  # their place in a version's folder


@dataclass(frozen=True)
class Code:
    """A module, and the folder in which its prompts' client is."""

    module: SourceFile
    folder: Path
    sources: Mapping[str, str]  # digests by place
    hash: str = ""  # of the version's folder; empty: not a kept one

    def version(self, name: str, config: AgentConfig, where: str) -> Version:
        """Import the module for a configuration; `where` stands in errors.

        Raises:
            ConfigError: the configuration does not fit this code, or the module fails.
        """
        accepted = Accepted(name, self.hash, self.hash, self.folder, config)
        return make_version(accepted, self.module, Path(where))

    def changed(self, sources: Mapping[str, str]) -> list[str]:
        """Return the places whose content is another in `sources`."""
        return sorted(
            place
            for place in self.sources.keys() | sources.keys()
            if self.sources.get(place) != sources.get(place)
        )


class Workshop:
    """A temporary folder: compiled prompts, and a folder a replay. Use it as a context manager."""

    def __init__(self) -> None:
        # Resolved, and short: tools resolve what they open, and a path has its greatest length.
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-")).resolve()
        self._folders = 0

    @contextmanager
    def empty_folder(self) -> Iterator[Path]:
        """Yield a new empty folder, and remove it afterwards."""
        self._folders += 1
        folder = self.folder / f"s{self._folders}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def current(
        self, agent: str, paths: Paths, where: str, config: AgentConfig | None = None
    ) -> Code:
        """Return the code of `agent` as it is now: a person's own before the shipped one.

        `config`: with the MCP tools that it names, as they were accepted.

        Raises:
            RecordingError: there is no such agent any more.
            ConfigError: its prompts do not compile.
        """
        try:
            sources = find_sources(agent, paths, where)
        except Waiting as error:
            raise RecordingError(
                f"there is no agent `{agent}` here: {error.what.removesuffix(' yet')}",
                where=where,
                hint=error.hint,
            ) from error
        module = next(source for source in sources if source.place == MODULE)
        if config is not None:
            draft = Accepted(agent, "", "", Path(), config)
            sources += mcp_sources(draft, module, Path(where), paths, Pins.known)
        prompts = [s for s in sources if s.place.startswith(PROMPTS) or s.place == FILE]
        digests = {source.place: digest_of(source.data) for source in sources}
        key = digest_of(BAML_VERSION, *[(s.place, s.data) for s in prompts])
        folder = self.folder / f"c{key}"
        if not folder.exists():
            self._compile(folder, prompts)
        return Code(module, folder, digests)

    def _compile(self, folder: Path, prompts: list[SourceFile]) -> None:
        half = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        for source in prompts:
            (half / source.place).parent.mkdir(parents=True, exist_ok=True)
            (half / source.place).write_bytes(source.data)
        compile_client(half, {Path(s.place).name: s.origin for s in prompts if s.place != FILE})
        half.rename(folder)

    def kept(self, name: str, hash: str, paths: Paths) -> Code | None:
        """Return the code of an accepted version, or None where it is kept no more."""
        folder = paths.versions / name / hash
        if not hash or verified_manifest(folder) is None:
            return None
        places = [MODULE, *sorted(f"{PROMPTS}{p.name}" for p in folder.glob(f"{PROMPTS}*.baml"))]
        places += [FILE] if (folder / FILE).exists() else []
        data = {place: (folder / place).read_bytes() for place in places}
        digests = {place: digest_of(content) for place, content in data.items()}
        return Code(module_of(folder), folder, digests, hash)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()


def as_now(config: AgentConfig, now: AgentConfig) -> AgentConfig:
    """Return a recorded configuration with what makes up the agent as it is configured now."""
    return config.model_copy(update={key: getattr(now, key) for key in MAKES})
