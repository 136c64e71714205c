"""What recording costs: millstream beside the OpenTelemetry SDK and beside what others build on it.

    make bench-recording

Every figure is of a process of its own, the processes in turn and each round in another order, so that a busy
machine burdens all alike; ratios are taken within a round. A process traces one small function by the SDK's
own decorator, or by the span that its documentation shows where there is none, sends to an address on this
machine that takes everything, and can reach no other.
"""
