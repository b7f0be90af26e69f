"""Whether the same prompt gives the same answer, whatever should not matter."""
