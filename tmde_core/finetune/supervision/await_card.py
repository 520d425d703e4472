"""Waits until the runtimes have left the graphics card, and becomes the training process.

`python -m tmde_core.finetune.supervision.await_card DATA_DIR LOAN PROGRAM [ARGUMENT …]`

If this process is killed, the runtimes come back.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from uuid import UUID

import msgspec

from tmde_core.card import User, lend, read_loan, read_users
from tmde_core.finetune.supervision.becoming import become

LONGEST_WAIT_SECONDS = 120.0
"""The longest wait for the runtimes. Then the run begins all the same: it may fit beside them."""
POLL_SECONDS = 0.1


def wait(data_dir: Path, loan_id: UUID, longest: float = LONGEST_WAIT_SECONDS) -> list[User]:
    """Wait until every process with runtimes has answered the loan. Return those that have not."""
    end = time.monotonic() + longest
    while True:
        users = read_users(data_dir)
        late = [user for user in users if user.loan != loan_id]
        if not late or time.monotonic() >= end:
            break
        time.sleep(POLL_SECONDS)
    loan = read_loan(data_dir)
    if loan is not None and loan.id == loan_id:
        paused = {name for user in users if user.loan == loan_id for name in user.paused}
        if not paused <= set(loan.runtimes):
            # A server that starts in the middle of the run must leave them alone, too.
            lend(data_dir, msgspec.structs.replace(loan, runtimes=tuple(sorted(paused | set(loan.runtimes)))))
    return late


def main(arguments: list[str]) -> None:
    """Wait, and replace this process by the program."""
    data_dir, loan, *command = arguments
    for user in wait(Path(data_dir), UUID(loan)):
        sys.stderr.write(f"The process {user.pid} has not paused its models. The run begins all the same.\n")
    become(command)


if __name__ == "__main__":
    main(sys.argv[1:])
