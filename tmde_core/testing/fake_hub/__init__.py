"""Imitate a hub of models that speaks the protocol of Hugging Face, over real files in a folder, on loopback.

    async with serving(FakeHub(folder, "break-once=1000")) as url:
        ...                                            # HF_ENDPOINT=url

The folder has a folder for each owner, and in it one for each repository: `FOLDER/owner/name/config.json`. Another
revision is a folder beside it, `FOLDER/owner/name@v1`. The front matter of a README.md names licence and base model.

`python -m tmde_core.testing.fake_hub FOLDER --port 8902` starts one by hand; `--fault` makes it misbehave.
"""

from __future__ import annotations

from tmde_core.testing.fake_hub.faults import FAULTS, Faults
from tmde_core.testing.fake_hub.server import FakeHub
from tmde_core.testing.fake_hub.threads import playing
from tmde_core.testing.fake_servers.base import serving

__all__ = ["FAULTS", "FakeHub", "Faults", "playing", "serving"]
