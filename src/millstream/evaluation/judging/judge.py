"""A model that is asked for a verdict: a structured answer where its server makes such, else JSON in text."""

from typing import Any, Final

from millstream.evaluation.judging.prompt import Messages, repair, response_format
from millstream.evaluation.judging.scale import Scale
from millstream.evaluation.judging.verdict import NoVerdictError, Verdict, quoted, read_verdict
from millstream.evaluation.models import Models
from millstream.workflow.answers import message_text

_NOT_TAKEN: Final = frozenset({400, 422, 501})
"""What servers answer to a `response_format` that they do not know; older ones to any."""
_CUT_OFF: Final = "LengthFinishReasonError"
"""What the OpenAI client raises for a structured answer that is not whole."""


class Judge:
    """A model of the workflow file in the role of a judge.

    Args:
        models: of the workflow file.
        llm_name: key under `llms`.
    """

    def __init__(self, models: Models, llm_name: str) -> None:
        self._models = models
        self._llm_name = llm_name
        self._takes_schema = True

    async def ask(self, asked: Messages, scale: Scale) -> Verdict:
        """Ask for a verdict; what cannot be used is told to the judge, once.

        Raises:
            NoVerdictError: what came cannot be used, twice; or the judge refused.
            Exception: what the model's client raises, such as a timeout.
        """
        said = await self._said(asked, scale)
        try:
            return read_verdict(said, scale)
        except NoVerdictError as error:
            problem = str(error)
        return read_verdict(await self._said(repair(asked, said, problem, scale), scale), scale)

    async def _said(self, messages: Messages, scale: Scale) -> str:
        model = await self._models.llm(self._llm_name)
        if self._takes_schema:
            try:
                return _text(await model.ainvoke(messages, response_format=response_format(scale)))
            except Exception as error:
                if type(error).__name__ == _CUT_OFF:
                    raise NoVerdictError(
                        "the judge's answer was cut off at its limit of tokens; raise "
                        f"llms.{self._llm_name}.max_tokens"
                    ) from None
                if not _not_taken(error):
                    raise
        said = _text(await model.ainvoke(messages))
        self._takes_schema = False  # known only now: what was wrong may have been something else
        return said


def _not_taken(error: Exception) -> bool:
    return isinstance(error, TypeError | NotImplementedError) or (
        getattr(error, "status_code", None) in _NOT_TAKEN
    )


def _text(message: Any) -> str:
    refusal = message.additional_kwargs.get("refusal")
    if refusal:
        raise NoVerdictError(f"the judge refused: {quoted(str(refusal))}")
    return message_text(message) or ""
