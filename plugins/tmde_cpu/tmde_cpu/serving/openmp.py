"""How OpenMP's threads wait for one another in our child processes."""

from __future__ import annotations

from types import MappingProxyType

WAITING = MappingProxyType({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "200"})
"""Environment. Threads that spin for long lose all but a few per cent of their speed beside another busy process; threads that
sleep at once lose half of it when there is none, because a token of a small model has hundreds of very short parallel parts.
Measured with the embedded model on two cores, generated tokens a second alone and beside a busy process: sleeping at once
44 and 50, 200 turns 101 and 50, 1,000 turns 115 and 34, 20,000 turns 117 and 23. The variable is GNU OpenMP's; others heed the first.
"""
