"""Looks for what is wrong with an installation, and says what to do.

`finding.py` is the words, `storage.py` the database and its folders, `machine.py` what is around
us, `setup.py` what a person wrote and started, `writers.py` who else may write that; `doctor.py`
asks them all and mends what it can.
"""

from agentd.doctor.doctor import Mended, examine, mend
from agentd.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "Mended", "examine", "mend"]
