"""How NVIDIA's Data Flywheel Blueprint reads records, in our words: what it takes, and as what.

Sources: `src/lib/integration/{es_client,record_exporter,openai_format_validator,data_validator}.py` and
`src/lib/flywheel/util.py` of NVIDIA-AI-Blueprints/data-flywheel.
"""

import json

INDEX = {
    "settings": {
        "mapping": {"total_fields": {"limit": 1000}},
        "index": {"mapping": {"ignore_malformed": True}},
    },
    "mappings": {
        "dynamic": "strict",
        "properties": {
            "workload_id": {"type": "keyword"},
            "client_id": {"type": "keyword"},
            "timestamp": {"type": "date"},
            "request": {"type": "object", "dynamic": False, "properties": {}},
            "response": {"type": "object", "dynamic": False, "properties": {}},
        },
    },
}
"""The index that it makes when it starts and there is none."""
FIELDS = set(INDEX["mappings"]["properties"])


def query(client_id, workload_id, limit=100):
    """What it asks the index for."""
    return {
        "query": {
            "bool": {"must": [{"match": {"client_id": client_id}}, {"match": {"workload_id": workload_id}}]}
        },
        "sort": [{"timestamp": {"order": "desc"}}],
        "size": 2 * limit,
    }


def is_valid(record):
    """Whether it is a record of a chat to it; others are left out in silence."""
    request, response = record.get("request"), record.get("response")
    if not isinstance(request, dict) or not isinstance(response, dict):
        return False
    messages, choices = request.get("messages"), response.get("choices")
    if not isinstance(messages, list) or not messages or not isinstance(choices, list) or not choices:
        return False
    return all(isinstance(choice, dict) and "message" in choice for choice in choices)


def is_tool_calling(records):
    """What kind of work it takes the records for. Of one without choices it must be able to say: no."""
    for record in records:
        try:
            if record["response"]["choices"][0]["message"].get("tool_calls"):
                return True
        except (KeyError, IndexError):
            continue
    return False


def calls_tools(record):
    """Whether it keeps a record where the work is calling tools; the arguments must be JSON."""
    choices = record["response"]["choices"]
    called = [call for choice in choices for call in choice["message"].get("tool_calls") or ()]
    for call in called:
        json.loads(call["function"]["arguments"])
    return bool(called) or any(choice["finish_reason"] == "tool_calls" for choice in choices)


def training_example(record, *, tools):
    """The example that it makes for training."""
    example = {"messages": []}
    for message in record["request"]["messages"]:
        content = message["content"]
        is_null = message["role"] == "assistant" and content is None
        example["messages"].append({**message, "content": "" if is_null else content})
    answer = dict(record["response"]["choices"][0]["message"])
    if tools or answer["content"] is None:
        answer["content"] = ""
    if tools:
        example["tools"] = record["request"]["tools"]
        for tool in example["tools"]:
            tool["function"].get("parameters", {}).get("properties", {})
    example["messages"].append(answer)
    return example
