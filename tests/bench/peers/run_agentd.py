"""The same task as a session of agentd, as a worker runs it: every step is durable.

URL BAML_CLIENT HOME
"""

import sys
from pathlib import Path

from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.paths import discover
from tests.bench.turn import Bench, baml

from .rounds import URL, take_turns

address = Address(URL, "fake", "")
bench = Bench(discover({"AGENTD_HOME": sys.argv[3]}))
llm = baml(Path(sys.argv[2]), Endpoint(lambda: address, own=True))
take_turns(lambda: bench.session(llm))
