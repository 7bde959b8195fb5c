"""The way of a submission to the board: check, submit, review, measure again."""
