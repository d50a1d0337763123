error = RuntimeError("with a note")
error.add_note("the note")
raise error
