import sys
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering,
          stream.write_through, stream.newlines, stream.isatty(), stream.closed, stream.fileno())
    print(stream.buffer.name, stream.buffer.mode, type(stream.buffer), sys.getsizeof(stream.buffer))
print(sys.stdout is sys.__stdout__, sys.stdin is sys.__stdin__)
