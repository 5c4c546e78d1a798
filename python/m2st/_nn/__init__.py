"""The network (paper, part A): edges, attention, autoencoder, parts of a large graph, training."""
