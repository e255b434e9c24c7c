"""Tastemaker's web process and everything that it shares with the worker."""

__version__ = "0.1.0"
