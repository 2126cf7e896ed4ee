"""Methods compared: an equal search of hyperparameters for each, then paired seeds, then verdicts."""
