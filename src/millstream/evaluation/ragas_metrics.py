"""Metrics of ragas over models of a workflow file. Only this module imports ragas, which takes seconds."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream.errors import MissingExtraError
from millstream.evaluation.evaluators.json_values import find_json
from millstream.evaluation.judging.verdict import quoted
from millstream.evaluation.ragas_catalogue import Metric
from millstream.evaluation.ragas_inputs import Conversation, UnscoredError
from millstream.workflow.answers import answer_text, message_text

os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")  # read when it is imported; it would report every metric

try:
    import ragas.metrics
    from pydantic import ValidationError
    from ragas.dataset_schema import SingleTurnSample
    from ragas.embeddings import LangchainEmbeddingsWrapper
    from ragas.embeddings.base import BaseRagasEmbedding
    from ragas.llms import LangchainLLMWrapper
    from ragas.llms.base import InstructorBaseRagasLLM
    from ragas.messages import AIMessage, HumanMessage, ToolMessage
    from ragas.messages import ToolCall as RagasToolCall
    from ragas.metrics import base, collections
    from ragas.run_config import RunConfig
except ImportError as missing:
    raise MissingExtraError(
        f"the evaluator 'ragas', which cannot be imported ({missing}),", "ragas"
    ) from missing

_THOUGHT: Final = "</think>"
_ONCE: Final = RunConfig(max_retries=1)
"""Calls are tried again by the model itself, as `max_retries` of the workflow file says."""


class JudgeFailedError(BaseException):
    """A judge could not be asked, or gave nothing that can be used.

    No `Exception`: ragas catches those, asks again up to five times and gives NaN without the reason.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@InstructorBaseRagasLLM.register
class Judge:
    """A LangChain chat model as metrics of ragas ask it: a prompt in, an object out.

    Args:
        model: of the workflow file, with its limits and retries.

    Attributes:
        said: every object that it gave, as ragas was told.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.said: list[Any] = []

    def generate(self, prompt: str, response_model: type[Any]) -> Any:
        """Not for a model of a running event loop."""
        raise NotImplementedError("this metric asks its judge in a way that blocks; use another one")

    async def agenerate(self, prompt: str, response_model: type[Any]) -> Any:
        """Ask for an object; what cannot be used is told to the judge, once.

        Raises:
            JudgeFailedError: the call failed, the judge refused, or there is no such object in two answers.
        """
        try:
            return await self._ask(prompt, response_model)
        except Exception as error:
            raise JudgeFailedError(error) from error

    async def _ask(self, prompt: str, response_model: type[Any]) -> Any:
        said = await self._answer([("user", prompt)])
        try:
            return self._read(said, response_model)
        except UnscoredError as error:
            problem = str(error)
        schema = json.dumps(response_model.model_json_schema())
        again = f"That cannot be used: {problem}. Answer with one JSON object of this schema alone: {schema}"
        said = await self._answer([("user", prompt), ("assistant", said or "(nothing)"), ("user", again)])
        return self._read(said, response_model)

    async def _answer(self, messages: list[tuple[str, str]]) -> str:
        message = await self._model.ainvoke(messages)
        refusal = message.additional_kwargs.get("refusal")
        if refusal:
            raise UnscoredError(f"the judge refused: {quoted(refusal)}")
        said = message_text(message) or ""
        if message.response_metadata.get("finish_reason") == "length" and _object_in(said) is None:
            raise UnscoredError(
                f"the judge's answer was cut off; raise max_tokens of its model: {quoted(said)}"
            )
        return said

    def _read(self, said: str, response_model: type[Any]) -> Any:
        found = _object_in(said)
        if found is None:
            raise UnscoredError(f"the judge gave no JSON object: {quoted(said)}")
        try:
            value = response_model.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UnscoredError(
                f"the judge's answer does not fit ({place}: {first['msg']}): {quoted(said)}"
            ) from None
        self.said.append(found)
        return value


def _object_in(said: str) -> dict[str, Any] | None:
    """The JSON object in an answer, after what a model thinks aloud."""
    found = find_json(said.rpartition(_THOUGHT)[2], {})
    return found if isinstance(found, dict) else None


@BaseRagasEmbedding.register
class Embedder:
    """LangChain `Embeddings` as metrics of ragas ask them.

    Args:
        embeddings: of the workflow file.
    """

    def __init__(self, embeddings: Any) -> None:
        self._embeddings = embeddings
        self._known: dict[str, list[float]] = {}

    async def prepare(self, texts: list[str]) -> None:
        """Embed texts that a metric will ask for while the event loop waits for it."""
        self._known = dict(zip(texts, await self.aembed_texts(texts), strict=True))

    def embed_text(self, text: str, **_: Any) -> list[float]:
        """The vector of a text that is prepared."""
        return self._known[text]

    async def aembed_text(self, text: str, **_: Any) -> list[float]:
        """The vector of a text."""
        return (await self.aembed_texts([text]))[0]

    async def aembed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
        """The vectors of texts."""
        vectors: list[list[float]] = await self._embeddings.aembed_documents(texts)
        return vectors


async def score(
    metric: Metric, inputs: Mapping[str, Any], options: Mapping[str, Any], model: Any, embeddings: Any
) -> tuple[Any, dict[str, Any]]:
    """Measure one item.

    Args:
        metric: what to measure.
        inputs: arguments of its scoring function; of an old metric, columns of a sample.
        options: further arguments of its constructor.
        model: a LangChain chat model, or `None`.
        embeddings: LangChain `Embeddings`, or `None`.

    Returns:
        The value, and what the judges said and ragas says about it.

    Raises:
        UnscoredError: a judge gave nothing that can be used, or ragas gave no value.
        Exception: what the model's client or ragas raises.
    """
    if metric.old:
        return await _score_old(metric, inputs, options, model, embeddings), {}
    judge, embedder = Judge(model), Embedder(embeddings)
    parts = {"llm": judge, "embeddings": embedder}
    given = {name: part for name, part in parts.items() if name in metric.options}
    made = getattr(collections, metric.name)(**given, **options)
    if set(given) == {"embeddings"}:  # without a judge it embeds what it is given, and does not await it
        await embedder.prepare([inputs["reference"], inputs["response"]])
    try:
        result = await made.ascore(**{name: _as_ragas(name, value) for name, value in inputs.items()})
    except JudgeFailedError as failed:
        raise failed.cause from None
    value = _scored(result.value, judge.said)
    told = {"judge": judge.said} if judge.said else {}
    return value, told | ({"ragas": result.reason} if result.reason else {})


async def _score_old(
    metric: Metric, inputs: Mapping[str, Any], options: Mapping[str, Any], model: Any, embeddings: Any
) -> Any:
    made = getattr(ragas.metrics, metric.name)(**options)
    if isinstance(made, base.MetricWithLLM):
        if model is None:
            raise UnscoredError(f"{metric.name} asks a model; name one by llm_name")
        made.llm = LangchainLLMWrapper(model, run_config=_ONCE, bypass_temperature=True, bypass_n=True)
    if isinstance(made, base.MetricWithEmbeddings):
        if embeddings is None:
            raise UnscoredError(f"{metric.name} embeds texts; name an embedder by embedder_name")
        made.embeddings = LangchainEmbeddingsWrapper(embeddings, run_config=_ONCE)
    made.init(_ONCE)
    missing = made.required_columns.get("SINGLE_TURN", set()) - set(inputs)
    if missing:
        raise UnscoredError(
            f"{metric.name} needs {', '.join(sorted(missing))}, which this item does not have"
        )
    return _scored(await made.single_turn_ascore(SingleTurnSample(**inputs)), [])


def _scored(value: Any, said: list[Any]) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        last = f"; the judge's last answer was {quoted(said[-1])}" if said else ""
        raise UnscoredError(f"ragas gave no score{last}")
    return value


def _as_ragas(name: str, value: Any) -> Any:
    """An input in the form that ragas has for it."""
    if isinstance(value, Conversation):
        return _messages(value)
    return _expected_calls(value) if name == "reference_tool_calls" else value


def _messages(talk: Conversation) -> list[Any]:
    messages: list[Any] = [HumanMessage(content=talk.question)]
    for call in talk.calls:
        messages.append(AIMessage(content="", tool_calls=[_tool_call(call.name, call.arguments)]))
        gave = call.error if call.output is msgspec.UNSET else answer_text(call.output)
        messages.append(ToolMessage(content=gave or ""))
    return [*messages, AIMessage(content=talk.answer)]


def _expected_calls(expected: Any) -> list[Any]:
    try:
        return [_tool_call(call["name"], call.get("arguments", call.get("args"))) for call in expected]
    except (TypeError, KeyError, AttributeError):
        raise UnscoredError(
            f"the expected tool calls are no list of {{name, arguments}}: {quoted(expected)}"
        ) from None


def _tool_call(name: str, arguments: Any) -> Any:
    return RagasToolCall(name=name, args=arguments if isinstance(arguments, dict) else {})
