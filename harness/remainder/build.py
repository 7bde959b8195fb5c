"""What the script of a task imports: its text is hashed into the task, so this name stays.

See `remainder.task.script`.
"""

from remainder.task.script import Built, BuiltCircuit, Examples, load_script

__all__ = ["Built", "BuiltCircuit", "Examples", "load_script"]
