"""Is a response right, yes or no: exact checkers, and the interpreter that tries programs."""
