"""The ground of every part of a process: threads, turns at them, calls that many callers share."""
