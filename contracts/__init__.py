"""The language that all jetcrew processes share: messages, ids, subjects, codec and the bus."""

__version__ = "0.1.0"
