"""What to show in place of a concept, and what to keep beside it: candidates, their scores, and what an anchor does."""
