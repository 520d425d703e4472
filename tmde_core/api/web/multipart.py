"""Read a file in a form piece by piece, so that only a few kilobytes are in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import multipart

from tmde_core.api.web.problems import UnsupportedMediaTypeError
from tmde_core.api.web.requests import AnyRequest
from tmde_core.errors import InvalidInputError

FIELDS = 8
"""The largest number of parts in a form."""
HEADER_BYTES = 4096


async def read_file_field(request: AnyRequest, field: str) -> AsyncIterator[bytes]:
    """Yield the content of one file field of a `multipart/form-data` body (RFC 7578), and skip other fields.

    Raises:
        UnsupportedMediaTypeError: the body is not a form.
        InvalidInputError: the form is broken, or does not contain the field exactly once.
    """
    declared, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get("boundary", "")
    if declared != "multipart/form-data" or not 1 <= len(boundary) <= 70:
        wanted = "multipart/form-data"
        raise UnsupportedMediaTypeError(
            f"The body is declared as {declared[:80] or 'nothing'}; send the file as the field `{field}` of a form ({wanted}).",
            wanted=wanted,
        )
    found, within = 0, False
    try:
        with multipart.PushMultipartParser(boundary, max_header_size=HEADER_BYTES, max_segment_count=FIELDS) as parser:
            async for chunk in request.stream():
                for event in parser.parse(chunk) if chunk else ():
                    if isinstance(event, multipart.MultipartSegment):
                        within = event.name == field
                        found += within
                        if found > 1:
                            raise InvalidInputError(f"{field}: the form has it twice; send one file.", field=field)
                    elif event is None:
                        within = False
                    elif within:
                        yield bytes(event)
    except multipart.MultipartError as error:
        raise InvalidInputError(f"The form cannot be read: {error}. Send it again.", field=field) from None
    if not found:
        raise InvalidInputError(f"{field}: the form has no file called `{field}`.", field=field)
