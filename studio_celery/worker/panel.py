"""What a worker does when it is told by remote control: `revoke` as Celery does, and experiments are stopped."""

from __future__ import annotations

from typing import Any

from celery.utils.functional import maybe_list
from celery.worker.control import control_command
from celery.worker.control import revoke as revoke_tasks


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]", name="revoke")
def revoke(state: Any, task_id: Any, *args: Any, **kwargs: Any) -> Any:
    """Revoke tasks by id (or list of ids): those that are experiments are stopped, terminate or not."""
    answer = revoke_tasks(state, task_id, *args, **kwargs)
    state.app.control.stop_soon([str(each) for each in maybe_list(task_id) or []])
    return answer
