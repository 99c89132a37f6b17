"""Surfaces fitted to trials: numbers in, numbers out, for guidelines and for searches alike."""
