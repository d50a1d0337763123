"""The command line: verbs, the config file, exit codes. Owns no connection and draws no screen."""
