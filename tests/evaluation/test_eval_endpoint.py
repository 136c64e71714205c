"""`--endpoint`: a workflow that is served elsewhere, over real HTTP, good and bad."""

import json
import re

import pytest
import yaml

from tests.scripted_server import Answer, completion, refusal, scripted

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain; charset=utf-8"}


@pytest.fixture
def served(runs):
    """Writes config.yml without a section `workflow`, and data.csv."""

    def served(*questions, **general):
        content = {
            "eval": {
                "general": {
                    "output_dir": "out",
                    "max_concurrency": 4,
                    "dataset": {"_type": "csv", "file_path": "data.csv"},
                    **general,
                },
                "evaluators": {"right": {"_type": "exact_match"}},
            }
        }
        (runs.folder / "config.yml").write_text(yaml.safe_dump(content))
        runs.data(*((f"q{number}", text, text.upper()) for number, text in enumerate(questions)))

    return served


def echo(asked):
    return Answer(200, asked.body["input_message"].upper().encode(), TEXT)


def test_a_chat_is_asked_as_openai_is(runs, served):
    def script(asked):
        return completion(asked, asked.body["messages"][-1]["content"].upper())

    served("one", "two", endpoint={"model": "theirs", "headers": {"Authorization": "Bearer the-secret"}})
    with scripted(script) as server:
        done = runs.run("--endpoint", server.url)
        assert done.returncode == 0, done.stderr
        assert {one.path for one in server.asked} == {"/v1/chat/completions"}
        assert {one.body["model"] for one in server.asked} == {"theirs"}
        assert {one.headers["authorization"] for one in server.asked} == {"Bearer the-secret"}
        runs.run("--endpoint", f"{server.url}/chat/completions")
        assert {one.path for one in server.asked} == {"/v1/chat/completions"}
        assert runs.json("config_metadata.json")["endpoint"] == f"{server.url}/chat/completions"
    assert runs.json("right_output.json")["average_score"] == 1
    assert "the-secret" not in (runs.out / "config_effective.yml").read_text()


def test_each_item_is_a_workflow_span_that_the_server_is_told(runs, served):
    served("one", "two")
    with scripted(echo) as server:
        done = runs.run("--endpoint", f"{server.url}/generate", "--reps", "2")
    assert done.returncode == 0, done.stderr
    rows = runs.json("workflow_output.json")
    told = {
        re.fullmatch(r"00-(\w{32})-(\w{16})-01", one.headers["traceparent"])[1]: one for one in server.asked
    }
    assert {row["trace_id"]: row["question"] for row in rows} == {
        trace_id: one.body["input_message"] for trace_id, one in told.items()
    }
    requests = runs.json("all_requests_profiler_traces.json")
    kinds = [step["payload"]["event_type"] for one in requests for step in one["intermediate_steps"]]
    assert sorted(kinds) == ["WORKFLOW_END"] * 4 + ["WORKFLOW_START"] * 4
    assert {row["usage"]["llm_calls"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (Answer(200, b'{"value": "ONE"}', JSON), "ONE"),
        (Answer(200, b'"ONE"', JSON), "ONE"),
        (Answer(200, b'{"a": 1, "value": 2}', JSON), {"a": 1, "value": 2}),
        (Answer(200, "ÖNE".encode(), TEXT), "ÖNE"),
    ],
)
def test_json_or_text_comes_back(runs, served, answer, kept):
    served("one")
    with scripted(lambda _: answer) as server:
        runs.run("--endpoint", f"{server.url}/generate")
    (row,) = runs.json("workflow_output.json")
    assert row["generated_answer"] == kept
    assert row["error"] is None


def test_failed_items_are_asked_again_there_and_no_others(runs, served):
    broken = {"two": refusal(400, "no such thing")}
    served("one", "two", "three")
    with scripted(lambda asked: broken.get(asked.body["input_message"]) or echo(asked)) as server:
        here = ("--endpoint", f"{server.url}/generate")
        assert runs.run(*here).returncode == 3
        assert runs.run(*here, "--resume").returncode == 3
        assert len(server.asked) == 3
        elsewhere = runs.run("--resume", "--retry-failed")
        assert elsewhere.returncode == 2
        assert "--endpoint" in elsewhere.stderr
        broken.clear()
        assert runs.run(*here, "--resume", "--retry-failed").returncode == 0
        assert [one.body["input_message"] for one in server.asked[3:]] == ["two"]
    rows = runs.json("workflow_output.json")
    assert [(row["id"], row["generated_answer"], row["error"]) for row in rows] == [
        ("q0", "ONE", None),
        ("q1", "TWO", None),
        ("q2", "THREE", None),
    ]


def test_what_goes_wrong_is_the_item_s_failure(runs, served):
    bad = {
        "malformed": Answer(200, b'{"value": ', JSON),
        "latin": Answer(200, b"\xff\xfe", TEXT),
        "wrong": refusal(400, "no such thing"),
        "gone": refusal(404, "not here"),
        "slow": Answer(200, b"late", TEXT, delay_s=3),
        "cut": Answer(200, b"half", TEXT, breaks=True),
    }

    def script(asked):
        return bad.get(asked.body["input_message"]) or echo(asked)

    served("fine", *bad, endpoint={"timeout_s": 1, "max_retries": 1})
    with scripted(script) as server:
        done = runs.run("--endpoint", f"{server.url}/generate")
        url = f"{server.url}/generate"
        tries = [one.body["input_message"] for one in server.asked]
    assert done.returncode == 3
    found = {row["question"]: row["error"] for row in runs.json("workflow_output.json")}
    assert found.pop("fine") is None
    assert {error["type"] for error in found.values()} == {"WorkflowError"}
    said = {question: error["message"] for question, error in found.items()}
    assert said["malformed"].startswith(f"{url} answered what cannot be read: ")
    assert said["latin"].startswith(f"{url} answered what cannot be read: ")
    assert said["wrong"].startswith(f"{url} answered 400: ")
    assert said["gone"].startswith(f"{url} answered 404: ")
    assert said["slow"].startswith(f"{url} did not answer within 1 s; raise eval.general.endpoint.timeout_s")
    assert said["cut"].startswith(f"the connection to {url} broke: ")
    assert said["cut"].endswith("(asked 2 times)")
    assert {question: tries.count(question) for question in bad} == {**dict.fromkeys(bad, 1), "cut": 2}


def test_what_passes_is_asked_again(runs, served):
    questions = [f"question {number}" for number in range(40)]
    seen = set()

    def script(asked):
        question = asked.body["input_message"]
        if question in seen:
            return echo(asked)
        seen.add(question)
        number = int(question.split()[1])
        return [refusal(429, retry_after_ms="60"), refusal(500), refusal(503), echo(asked)][number % 4]

    served(*questions)
    with scripted(script) as server:
        done = runs.run("--endpoint", f"{server.url}/generate")
        assert len(server.asked) == 70
    assert done.returncode == 0, done.stderr
    assert runs.json("right_output.json")["average_score"] == 1


def test_an_answer_of_5_mb(runs, served):
    served("big")
    with scripted(lambda _: Answer(200, b"x" * 5_000_000, TEXT)) as server:
        done = runs.run("--endpoint", f"{server.url}/generate")
    assert done.returncode == 0, done.stderr
    (row,) = runs.json("workflow_output.json")
    assert row["generated_answer"] == "x" * 5_000_000


def test_a_server_that_is_down_is_one_message(runs, served):
    served(*(f"question {number}" for number in range(10)))
    with scripted(echo) as server:
        pass
    done = runs.run("--endpoint", f"{server.url}/generate")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert f"All of the first 4 items failed: nothing answers at {server.url}/generate" in done.stderr
    assert "correct --endpoint" in done.stderr
    assert not runs.results()


def test_a_server_that_refuses_the_credentials_is_one_message(runs, served):
    served(*(f"question {number}" for number in range(10)))
    with scripted(lambda _: refusal(401, "who are you")) as server:
        done = runs.run("--endpoint", f"{server.url}/generate")
    assert done.returncode == 4
    assert "answered 401" in done.stderr
    assert "eval.general.endpoint.headers.Authorization" in done.stderr


def test_endpoints_are_not_mixed_on_resume(runs, served):
    served("one", "two")
    with scripted(echo) as server, scripted(echo) as other:
        assert runs.run("--endpoint", f"{server.url}/generate").returncode == 0
        for arguments in (("--endpoint", f"{other.url}/generate"), ()):
            done = runs.run("--resume", *arguments)
            assert done.returncode == 2
            assert f"are of {server.url}/generate, not of" in done.stderr
        assert runs.run("--resume", "--endpoint", f"{server.url}/generate").returncode == 0
        assert len(server.asked) == 2
        assert not other.asked


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "is not an http:// or https:// address"),
        ("ftp://host/x", "is not an http:// or https:// address"),
        ("http://user:pass@host/x", "holds a user or password"),
    ],
)
def test_a_url_that_is_none_is_said_at_once(runs, served, url, words):
    served("one")
    done = runs.run("--endpoint", url)
    assert done.returncode == 2
    assert words in done.stderr
    assert "pass@" not in done.stderr


def test_it_does_not_go_with_skip_workflow(runs, served):
    served("one")
    done = runs.run("--endpoint", "http://127.0.0.1:1/x", "--skip_workflow")
    assert done.returncode == 2
    assert "--skip_workflow asks nobody: it does not go with --endpoint" in done.stderr


def test_several_turns_are_a_chat_s_messages(runs, served):
    served("x")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (runs.folder / "data.json").write_text(json.dumps([{"id": "a", "question": turns, "answer": "YES"}]))
    with scripted(lambda asked: completion(asked, "YES")) as server:
        done = runs.run("--endpoint", server.url, "--dataset", "data.json")
        assert server.asked[0].body["messages"] == turns
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "question", [["a", "b"], [{"text": "a"}], [{"role": "user", "content": "a"}, "b"], []]
)
def test_a_list_that_is_no_messages_is_the_text_of_one(runs, served, question):
    served("x")
    (runs.folder / "data.json").write_text(json.dumps([{"id": "a", "question": question, "answer": "YES"}]))
    with scripted(lambda asked: completion(asked, "YES")) as server:
        runs.run("--endpoint", server.url, "--dataset", "data.json")
        messages = server.asked[0].body["messages"]
    assert [message["role"] for message in messages] == ["user"]
    assert json.loads(messages[0]["content"]) == question


def test_messages_may_lack_content_as_calls_of_tools_do(runs, served):
    served("x")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    (runs.folder / "data.json").write_text(json.dumps([{"id": "a", "question": turns, "answer": "YES"}]))
    with scripted(lambda asked: completion(asked, "YES")) as server:
        runs.run("--endpoint", server.url, "--dataset", "data.json")
        assert server.asked[0].body["messages"] == turns


def test_a_key_in_the_url_is_sent_and_never_written(runs, served):
    def script(asked):
        return refusal(400) if "two" in str(asked.body) else echo(asked)

    served("one", "two")
    with scripted(script) as server:
        url = f"{server.url}/generate"
        done = runs.run("--endpoint", f"{url}?api_key=SECRET&user=7")
        assert done.returncode == 3, done.stderr
        assert {one.path for one in server.asked} == {"/v1/generate?api_key=SECRET&user=7"}
        assert "user=7 answered 400" in done.stdout
        again = runs.run("--endpoint", f"{url}?api_key=NEWSECRET&user=7", "--resume")
        assert again.returncode == 3, again.stderr
        other = runs.run("--endpoint", f"{url}?api_key=SECRET&user=8", "--resume")
        assert other.returncode == 2
    for text in (done, again, other):
        assert "SECRET" not in text.stdout + text.stderr
    assert not [path for path in runs.folder.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]


def test_scoring_anew_does_not_forget_whose_answers_they_are(runs, served):
    served("one", "two")
    with scripted(echo) as server:
        url = f"{server.url}/generate"
        assert runs.run("--endpoint", url, "--reps", "2").returncode == 0
        assert runs.run("--skip_workflow").returncode == 0
        metadata = runs.json("config_metadata.json")
        assert (metadata["endpoint"], metadata["reps"], metadata["skip_workflow"]) == (url, 2, True)
        done = runs.run("--endpoint", url, "--reps", "2", "--resume")
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 4
