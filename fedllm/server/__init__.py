"""The server's half of a round: who takes part, and what their updates become."""
