"""Made-up runs: agents with LLM calls, tools and nested functions, some of it failing."""

import random
from collections.abc import Iterator

from millstream import semconv
from millstream.span import Span, SpanError, SpanEvent, SpanKind, Status, Usage

EPOCH_NS = 1_800_000_000_000_000_000
MODELS = (
    ("meta-llama-3.1-8b-instruct", 0.35),
    ("meta-llama-3.1-70b-instruct", 0.9),
    ("mixtral-8x22b-instruct", 1.6),
)
WORDS = [
    "please",
    "verify",
    "your",
    "account",
    "invoice",
    "attached",
    "meeting",
    "tomorrow",
    "security",
    "password",
    "reset",
    "link",
    "urgent",
    "team",
    "lunch",
    "report",
    "quarter",
    "budget",
    "click",
    "here",
    "confirm",
    "identity",
    "delivery",
    "parcel",
    "customs",
    "fee",
]


class Ids:
    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> str:
        self.last += 1
        return f"{self.last:016x}"


def span(
    span_id: str,
    start_ns: int,
    end_ns: int | None,
    parent_id: str | None = None,
    *,
    name: str = "f",
    kind: SpanKind = SpanKind.FUNCTION,
    trace_id: str = "t",
    **fields,
) -> Span:
    """A span by hand."""
    status = fields.pop("status", None if end_ns is None else Status.OK)
    return Span(trace_id, span_id, parent_id, name, kind, start_ns, end_ns, status, **fields)


def runs(requests: int, seed: int = 0, concurrency: int = 8, steps: int = 4) -> Iterator[Span]:
    """Spans of `requests` requests of about 4 + 4 * `steps` spans each, `concurrency` of them at a time."""
    rng = random.Random(seed)  # noqa: S311  # made-up data, not secrets
    ids = Ids()
    workers = [EPOCH_NS + worker * 40_000_000 for worker in range(concurrency)]
    for number in range(requests):
        worker = min(range(concurrency), key=workers.__getitem__)
        request = _Request(rng, ids, f"{rng.getrandbits(128):032x}", number)
        spans = request.run(workers[worker], steps)
        workers[worker] = max(s.end_ns or s.start_ns for s in spans) + int(rng.uniform(0.01, 0.2) * 1e9)
        yield from spans


class _Request:
    def __init__(self, rng: random.Random, ids: Ids, trace_id: str, number: int) -> None:
        self.rng, self.ids, self.trace_id, self.number = rng, ids, trace_id, number
        self.model, self.pace = MODELS[number % len(MODELS)]
        self.body = " ".join(rng.choices(WORDS, k=rng.randint(30, 120)))
        self.spans: list[Span] = []

    def run(self, start_ns: int, steps: int) -> list[Span]:
        root = self.ids()
        self.spans = []
        now = start_ns + 2_000_000
        fails = self.rng.random() < 0.05
        hangs = not fails and self.rng.random() < 0.01
        for step in range(steps):
            now = self.llm(root, now, "phishing_agent", step)
            now = self.tool(root, now, broken=fails and step == steps - 1)
        if not fails:
            now = self.llm(root, now, "phishing_agent", steps)
        error = SpanError("ToolError", "the scanner did not answer") if fails else None
        top = Span(
            self.trace_id,
            root,
            None,
            "phishing_agent",
            SpanKind.WORKFLOW,
            start_ns,
            None if hangs else now + 1_000_000,
            Status.INTERRUPTED if hangs else Status.ERROR if fails else Status.OK,
            error,
            {"message": self.body},
            None if fails or hangs else "phishing: yes",
            workload_id="phishing_agent",
        )
        self.spans.append(top)
        return self.spans

    def llm(self, parent: str, start_ns: int, scope: str, step: int) -> int:
        prompt, completion = 180 + 60 * step + len(self.body) // 4, self.rng.randint(15, 160)
        first_s = self.pace * self.rng.lognormvariate(-1.6, 0.4)
        took_s = first_s + completion * self.pace * 0.012 * self.rng.lognormvariate(0, 0.2)
        known = self.rng.random() > 0.03
        end_ns = start_ns + int(took_s * 1e9)
        messages = [{"role": "system", "content": "Judge emails."}, {"role": "user", "content": self.body}]
        usage = Usage(prompt, completion, prompt // 2 if step else 0, 0 if step % 2 else completion // 3)
        self.spans.append(
            Span(
                self.trace_id,
                self.ids(),
                parent,
                self.model,
                SpanKind.LLM,
                start_ns,
                end_ns,
                Status.OK,
                None,
                messages,
                {"role": "assistant", "content": " ".join(self.rng.choices(WORDS, k=completion // 2))},
                usage if known else None,
                scope,
                {
                    semconv.REQUEST_MODEL: self.model,
                    semconv.PROVIDER_NAME: "openai",
                    semconv.TIME_TO_FIRST_CHUNK_S: first_s,
                    semconv.CHUNK_COUNT: completion,
                    semconv.FRAMEWORK: "langchain",
                    semconv.REQUEST_TEMPERATURE: 0.0,
                },
                [SpanEvent("first_chunk", start_ns + int(first_s * 1e9))],
            )
        )
        return end_ns + int(self.rng.uniform(0.5, 6) * 1e6)

    def tool(self, parent: str, start_ns: int, *, broken: bool) -> int:
        """A TOOL span around the registered function, which asks a model and two look-ups side by side."""
        tool, function = self.ids(), self.ids()
        inside = start_ns + 1_500_000
        ends = [self.llm(function, inside, "email_phishing_analyzer", 0)]
        for _ in range(2):
            took_ns = int(self.rng.lognormvariate(-1.5, 0.6) * 1e9)
            began = inside + int(self.rng.uniform(0, 0.05) * 1e9)
            ends.append(began + took_ns)
            self.spans.append(
                Span(
                    self.trace_id,
                    self.ids(),
                    function,
                    "lookup_sender",
                    SpanKind.TOOL,
                    began,
                    began + took_ns,
                    Status.OK,
                    None,
                    {"domain": "example.org"},
                    {"reputation": self.rng.random()},
                )
            )
        end_ns = max(ends) + 1_000_000
        status = Status.ERROR if broken else Status.OK
        error = SpanError("TimeoutError", "the scanner did not answer in 30 s") if broken else None
        self.spans.append(
            Span(
                self.trace_id,
                function,
                tool,
                "email_phishing_analyzer",
                SpanKind.FUNCTION,
                start_ns + 500_000,
                end_ns,
                status,
                error,
                {"text": self.body},
                None if broken else {"is_likely_phishing": True},
                workload_id="email_phishing_analyzer",
            )
        )
        self.spans.append(
            Span(
                self.trace_id,
                tool,
                parent,
                "email_phishing_analyzer",
                SpanKind.TOOL,
                start_ns,
                end_ns + 400_000,
                status,
                error,
                {"text": self.body},
                None if broken else '{"is_likely_phishing": true}',
                workload_id="phishing_agent",
            )
        )
        return end_ns + 1_000_000


def small_forests(max_spans: int = 9, horizon: int = 12, *, open_spans: bool = True):
    """A hypothesis strategy: one trace of few spans on whole nanoseconds, parents anywhere before them."""
    from hypothesis import strategies as st

    kinds = st.sampled_from([SpanKind.LLM, SpanKind.TOOL, SpanKind.FUNCTION])

    @st.composite
    def forest(draw):
        spans = []
        for number in range(draw(st.integers(1, max_spans))):
            parent = draw(st.integers(0, number - 1)) if number and draw(st.integers(0, 9)) else None
            start = draw(st.integers(0, horizon))
            end = draw(st.integers(start, horizon))
            still_open = open_spans and draw(st.integers(0, 9)) == 9
            spans.append(
                span(
                    f"{number:016x}",
                    start,
                    None if still_open else end,
                    None if parent is None else f"{parent:016x}",
                    kind=draw(kinds),
                    name=draw(st.sampled_from("abc")),
                )
            )
        return spans

    return forest()
