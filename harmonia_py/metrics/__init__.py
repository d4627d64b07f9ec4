"""Figures about what is going on, shared by all worker processes: counting them, adding them up, writing them down."""
