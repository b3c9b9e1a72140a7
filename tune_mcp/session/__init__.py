"""One calibration session: its plan, the commit it belongs to, and what a reader may conclude about its state."""
