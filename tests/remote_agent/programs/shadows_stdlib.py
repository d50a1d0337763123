import queue
print(queue.__file__, queue.Queue)
