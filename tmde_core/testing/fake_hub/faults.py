"""What a played hub can do wrong."""

from __future__ import annotations

from collections.abc import Mapping

FAULTS: Mapping[str, str] = {
    "break-after": "=N: every transfer breaks after N bytes",
    "break-once": "=N: the first transfer of each file breaks after N bytes",
    "wrong-hash": "the first byte of every large file is changed on the way",
    "wrong-hash-once": "the first byte is changed in the first transfer of each large file",
    "not-safe": "the files of all repositories are listed with hashes, and their content is replaced by zeros",
    "gated": "every repository asks for an agreement, and listings are public; the token `granted` has access",
    "private": "every repository is private; the token `granted` has access",
    "bad-token": "every token is refused",
    "forbidden": "HTTP 403 for every file",
    "gone": "HTTP 404 for every file, although it is listed",
    "busy": "=N: the first request for each address is answered with HTTP 429 and Retry-After: N",
    "busy-always": "=N: every request is answered with HTTP 429 and Retry-After: N",
    "error-once": "the first request for each address is answered with HTTP 500",
    "error-always": "every file is answered with HTTP 500",
    "drip": "=N: N bytes a second",
    "stall": "=N: every transfer stops after N bytes, and the connection stays open",
    "other-host": "large files are redirected to another host",
    "expired": "the storage server refuses the first request for each large file with HTTP 403",
    "no-range": "ranges are ignored",
    "wrong-range": "a range is answered with the bytes from 10 further on",
    "no-hashes": "the listing has sizes and no hashes",
    "no-metadata": "the listing has only names",
    "hostile-names": "the listing has further files whose names lead out of any folder",
    "many-files": "the listing has 6,000 further files",
    "loop": "files are redirected to themselves",
    "file-redirect": "files are redirected to file:///etc/passwd",
    "no-hub": "every address answers with a page of HTML",
    "odd-listing": "listings are JSON of another shape",
}
"""The faults by name, with what they do."""


class Faults:
    """The faults of a played hub."""

    def __init__(self, *faults: str) -> None:
        """Parse faults such as `gated` and `break-after=1000`.

        Raises:
            ValueError: there is no such fault.
        """
        self._values: dict[str, int] = {}
        self._used: set[tuple[str, str]] = set()
        self.replace(*faults)

    def replace(self, *faults: str) -> None:
        """Have these faults from now on, and no others; without any, behave.

        Raises:
            ValueError: there is no such fault.
        """
        self._values.clear()
        self._used.clear()
        for fault in faults:
            name, _, value = fault.partition("=")
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}; there are {', '.join(FAULTS)}")
            self._values[name] = int(value or 0)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> int | None:
        """Return the number of a fault; None if the hub does not have it."""
        return self._values.get(name)

    def first(self, name: str, what: str) -> bool:
        """Return whether the hub has this fault, and `what` meets it for the first time."""
        if name not in self._values or (name, what) in self._used:
            return False
        self._used.add((name, what))
        return True
