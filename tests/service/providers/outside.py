"""What is tolerated of vendors: kinds of faults, each with the cases that show it in each wire format.

The tests play them through the service, and the matrix of docs/providers.md is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.service.providers.outside_answers import ANSWERS
from tests.service.providers.outside_failures import FAILURES
from tests.service.providers.outside_vendor import Case

KINDS: Mapping[str, Mapping[str, Sequence[Case]]] = ANSWERS | FAILURES
