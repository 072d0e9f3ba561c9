"""What kinds of bundle there are: one file a kind, which says what its networks take and give."""
