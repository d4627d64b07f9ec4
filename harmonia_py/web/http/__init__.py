"""The way of an answer to the socket: bodies, ranges, codings, transfers, errors as statuses."""
