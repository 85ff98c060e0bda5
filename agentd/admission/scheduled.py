"""A run of a schedule brings no file and no event: what an agent of configuration asks of one."""

from agentd.admission.version import SourceFile, Version
from agentd.config.key_lines import line_of
from agentd.errors import ConfigError
from agentd.events import FIRED_FIELDS
from agentd.task_agent.first_steps import fields_of
from agentd.task_agent.task_params import TaskParams


def check_scheduled(version: Version, toml: SourceFile) -> None:
    """Check that `first` can be filled in at each run of `schedule` and `at`.

    Raises:
        ConfigError: each of these runs would become a dead letter.
    """
    config, params = version.accepted.config, version.params
    if not config.schedules or not isinstance(params, TaskParams):
        return
    if missing := sorted(fields_of(params.steps) - set(FIRED_FIELDS)):
        key = "schedule" if config.schedule is not None else "at"
        line = line_of(toml.data.decode("utf-8-sig"), [key])
        fields = ", ".join(f"{{{field}}}" for field in missing)
        raise ConfigError(
            f"a run of `{key}` brings no {fields}, which `first` needs: each would be given up",
            where=f"{toml.origin}:{line or 0}: {key}",
            hint=f"remove `{key}`, or give it to an agent of its own whose `first` needs no event; "
            f"a run itself has {', '.join(FIRED_FIELDS)}",
        )
