"""RQ's queue, the jobs that may run on it, and the drain lease."""
