"""Sequential, parallel and nested workflows, which are plain functions here: no model is needed.

python examples/cross_workflow/example.py
"""

import asyncio
import json

from common import draw_tree

from millstream import ObservabilityContext, ObservabilityWorkflowInvoker

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context


async def validation_workflow(data: dict) -> dict:
    await asyncio.sleep(0.02)
    return {**data, "valid": True}


async def transformation_workflow(data: dict) -> dict:
    await asyncio.sleep(0.03)
    return {**data, "text": data["text"].upper()}


def storage_workflow(data: dict) -> str:
    return f"stored {data['text']}"


async def task_processing_workflow(task: int) -> int:
    await asyncio.sleep(0.02)
    return task * task


def aggregation_workflow(results: list[int]) -> int:
    return sum(results)


async def sequential_processing(data: dict) -> str:
    """Validation; then transformation and storage, as children of the validation."""
    context = ObservabilityContext.create_root_context("sequential_processing")
    context.add_attribute("pipeline", "orders")
    traces.append(context.trace_id)
    validated = await invoke(
        workflow=validation_workflow, message=data, workflow_name="validation", parent_context=context
    )
    current_context = ObservabilityWorkflowInvoker.get_current_observability_context()
    transformed = await invoke(
        workflow=transformation_workflow,
        message=validated,
        workflow_name="transformation",
        parent_context=current_context,
    )
    return await invoke(
        workflow=storage_workflow,
        message=transformed,
        workflow_name="storage",
        parent_context=current_context,
    )


async def distributed_processing(tasks: list[int]) -> int:
    """Tasks in parallel, each a workflow; then one that needs all their results."""
    context = ObservabilityContext.create_root_context("distributed_processing")
    traces.append(context.trace_id)
    results = await asyncio.gather(
        *[
            invoke(
                workflow=task_processing_workflow,
                message=task,
                workflow_name=f"task_processor_{number}",
                parent_context=context,
            )
            for number, task in enumerate(tasks)
        ]
    )
    return await invoke(
        workflow=aggregation_workflow, message=results, workflow_name="aggregation", parent_context=context
    )


async def document_workflow(text: str) -> str:
    """A workflow that calls others: they need no parent, for they are in the one that runs."""
    parts = await asyncio.gather(
        *[invoke(workflow=ocr_workflow, message=page, workflow_name="ocr") for page in text.split("|")]
    )
    return await invoke(workflow=classification_workflow, message=parts, workflow_name="classification")


async def ocr_workflow(page: str) -> str:
    return await invoke(workflow=str.strip, message=page, workflow_name="clean_up")


async def classification_workflow(pages: list[str]) -> str:
    return "invoice" if any("invoice" in page for page in pages) else "letter"


async def nested_processing(text: str) -> str:
    result = await invoke(
        workflow=document_workflow, message=text, workflow_name="document_processing"
    )  # no parent: a root
    context = ObservabilityWorkflowInvoker.get_current_observability_context()
    traces.append(context.trace_id)
    return result


def serialization() -> None:
    """A context travels as JSON: the other process reads it, and its workflows are in this trace."""
    context = ObservabilityContext.create_root_context("sender")
    traces.append(context.trace_id)
    context.add_attribute("customer", "acme")
    text = json.dumps(context.to_dict())
    restored = ObservabilityContext.from_dict(json.loads(text))
    print(f"A context as JSON: {len(text)} bytes, version {context.to_dict()['version']}")
    asyncio.run(invoke(workflow=str.title, message="done", workflow_name="receiver", parent_context=restored))


traces: list[str] = []


def main() -> None:
    print(asyncio.run(sequential_processing({"text": "order 7"})))
    print(asyncio.run(distributed_processing([1, 2, 3])))
    print(asyncio.run(nested_processing("an invoice | page two ")))
    serialization()
    print()
    draw_tree(traces)


if __name__ == "__main__":
    main()
