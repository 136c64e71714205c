"""The endpoints that a model answers: chat completions, responses and embeddings."""

import time
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Scope, Send

from millstream.simulate.answer import Piece
from millstream.simulate.api_error import ApiError
from millstream.simulate.chat import ChatRequest, parse_chat_request
from millstream.simulate.conversations import Conversations
from millstream.simulate.embeddings import embedding_list, parse_embeddings_request
from millstream.simulate.http_endpoint import Endpoint, EventStream, headers_of, json_response
from millstream.simulate.responses import ResponsesRequest, parse_responses_request
from millstream.simulate.responses_wire import ResponseWriter
from millstream.simulate.stand_in import Exchange, StandIn
from millstream.simulate.wire import ChunkWriter, completion, event


class ChatCompletions(Endpoint):
    """POST /v1/chat/completions."""

    async def respond(self, raw: bytes, send: Send) -> Response | None:
        """See `Endpoint`."""
        request = self.stand_in.read(raw, parse_chat_request)
        exchange = self.stand_in.open(request)
        if request.stream:
            await self._stream(request, exchange, EventStream(send, headers_of(exchange)))
            return None
        usage = await self.stand_in.answer(exchange)
        body = completion(exchange.answer, request.model, usage, int(time.time()))
        return json_response(body, headers=headers_of(exchange))

    async def _stream(self, request: ChatRequest, exchange: Exchange, stream: EventStream) -> None:
        writer = ChunkWriter(
            exchange.answer, request.model, int(time.time()), include_usage=request.include_usage
        )

        async def emit(piece: Piece) -> None:
            if not stream.started:
                await stream.write(writer.first())
            await stream.write(writer.piece(piece))

        try:
            usage = await self.stand_in.answer(exchange, emit)
        except ApiError as error:
            if not stream.started:
                raise
            await stream.write(event(error.body), more=False)
            return
        if not stream.started:
            await stream.write(writer.first())
        await stream.write(b"".join(writer.last(usage)), more=False)


class Responses(Endpoint):
    """POST /v1/responses; its stream begins when the model takes the request up, before the first token."""

    def __init__(self, stand_in: StandIn, reset: Callable[[Scope], None]) -> None:
        super().__init__(stand_in, reset)
        self._conversations = Conversations()

    async def respond(self, raw: bytes, send: Send) -> Response | None:
        """See `Endpoint`."""
        request = self.stand_in.read(raw, self._parse)
        exchange = self.stand_in.open(request.chat)
        writer = ResponseWriter(request, exchange.answer)
        if request.chat.stream:
            await self._stream(request, exchange, writer, EventStream(send, headers_of(exchange)))
            return None
        usage = await self.stand_in.answer(exchange)
        self._keep(request, exchange, writer)
        return json_response(writer.whole(usage), headers=headers_of(exchange))

    async def _stream(
        self, request: ResponsesRequest, exchange: Exchange, writer: ResponseWriter, stream: EventStream
    ) -> None:
        async def begin() -> None:
            await stream.write(writer.first())

        async def emit(piece: Piece) -> None:
            await stream.write(writer.piece(piece))

        try:
            usage = await self.stand_in.answer(exchange, emit, begin=begin)
        except ApiError as error:
            if not stream.started:
                raise
            await stream.write(writer.failed(error), more=False)
            return
        self._keep(request, exchange, writer)
        await stream.write(writer.last(usage), more=False)

    def _parse(self, raw: bytes) -> ResponsesRequest:
        return parse_responses_request(raw, self._conversations)

    def _keep(self, request: ResponsesRequest, exchange: Exchange, writer: ResponseWriter) -> None:
        if request.store:
            self._conversations.keep(writer.id, request.messages, exchange.answer)


class Embeddings(Endpoint):
    """POST /v1/embeddings."""

    async def respond(self, raw: bytes, send: Send) -> Response:  # noqa: ARG002  # never a stream
        """See `Endpoint`."""
        request = self.stand_in.read(raw, parse_embeddings_request)
        exchange = self.stand_in.open(request)
        usage = await self.stand_in.answer(exchange)
        body = embedding_list(request, self.stand_in.vectors(request), usage)
        return json_response(body, headers=headers_of(exchange))
