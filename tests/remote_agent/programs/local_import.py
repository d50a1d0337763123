import sibling
print(sibling.__name__, sibling.__file__, sibling.VALUE)
