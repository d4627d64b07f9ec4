"""Attic, another binary cache: the tokens that its `atticadm` makes, and what its server keeps.

Source: https://github.com/zhaofengli/attic, crates `token` and `server`.
"""
