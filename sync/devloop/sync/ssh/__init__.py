"""Reaching a box over SSH: what `ssh HOST` would do, as one authenticated connection (`Link`).

Owns the resolving of a host, host keys, authentication, and the processes or threads that carry
bytes. Refuses to know what is spoken over them: `link.py` is all that the rest of `sync` sees,
`connect.py` the one way to get such a thing.
"""
