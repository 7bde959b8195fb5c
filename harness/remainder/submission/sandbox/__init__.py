"""The process that runs the code of a submission, what it may do, and the words that go to and fro."""
