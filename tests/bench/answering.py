"""A server that answers at once: what remains of a request's cost is the client's.

It parses just enough of HTTP, waits for a fixed time, and gives every request the same
answer. It runs in a process of its own, so that its work is not measured.
"""

from __future__ import annotations

import asyncio
import json
import sys

ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Seven seas, as they say. " * 8},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80},
    }
).encode()


async def main(delay: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            if b"content-length:" in head:
                size = head.split(b"content-length:")[1].split(b"\r\n")[0]
                await reader.readexactly(int(size))
            await asyncio.sleep(delay)
            close = b"connection: close" in head
            head_lines = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
            writer.write(head_lines + str(len(ANSWER)).encode() + b"\r\n\r\n" + ANSWER)
            if close:
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
