"""Energy models: restricted Boltzmann machines and what is built of them."""
