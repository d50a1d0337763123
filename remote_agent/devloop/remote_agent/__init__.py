"""The box half: workspaces, runs, their processes and logs. Knows nothing of the laptop half."""
