"""Programs to be recorded, and `millstream record` around them."""

import subprocess
import sys
import textwrap
from pathlib import Path

RECORD = [sys.executable, "-m", "millstream", "record"]
RULES = r"""
models:
  able: {latency: {time_to_first_token_s: 0.05}}
  slow: {latency: {time_to_first_token_s: 60}}
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
default: "one two three"
"""
ASK = """
import sys
import openai

for question in sys.argv[1:]:
    messages = [{"role": "user", "content": question}]
    answer = openai.OpenAI(max_retries=0).chat.completions.create(model="able", messages=messages)
    print(answer.choices[0].message.content)
"""
STEPS = """
import millstream

for number in range(3):
    with millstream.start_span("step", kind=millstream.SpanKind.TOOL):
        pass
"""


def write(name, text):
    Path(name).write_text(textwrap.dedent(text))
    return name


def record(*command, options=(), **settings):
    settings = {"capture_output": True, "text": True, "timeout": 120, **settings}
    return subprocess.run([*RECORD, *options, "--", *command], check=False, **settings)


def last_line(result):
    return result.stderr.splitlines()[-1]
