"""A router: a model says what a request is about, and the workflow for that answers it.

    python examples/cross_workflow/workflow_integration_example.py

One of the workflows fails; the router answers all the same, and the record says what went wrong.
"""

import asyncio

from common import CONFIG, draw_tree, model_server

from millstream import ObservabilityWorkflowInvoker
from millstream.workflow import Builder, Workflow, load_config, open_workflow

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context
REQUESTS = ("I was charged twice", "The app shows an error", "Where is order 7?")


class Router:
    """Workflows by what they are for."""

    def __init__(self, builder: Builder, support_desk: Workflow) -> None:
        self._builder = builder
        self._workflows = {"billing": billing, "technical": technical, "general": support_desk}

    async def route(self, request: str) -> str:
        """Have a request classified, and answered by the workflow for its kind."""
        context = ObservabilityWorkflowInvoker.get_current_observability_context()
        kind = await invoke(workflow=self.classify, message=request, workflow_name="classification")
        context.add_attribute("kind", kind)
        try:
            return await invoke(workflow=self._workflows[kind], message=request, workflow_name=kind)
        except ConnectionError as error:
            return await invoke(workflow=apologise, message=error, workflow_name="apology")

    async def classify(self, request: str) -> str:
        """One of the kinds, by a model."""
        model = await self._builder.get_llm("main")
        messages = [("system", f"Classify the request: {', '.join(self._workflows)}."), ("user", request)]
        return (await model.ainvoke(messages)).text.strip()


def billing(request: str) -> str:
    return f"A colleague will see to it: {request}"


def technical(_request: str) -> str:
    raise ConnectionError("the status page does not answer")


def apologise(error: Exception) -> str:
    return f"Sorry, we cannot say: {error}"


async def handle_all() -> list[str]:
    """Route each request as a trace of its own; gives the traces."""
    traces = []
    async with open_workflow(load_config(CONFIG)) as support_desk:
        router = Router(support_desk.builder, support_desk)
        for request in REQUESTS:
            answer = await invoke(workflow=router.route, message=request, workflow_name="router")
            print(f"{request}: {answer}")
            traces.append(ObservabilityWorkflowInvoker.get_current_observability_context().trace_id)
    return traces


def main() -> None:
    with model_server():
        traces = asyncio.run(handle_all())
    print()
    draw_tree(traces)


if __name__ == "__main__":
    main()
