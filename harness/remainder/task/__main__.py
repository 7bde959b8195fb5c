"""`python -m remainder.task` writes the hash of every task into `tasks/lock.json`."""

from remainder.task.lock import write_lock

print(write_lock())
