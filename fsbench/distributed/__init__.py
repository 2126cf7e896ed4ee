"""One run on several devices: a process each, joined by torch.distributed."""
