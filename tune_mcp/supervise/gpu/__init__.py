"""What a launch asks of GPUs: the gate before it, a lock on each, the host's own cleanup, and what is noted of them."""
