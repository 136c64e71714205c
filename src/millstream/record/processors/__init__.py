"""What may be done with every span: plain callables, `Span -> Span | None`, where `None` drops the span.

They are given to `recording(processors=…)`, and then run before anything is written, or to one exporter, and
then run on what is sent there. Ours enter by the entry points that plugins use, `millstream.processors`.
"""
