"""Preference pairs made here: drawn, ranked, filtered, and written in the schema of Pick-a-Pic v2."""
