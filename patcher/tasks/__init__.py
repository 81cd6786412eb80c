# SPDX-License-Identifier: Apache-2.0
"""What a classifier's scores mean: one file a task, registered by name.

``single-label``: one class a row. ``multi-label``: any number of labels a row, each with a score of its own.
"""

from patcher.tasks.multi_label import MULTI_LABEL
from patcher.tasks.single_label import SINGLE_LABEL
from patcher.tasks.task import AUTO, Target, Task, task_names, task_of

__all__ = ["AUTO", "MULTI_LABEL", "SINGLE_LABEL", "Target", "Task", "task_names", "task_of"]
