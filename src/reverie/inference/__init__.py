"""Open a trained run and call its verbs: samples, streams, conditions, named references."""
