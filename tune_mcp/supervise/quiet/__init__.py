"""What others use of a lane while it measures: a look, the reading between two looks, the rule, the monitor."""
