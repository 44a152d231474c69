"""Closed-form transplanting: members get their weights by regression against the teacher, no gradient step."""
