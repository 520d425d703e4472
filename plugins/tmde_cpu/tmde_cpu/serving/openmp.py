"""Configure how OpenMP's threads wait for one another in TMDE's child processes."""

from __future__ import annotations

from types import MappingProxyType

WAITING = MappingProxyType({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "200"})
"""Environment variables. Threads that spin for long lose all but a few per cent of their speed beside another busy
process. Threads that sleep at once lose half of their speed on an idle machine, because a token of a small model has
hundreds of very short parallel parts. Measured with the embedded model on two cores, generated tokens per second alone
and beside a busy process: sleeping at once 44 and 50, 200 spins 101 and 50, 1,000 spins 115 and 34, 20,000 spins 117
and 23. GNU OpenMP reads the second variable; other implementations read the first."""
