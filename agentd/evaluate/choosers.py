"""The ways to choose a label that ask a model, each with the labels in two orders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig
from agentd.config.agent import Labels as LabelRules
from agentd.errors import ConfigError
from agentd.evaluate.evaluate import CountingLLM, Setting, load_agent
from agentd.evaluate.labelled import LabelledFile
from agentd.events import NewEvent
from agentd.llm.calibration import Calibration
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import LoadedAgent
from agentd.replay.single_run import run_event

Answers = tuple[str | None, ...]  # a text's label by each order; None: the answer has none
Chooser = Callable[[str], Answers]
