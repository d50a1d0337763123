print("bom")
print("crlf")
