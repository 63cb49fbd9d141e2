"""How models learn: phases, one loop, and the run directory that remembers it."""
