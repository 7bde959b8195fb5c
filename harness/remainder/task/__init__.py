"""Tasks as data: the file of a task, its script, its text and its prompts."""
