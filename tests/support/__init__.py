"""Test code that several test modules share."""
