"""The fixtures of adapters: what is asked here is asked of them."""

from tests.core.lora.conftest import data_dir, opened, runtime, services

__all__ = ["data_dir", "opened", "runtime", "services"]
