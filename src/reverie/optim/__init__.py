"""What models need of training: phases, stages, optimisers."""
