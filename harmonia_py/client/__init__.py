"""The push client: paths that a machine has and a cache lacks are sent, published, and seen to be served."""
