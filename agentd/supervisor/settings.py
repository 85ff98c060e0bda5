"""agentd.toml while the supervisor runs: read again at a change, applied, kept if it is right."""

from agentd.config.daemon import DaemonConfig, load_daemon
from agentd.config.last_good import keep
from agentd.errors import AgentdError, ConfigError, Problem, StorageError
from agentd.logs import logger as log
from agentd.paths import Paths
from agentd.sandbox.level import reached
from agentd.supervisor.agents import Agents
from agentd.supervisor.helpers import Helpers
from agentd.supervisor.housekeeping import Housekeeping
from agentd.supervisor.model import ModelHost
from agentd.supervisor.restart import Rules

LATER = ("logs", "bus")  # tables that workers and model server read when they start


class Settings:
    """`config`: what holds. `problem`: what is wrong with the file as it is now."""

    def __init__(
        self, paths: Paths, config: DaemonConfig, problem: ConfigError | None, logger: log.Logger
    ) -> None:
        self.config = config
        self.problem: Problem | None = None
        self._paths, self._log = paths, logger
        self._note(problem)

    def sandbox(self) -> dict[str, str]:
        """Return how much of a sandbox there is, why not all, and what agentd.toml asks for."""
        level = reached()
        wanted = self.config.sandbox.level
        return {"level": level.name, "why": level.why, "wanted": wanted}

    def reload(
        self, model: ModelHost, agents: Agents, housekeeping: Housekeeping, helpers: Helpers
    ) -> bool:
        """Apply the file as it is now; a wrong one changes nothing. True: something is new."""
        try:
            new = load_daemon(self._paths.daemon_file)
            model.reconfigure(new)
        except (ConfigError, StorageError) as error:
            self._note(error)
            return False
        repaired = self.problem is not None
        old, self.config = self.config, new
        self._note(None)
        changed = [key for key in type(new).model_fields if getattr(new, key) != getattr(old, key)]
        if repaired or changed:
            agents.restart_after_config(everyone="model" in changed)
        if changed:
            log.set_limits(new.logs)
            housekeeping.configure(new)
            rules = Rules.of(new.supervisor)
            agents.set_rules(rules)
            model.managed.life.rules = rules
            if "mcp" in changed:
                helpers.mcp.configure()
                agents.reload()
            helpers.ui.configure()
            if "deliver" in changed:
                helpers.deliver.configure()
                helpers.watcher.reread()
            later = [key for key in changed if key in LATER]
            self._log.info("config.reloaded", changed=changed, workers_at_their_next_start=later)
        return bool(repaired or changed)

    def _note(self, problem: AgentdError | None) -> None:
        """Keep agentd.toml for the children and the next start, or say what is wrong with it."""
        if problem is not None:
            self.problem = problem.document()
            self._log.error("config.refused", **self.problem)
            return
        self.problem = None
        try:
            keep(self._paths)
        except OSError as error:  # tried again at the next start; until then an older one is kept
            self._log.error("config.not_kept", what=str(error))
