import asyncio
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Err, Ok
from poll_loop import PollLoop, Sink, Stream, send
from wit_world.imports import atomics, store
from wit_world.imports.types import (
    Fields, IncomingRequest, Method_Get, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme_Http, Scheme_Https,
)


async def read(body) -> bytes:
    stream, chunks = Stream(body), []
    while (chunk := await stream.next()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


async def fetch(url: str) -> tuple[int, bytes]:
    target = urlsplit(url)
    request = OutgoingRequest(Fields.from_list([]))
    request.set_method(Method_Get())
    request.set_scheme(Scheme_Https() if target.scheme == "https" else Scheme_Http())
    request.set_authority(target.netloc)
    request.set_path_with_query(target.path or "/")
    answer = await send(request)
    return answer.status(), await read(answer.consume())


async def answer(request: IncomingRequest) -> tuple[int, list, bytes]:
    url = urlsplit(request.path_with_query() or "/")
    query = parse_qs(url.query)
    match url.path:
        case "/":
            return 200, [], b"hello from Python\n"
        case "/echo":
            kind = [(name, value) for name, value in request.headers().entries() if name == "content-type"]
            return 200, kind, await read(request.consume())
        case "/count":
            count = atomics.increment(store.open("default"), query["key"][0], 1)
            return 200, [], f"{count}\n".encode()
        case "/out":
            try:
                status, body = await fetch(query["url"][0])
                return 200, [], f"{status} ".encode() + body
            except Err as error:
                return 502, [], f"refused: {error.value}\n".encode()
        case _:
            return 404, [], b"no such path\n"


async def handle(request: IncomingRequest, out: ResponseOutparam) -> None:
    status, headers, body = await answer(request)
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    outgoing = response.body()
    ResponseOutparam.set(out, Ok(response))
    sink = Sink(outgoing)
    await sink.send(body)
    sink.close()


class IncomingHandler:
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        loop = PollLoop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(handle(request, response_out))
