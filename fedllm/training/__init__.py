"""Local training: the base model, prompts and loss masks, one client's round."""
