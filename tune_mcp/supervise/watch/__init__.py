"""Watch one pytest from outside: its log, its processes, the disk and the clock; alerts, and reasons to stop it."""
