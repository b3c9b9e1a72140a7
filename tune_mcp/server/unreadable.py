"""Lines that are no message are answered too: a client that waits for an answer would wait for ever.

The SDK hands an undecodable line on as an exception, which its dispatcher drops. Here it becomes the protocol's own
error, with the request's id where one can be found; a client of either era never hears nothing.
"""

from __future__ import annotations

import re
from typing import Any, cast

import mcp_types as types
from anyio.abc import ObjectSendStream
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

_ID = re.compile(r'"id"\s*:\s*("(?P<text>[^"\\]{1,200})"|(?P<number>-?\d{1,15}))')
_SEARCHED = 100_000
Item = SessionMessage | Exception


async def pass_on(reader: ReadStream[Item], to: ObjectSendStream[Item], writer: WriteStream[SessionMessage]) -> None:
    """Give ``to`` the messages of ``reader``; what is none is answered through ``writer``."""
    async with to:
        async for item in reader:
            if isinstance(item, Exception):
                await writer.send(SessionMessage(answer(item)))
            else:
                await to.send(item)


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
