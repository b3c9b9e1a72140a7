"""Lines that are no message are answered too: a client that waits for an answer would wait for ever.

The SDK hands an undecodable line on as an exception, which its dispatcher drops. Here it becomes the protocol's own
error, with the request's id where one can be found; a client of either era never hears nothing.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Self, cast

import mcp_types as types
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

_ID = re.compile(r'"id"\s*:\s*("(?P<text>[^"\\]{1,200})"|(?P<number>-?\d{1,15}))')
_SEARCHED = 100_000
Item = SessionMessage | Exception


class Readable:
    """The messages of ``reader``; what is none is answered through ``writer`` and left out."""

    def __init__(self, reader: ReadStream[Item], writer: WriteStream[SessionMessage]) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def last_context(self) -> object:
        """The sender's context, which the SDK runs the handler in."""
        return getattr(self._reader, "last_context", None)

    async def receive(self) -> Item:
        """The next message."""
        while isinstance(item := await self._reader.receive(), Exception):
            await self._writer.send(SessionMessage(answer(item)))
        return item

    async def aclose(self) -> None:
        """Close the reader."""
        await self._reader.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while isinstance(item := await self._reader.__anext__(), Exception):
            await self._writer.send(SessionMessage(answer(item)))
        return item

    async def __aenter__(self) -> Self:
        await self._reader.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._reader.__aexit__(exc_type, exc_val, exc_tb)


def answer(error: Exception) -> types.JSONRPCError:
    """The protocol's error for a line that is no JSON, or no message."""
    faults = error.errors(include_url=False) if isinstance(error, ValidationError) else []
    parse = any(one["type"] == "json_invalid" for one in faults)
    why = faults[0]["msg"] if faults else str(error)
    # The arms of the union each name what they miss; one that misses a field shows the whole message.
    inputs: list[object] = [one.get("input") for one in faults]
    whole = next((one for one in inputs if _is_object(one)), next(iter(inputs), None))
    code, what = (types.PARSE_ERROR, "not JSON") if parse else (types.INVALID_REQUEST, "not a message of the protocol")
    return types.JSONRPCError(
        jsonrpc="2.0",
        id=_id(whole),
        error=types.ErrorData(code=code, message=f"the line is {what}: {why[:300]}. Send one JSON-RPC message a line."),
    )


def _is_object(one: object) -> bool:
    return isinstance(one, dict)


def _id(given: object) -> types.RequestId | None:
    """The id of the request, as far as it can be read."""
    if isinstance(given, dict):
        found = cast("dict[str, Any]", given).get("id")
        return found if isinstance(found, str | int) and not isinstance(found, bool) else None
    match = _ID.search(given[:_SEARCHED]) if isinstance(given, str) else None
    return None if match is None else match["text"] or int(match["number"])
