"""CrewAI."""

import os
import warnings

import pytest

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"  # read at its import; it would try the network
os.environ["CREWAI_TRACING_ENABLED"] = "false"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # of a module that does not let itself be changed
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

from tests.integrations.conformance import SYSTEM, Conformance, look_up

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it reads deprecated fields of its own


@tool("weather")
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def model(base_url, name="able", **options):
    return LLM(
        model=name,
        provider="openai",
        base_url=base_url,
        api_key="right",
        temperature=0.25,
        max_tokens=50,
        max_retries=0,
        **options,
    )


def messages(question):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


class TestCrewAI(Conformance):
    framework = "crewai"
    title = "CrewAI"
    absent = {"embeddings": "its memory leaves them to the vector store's client library; instrument that"}
    options = {}

    def ask(self, base_url, question):
        return model(base_url, **self.options).call(messages(question))

    async def ask_async(self, base_url, question, name="able"):
        llm = model(base_url, name, **self.options)
        try:
            return await llm.acall(messages(question))
        finally:
            await llm._get_async_client().close()

    def stream(self, base_url, question):
        return model(base_url, stream=True, **self.options).call(messages(question))

    async def use_tool(self, base_url, question):
        agent = Agent(
            role="helper",
            goal="Help",
            backstory=SYSTEM,
            tools=[weather],
            llm=model(base_url, **self.options),
        )
        task = Task(description=question, expected_output="The weather", agent=agent)
        return (await Crew(agents=[agent], tasks=[task]).kickoff_async()).raw


class TestCrewAIResponses(TestCrewAI):
    options = {"api": "responses"}
