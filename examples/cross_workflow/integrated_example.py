"""All of it: workflows of a file in sequence and in parallel, one in another process, an error, an export.

    python examples/cross_workflow/integrated_example.py

The spans also go to `traces.jsonl`, by the exporter of observability_config.yml.
"""

import asyncio
import json
import subprocess
import sys

from common import CONFIG, draw_tree, model_server, recorded

from millstream import ObservabilityContext, ObservabilityWorkflowInvoker, inject_environment
from millstream.workflow import Workflow, load_config, open_workflow

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context


async def sequential(support_desk: Workflow) -> str:
    """A call, and one that follows from it."""
    with ObservabilityContext.create_root_context("sequential") as context:
        first = await invoke(support_desk, "Where is order 7?", "look_up", context, to_type=str)
        follows = ObservabilityWorkflowInvoker.get_current_observability_context()
        await invoke(support_desk, f"Translate: {first}", "translation", follows, to_type=str)
    return context.trace_id


async def parallel(support_desk: Workflow) -> str:
    """Calls at the same time, of which one fails: the others are not disturbed."""
    with ObservabilityContext.create_root_context("parallel") as context:
        context.add_attribute("batch", 12)
        results = await asyncio.gather(
            *[
                invoke(support_desk, f"Where is order {number}?", f"order_{number}", context)
                for number in (7, 8)
            ],
            invoke(refuse, "Where is order 9?", "order_9", context),
            return_exceptions=True,
        )
    print("parallel:", *[f"{type(each).__name__}: {each}" for each in results if isinstance(each, Exception)])
    return context.trace_id


def refuse(_message: str) -> str:
    raise PermissionError("the warehouse is closed")


async def distributed() -> str:
    """A workflow in another process, which gets the context as JSON, and one that its environment tells."""
    with ObservabilityContext.create_root_context("distributed") as context:
        text = json.dumps(context.to_dict())
        for arguments in (["worker", text], ["worker"]):
            command = [sys.executable, __file__, *arguments]
            await asyncio.to_thread(subprocess.run, command, env=inject_environment(), check=True)
    return context.trace_id


def worker(text: str | None) -> None:
    """The other process."""
    parent = None if text is None else ObservabilityContext.from_dict(json.loads(text))
    name = "worker_by_environment" if text is None else "worker_by_dict"
    asyncio.run(invoke(str.upper, "done", name, parent))


async def run_all() -> list[str]:
    async with open_workflow(load_config(CONFIG)) as support_desk:
        return [await sequential(support_desk), await parallel(support_desk), await distributed()]


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2] if len(sys.argv) > 2 else None)  # noqa: PLR2004  # the context is there
        return
    with model_server():
        traces = asyncio.run(run_all())
    print()
    draw_tree(traces)
    print("\nWhat the processors put on one of the model calls:")
    call = next(span for span in recorded(traces) if span.kind == "LLM")
    for key, value in call.attributes.items():
        if key.startswith(("observability.", "relationship.")):
            print(f"  {key} = {value}")


if __name__ == "__main__":
    main()
