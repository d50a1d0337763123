import logging
logging.warning("to stderr")
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
logging.getLogger("here").info("formatted")
