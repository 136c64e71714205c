"""A Celery application whose broker and results are folders."""

import os
from pathlib import Path

from celery import Celery

import millstream

millstream.instrument("celery")
folder = Path(os.environ["CELERY_FOLDER"])
for name in ("broker", "control", "results"):
    (folder / name).mkdir(exist_ok=True)
app = Celery("celery_app", broker="filesystem://", backend=f"file://{folder / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(folder / "broker"),
        "data_folder_out": str(folder / "broker"),
        "control_folder": str(folder / "control"),
    },
    worker_hijack_root_logger=False,
    task_default_retry_delay=0,
)


@app.task
def add(a, b):
    with millstream.start_span("inside"):
        return a + b


@app.task
def forward(n):
    add.delay(n, 1)


@app.task
def fail():
    raise ValueError("not today")


@app.task(bind=True, max_retries=1)
def flaky(self):
    if self.request.retries == 0:
        raise self.retry(exc=ValueError("once"), countdown=0)
    return "done"


@app.task(bind=True)
def by_hand(self):
    """What a program does that is not instrumented."""
    with millstream.extract(self.request.headers), millstream.start_span("by hand"):
        pass
