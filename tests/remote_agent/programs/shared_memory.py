from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=16)
memory.buf[0] = 7
print(memory.buf[0])
memory.close()
memory.unlink()
