"""Celery: each run of a task is a span, in the trace of whoever sent it.

By its public signals. The trace travels in the message's headers.
"""

from typing import Any, Final

from celery import signals
from celery.states import EXCEPTION_STATES

from millstream import context
from millstream.record.integrations.observed import Observed, begin, quietly
from millstream.span import SpanKind

_RUN: Final = "_millstream_run"
"""On the request of a task that runs, which lives as long: its span, and the block in its sender's span."""
_STATE: Final = "celery.state"
_running: Final[set[int]] = set()


def install() -> None:
    """Record every task that is sent or run in this process."""
    signals.before_task_publish.connect(_send, weak=False, dispatch_uid=_RUN)
    signals.task_prerun.connect(_begin, weak=False, dispatch_uid=_RUN)
    signals.task_postrun.connect(_end, weak=False, dispatch_uid=_RUN)


def uninstall() -> None:
    """Let go of the signals; tasks that run are recorded to their end."""
    signals.before_task_publish.disconnect(dispatch_uid=_RUN)
    signals.task_prerun.disconnect(dispatch_uid=_RUN)
    if not _running:
        signals.task_postrun.disconnect(dispatch_uid=_RUN)


@quietly
def _send(headers: dict[str, Any] | None = None, **_more: Any) -> None:
    if headers is not None:
        context.inject(headers)


@quietly
def _begin(task: Any, task_id: str, args: Any = (), kwargs: Any = None, **_more: Any) -> None:
    request = task.request
    told = None if request.is_eager else {**vars(request), **(request.headers or {})}
    block = context.extract(told)
    block.__enter__()
    attributes = {"celery.task_name": task.name, "messaging.message.id": task_id}
    content = {"args": list(args or ()), "kwargs": dict(kwargs or {})}
    step = begin(SpanKind.TASK, task.name, content, framework="celery", attributes=attributes)
    step.__enter__()
    setattr(request, _RUN, (step, block))
    _running.add(id(request))


@quietly
def _end(task: Any, retval: Any = None, state: str | None = None, **_more: Any) -> None:
    run: tuple[Observed, Any] | None = vars(task.request).pop(_RUN, None)
    if run is None:
        return
    step, block = run
    error = retval if state in EXCEPTION_STATES and isinstance(retval, BaseException) else None
    if error is None:
        step.answer(retval)
    step.know({_STATE: state})
    step.__exit__(None, error, None)
    block.__exit__(None, None, None)
    _running.discard(id(task.request))
