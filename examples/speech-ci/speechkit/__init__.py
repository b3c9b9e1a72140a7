"""Speech synthesis, recognition and their scores on a CPU, with models that ship inside Python wheels."""
