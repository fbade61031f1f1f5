"""Semantic Surgery: the concept's direction is taken out of prompts in which it is found."""
