"""The language of the system and the regional site: tokens, keys, records, and everything needed to decide and answer."""

__version__ = "0.1.0"
