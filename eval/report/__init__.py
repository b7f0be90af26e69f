"""The report of a run: what it found in sentences, its figures, its page and its tables."""
