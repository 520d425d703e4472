"""What `tmde backends` says."""

from __future__ import annotations

import msgspec
import pytest

from tmde_core.backends.service import InstallPlan
from tmde_core.cli.backends.command import _describe_plan

PLAN = InstallPlan(
    name="mine",
    build="cpu",
    why="There is no NVIDIA driver.",
    python="3.12",
    directory="/data/envs/mine",
    packages=48,
    download_bytes=10**9,
    disk_bytes=4 * 10**9,
    free_bytes=9 * 10**9,
    continues=False,
    current=False,
)


@pytest.mark.parametrize(
    ("continues", "current", "says", "fetches"),
    [
        (False, False, "Installing 48", True),
        (True, False, "Going on with 48", True),
        (False, True, "only examined", False),
    ],
)
def test_an_installation_says_whether_it_installs_goes_on_or_only_examines(continues, current, says, fetches):
    told = _describe_plan(msgspec.structs.replace(PLAN, continues=continues, current=current))
    assert says in told
    assert ("Installing" in told) == (says.startswith("Installing"))
    assert ("fetched" in told) == fetches
