"""Reading, shaping and sharing out instruction data: the client side of the data flow."""
