"""An application that is observed: records spans for a while, and delivers them to a search server.

    python -m tests.faults.app URL SECONDS

It prints `ready`, and at its end how many spans it recorded.
"""

import sys
import time

import millstream
from millstream.deliver.delivery import Delivery
from millstream.deliver.elasticsearch import ElasticsearchSink
from millstream.deliver.policy import Policy
from millstream.record import journal_home

A_ROUND = 20


def main():
    url, seconds = sys.argv[1], float(sys.argv[2])
    sink = ElasticsearchSink(endpoint=url, index="spans", timeout=2)
    policy = Policy(batch_size=100, flush_interval_s=0.05, longest_backoff_s=2, shutdown_timeout_s=10)
    Delivery(journal_home(), [("search", sink, policy, ())]).start()
    print("ready", flush=True)  # noqa: T201  # whoever started this reads it
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(A_ROUND):
            with (
                millstream.start_span("outer", input={"question": "x" * 500}),
                millstream.start_span("inner"),
            ):
                count += 2
        time.sleep(0.02)
    print(count, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
