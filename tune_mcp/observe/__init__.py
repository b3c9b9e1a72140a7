"""From result files to a judgement: extract numbers, keep observations, audit them strictly, find the worst."""
