"""From worst-of-N to the threshold files: a plan to read, literals to replace, a transaction to write them."""
