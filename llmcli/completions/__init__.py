"""Completion scripts: the command tree written out as static shell code, so that a Tab starts no Python."""
