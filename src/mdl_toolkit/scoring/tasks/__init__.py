"""One file a task: what makes an answer right, and which scores follow from that."""
