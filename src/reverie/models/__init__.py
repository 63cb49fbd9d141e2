"""One file per system or close kin: nets, then loss, then verbs."""
