"""What who reads what servers of others say may touch, host and discovery: next to nothing."""

import ssl

from agentd.paths import Paths
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries


def host_policy(paths: Paths, port: int | None) -> SandboxPolicy:
    """Return the policy: Python, its libraries and certificates, nothing to write or to run.

    `port`: of the proxy by which servers at URLs are reached, None without such servers. Servers'
    pipes and agents' channels are handed over.
    """
    found = ssl.get_default_verify_paths()
    certificates = filter(None, (found.cafile, found.capath))
    policy = SandboxPolicy(read=(*base_read(), *libraries(paths), *certificates))
    return policy if port is None else policy.reaching(port)
