"""Other servers for MLX in the place of stock: `python -m tests.bench model --rival NAME`.

Each in an environment of its own. They mask by a Metal kernel, which no CPU has ("[metal_kernel] No
Metal back-end", rapid-mlx 0.16.10 and vllm-mlx 0.6.0 on Linux), so they answer freely there.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.environments import python_with
from tests.ports import free_port

from .servers import Server


@dataclass(frozen=True)
class Program:
    """How a rival is had and started."""

    version: str
    main: str  # MODULE:FUNCTION of its command
    prefix: str  # of its metrics' names
    options: tuple[str, ...]
    but: str  # what of it is not its default
    environment: Mapping[str, str] = field(default_factory=dict)

    def requirements(self, name: str) -> tuple[str, ...]:
        """Return what is to be installed."""
        return (f"{name}=={self.version}", "mlx[cpu]" if sys.platform == "linux" else "mlx")


# Their defaults, except that nothing is fetched or kept on disk.
PROGRAMS = {
    "rapid-mlx": Program(
        "0.16.10",
        "rapid_mlx.cli:main",
        "rapid_mlx_",
        ("--disable-disk-caches", "--disable-model-downloads", "--no-gc-control"),
        " but for --no-gc-control: else it collects garbage for 0.28 s after each answer",
        {"RAPID_MLX_TELEMETRY": "0", "RAPID_MLX_DISABLE_VERSION_CHECK": "1"},
    ),
    "vllm-mlx": Program(
        "0.6.0",
        "vllm_mlx.cli:main",
        "vllm_mlx_",
        ("--continuous-batching", "--enable-metrics", "--offline"),
        " but for batches, without which it answers one request after the other",
    ),
}


class Rival(Server):
    """A rival by its name; see `PROGRAMS`. Raises NotHere: it cannot be installed here."""

    masks = sys.platform == "darwin"

    def __init__(self, folder: Path, name: str) -> None:
        self._program = program = PROGRAMS[name]
        self._python = python_with(*program.requirements(name))
        super().__init__(folder)
        self.label, self.prefix, self.model = name, program.prefix, str(folder)
        self.title = f"{name} {program.version}"
        masked = "" if self.masks else "; it answers in free text, as its masks need Metal"
        self.about = f"{self.title}: its defaults{program.but}{masked}"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self.port = free_port()
        command = [self._python, "-m", "tests.bench.rival", self._program.main, "serve"]
        own = {"HOME": str(self._home.root), "HF_HUB_OFFLINE": "1", **self._program.environment}
        words = [str(self.folder), "--port", str(self.port), *self._program.options]
        return self._popen([*map(str, command), *words], environment=own)
