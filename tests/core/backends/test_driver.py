from __future__ import annotations

import pytest

from tmde_core.backends.driver import Driver, choose_build, read_driver
from tmde_core.errors import InvalidInputError
from tmde_core.sdk.environments import EnvironmentSpec, TorchBuild, version_tuple

OLD_OUTPUT = """
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 570.86.15              Driver Version: 570.86.15      CUDA Version: 12.8     |
|-----------------------------------------+------------------------+----------------------+
"""
NEW_OUTPUT = """
| NVIDIA-SMI 610.10                 KMD Version: 610.10       CUDA UMD Version: 13.2     |
"""


def builds(*names: tuple[str, str]) -> EnvironmentSpec:
    made = tuple(TorchBuild(name=name, lock="", cuda=cuda, download_bytes=1, disk_bytes=1) for name, cuda in names)
    return EnvironmentSpec(package="p", probe="p.probe", builds=made)


SPEC = builds(("cu130", "13.0"), ("cu128", "12.0"), ("cpu", ""))


def test_the_driver_is_read_from_either_form_of_nvidia_smis_output():
    assert read_driver(OLD_OUTPUT) == Driver("570.86.15", "12.8")
    assert read_driver(NEW_OUTPUT) == Driver("610.10", "13.2")
    assert read_driver("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") is None


@pytest.mark.parametrize(
    ("cuda", "build"), [("13.2", "cu130"), ("13.0", "cu130"), ("12.9", "cu128"), ("12.10", "cu128"), ("12.0", "cu128")]
)
def test_the_newest_build_that_the_driver_supports_is_chosen(cuda: str, build: str):
    chosen, why = choose_build(SPEC, Driver("1.0", cuda))
    assert chosen.name == build
    assert cuda in why


def test_without_a_driver_the_build_without_cuda_is_chosen():
    chosen, why = choose_build(SPEC, None)
    assert chosen.name == "cpu"
    assert "no NVIDIA driver" in why


def test_a_driver_that_is_too_old_is_named_with_what_to_do():
    with pytest.raises(InvalidInputError, match=r"supports CUDA 11\.8.*12\.0 or newer.*Update the driver.*--build cpu"):
        choose_build(SPEC, Driver("520.1", "11.8"))


def test_a_person_may_choose_any_build_that_there_is():
    assert choose_build(SPEC, Driver("1", "11.8"), "cpu")[0].name == "cpu"
    with pytest.raises(InvalidInputError, match="no build 'rocm'; there are cu130, cu128, cpu"):
        choose_build(SPEC, None, "rocm")


def test_versions_compare_by_their_numbers():
    assert version_tuple("12.10") > version_tuple("12.8")
    assert version_tuple("13.0rc1") == (13,)
