"""Issuers of identities by OpenID Connect: their keys, the tokens that these sign, and the principals of those.

Only what `[oidc.NAME]` configures imports this package: it needs PyJWT and cryptography.
"""
