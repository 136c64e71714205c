"""A workflow of a file, called with a context: three queries to a support desk, one trace.

python examples/cross_workflow/cross_workflow_tracking_example.py
"""

import asyncio

from common import CONFIG, draw_tree, model_server

from millstream import ObservabilityContext, ObservabilityWorkflowInvoker
from millstream.workflow import load_config, open_workflow

QUERIES = ("Where is order 7?", "And order 8?", "What are your opening hours?")


async def answer_all() -> str:
    """Answer each query by a call of the same workflow; gives the trace that all are in."""
    async with open_workflow(load_config(CONFIG)) as support_desk:
        with ObservabilityContext.create_root_context("customer_support") as context:
            context.add_attribute("channel", "chat")
            for number, query in enumerate(QUERIES, 1):
                answer = await ObservabilityWorkflowInvoker.invoke_workflow_with_context(
                    workflow=support_desk,
                    message=query,
                    workflow_name=f"support_query_{number}",
                    parent_context=context,
                    to_type=str,
                )
                called = ObservabilityWorkflowInvoker.get_current_observability_context()
                print(f"{query}  {answer}  [{called.get_current_workflow().status}]")
                if called.trace_id != context.trace_id:
                    raise SystemExit("the call is in another trace")
    return context.trace_id


def main() -> None:
    with model_server():
        trace_id = asyncio.run(answer_all())
    print()
    draw_tree([trace_id])


if __name__ == "__main__":
    main()
