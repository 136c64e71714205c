"""The tool that judges one e-mail, and the measure of whether the agent's verdict rests on it."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from millstream import Builder, FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function

VERDICT = re.compile(r"verdict\W+(phishing|benign)", re.IGNORECASE)


class EmailPhishingAnalyzerConfig(FunctionBaseConfig, name="email_phishing_analyzer"):
    """Options of the tool.

    Attributes:
        llm: the model that reads the e-mail; a key under `llms`.
        prompt: what it is asked; `{body}` stands for the e-mail.
    """

    llm: str
    prompt: str


@register_function(config_type=EmailPhishingAnalyzerConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def email_phishing_analyzer(
    config: EmailPhishingAnalyzerConfig, builder: Builder
) -> AsyncIterator[FunctionInfo]:
    """Ask a model whether an e-mail is phishing."""
    llm = await builder.get_llm(config.llm, wrapper_type=LLMFrameworkEnum.LANGCHAIN)

    async def analyze(text: str) -> str:
        response = await llm.ainvoke(config.prompt.replace("{body}", text))
        return json.dumps(read_findings(response.text))

    yield FunctionInfo.from_fn(
        analyze,
        description="Examines the text of one e-mail for signs of phishing. Returns a JSON object with "
        "is_likely_phishing (true, false or null) and explanation.",
    )


def read_findings(text: str) -> dict[str, Any]:
    """The findings in a model's answer, which may have words or a code fence around the JSON.

    The last object with the key `is_likely_phishing` counts; without one the answer is the explanation.
    """
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", text)]):
        try:
            found, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if "is_likely_phishing" in found:
            explanation = str(found.get("explanation", ""))
            return {"is_likely_phishing": _truth(found["is_likely_phishing"]), "explanation": explanation}
    return {"is_likely_phishing": None, "explanation": text.strip()}


def _truth(value: Any) -> bool | None:
    """Models write true, "true", "yes" and 1."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return known.get(str(value).strip().lower())


def groundedness(item: Any) -> dict[str, Any]:
    """1 when the agent's verdict is what the tool found, else 0; for the evaluator `python`.

    Args:
        item: an evaluated item of millstream, with `output` and `spans`.
    """
    calls = [span for span in item.spans if span.kind == "TOOL" and span.name == "email_phishing_analyzer"]
    if not calls:
        return {"score": 0, "reasoning": "the agent answered without the tool"}
    verdict = VERDICT.search(str(item.output))
    if verdict is None:
        return {"score": 0, "reasoning": "the answer has no verdict"}
    found = read_findings(str(calls[-1].output))["is_likely_phishing"]
    if found is None:
        return {"score": 0, "reasoning": "the tool came to no finding"}
    same = found == (verdict[1].lower() == "phishing")
    return {"score": int(same), "reasoning": f"the tool found {found}, the agent says {verdict[1].lower()}"}
