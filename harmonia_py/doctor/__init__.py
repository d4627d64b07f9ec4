"""`harmonia-py doctor`: what goes wrong in practice, looked for, and what to do about it. Nothing is changed.

Each module looks at one thing, gathers facts, and judges them by functions from facts to `Finding`s.
"""
