"""Scorers: a batch of pictures and prompts in, one float each out."""
