"""An OpenAI-style server on a bad day."""

from __future__ import annotations

import asyncio
from typing import Literal

from tmde_core.testing.fake_servers.base import WORDS, Call, FakeServer, Reply
from tmde_core.testing.fake_servers.protocols import stream_openai

__all__ = ["FlakyServer", "Mood"]

Mood = Literal["ok", "502", "503", "429", "500", "hang", "silent", "drop", "reset", "busy-for-hours"]


class FlakyServer(FakeServer):
    """An OpenAI-style server that answers each chat with the next of `moods`, and repeats the last.

    `ok`; `reset`: the connection is reset before the first byte; `502`, `503`, `429` (with `Retry-After: 0`), `500`; `busy-for-hours` (429, `Retry-After: 7200`); `hang`: no
    answer at all; `silent`: one word, then nothing; `drop`: one word, then the connection
    breaks.
    """

    MODEL = "flaky"

    def __init__(self, *moods: Mood) -> None:
        super().__init__()
        self._moods = list(moods)

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        if call.path == "/v1/models":
            await reply.json({"object": "list", "data": [{"id": self.MODEL, "object": "model", "owned_by": "someone"}]})
            return
        match self._moods.pop(0) if len(self._moods) > 1 else self._moods[0]:
            case "ok":
                await stream_openai(reply, self.words(call.body["max_tokens"]), self.MODEL, call)
            case "reset":
                await reply.break_off(reset=True)
            case "hang":
                await asyncio.Event().wait()
            case "silent" | "drop" as mood:
                await reply.start(200, "text/event-stream")
                await reply.event({"choices": [{"delta": {"content": WORDS[0]}}]})
                if mood == "silent":
                    await asyncio.Event().wait()
                await reply.break_off()
            case "busy-for-hours":
                await reply.json({"error": {"message": "rate limit"}}, 429, {"retry-after": "7200"})
            case status:
                await reply.json(
                    {"error": {"message": "not now"}}, int(status), {"retry-after": "0"} if status == "429" else None
                )
