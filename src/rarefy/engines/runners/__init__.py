"""Networks in the engines that run them, each in a process of its own: `worker` is that process, a file an engine."""
