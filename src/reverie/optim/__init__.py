"""The training interface of models: phases, stages, optimisers."""
