"""Data sets that the trainers ship with."""
