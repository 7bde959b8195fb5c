"""The names that scripts of tasks import; since scripts are hashed into their tasks, this module stays.

See `remainder.task.script`.
"""

from remainder.task.script import Built, BuiltCircuit, Examples, load_script

__all__ = ["Built", "BuiltCircuit", "Examples", "load_script"]
