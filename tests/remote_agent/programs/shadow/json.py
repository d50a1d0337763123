VALUE = "of the project"
