import random
import secrets
import tempfile
import uuid
print(len({random.random(), secrets.token_hex(), uuid.uuid4()}), len(tempfile.gettempdir()) > 0)
