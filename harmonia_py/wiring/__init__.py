"""The composition: how a configuration becomes objects that work together. No other package knows all of them."""
