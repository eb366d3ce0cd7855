"""A laboratory that measures where a fine-tuned behaviour leaks."""

__version__ = "0.1.0"
