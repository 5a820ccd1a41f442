"""The language of the system and the regional site: tokens, keys, records, all that decides and answers."""

__version__ = "0.1.0"
