"""What a network costs and what it still does: rate, divergence, tasks, statistics, memory."""
